"""Every backend against the float64 reference, at each precision and batch size; prints Markdown.

``LENET_DATA=... python experiments/parity.py pytorch pytorch-compile pytorch-cudagraph > docs/results/parity-h100.md``

Precisions and input types among the arguments select them. The exit status is 1 if a backend is wrong or fails.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from itertools import product

import torch

from common import TEST_IMAGES, add_image_options, head, row, test_images
from lenet import backends, devices, weights
from lenet.comparison import Agreement, compare_backends, reference_of
from lenet.data.cifar10 import Split
from lenet.errors import BackendError
from lenet.provenance import source_commit, versions
from lenet.vocabulary import InputType, Precision

BATCH_SIZES = (1, 200, 1000, 10_000)
HEADINGS = (
    "backend",
    "input",
    "asked",
    "runs",
    "batch",
    "loss",
    "accuracy",
    "delta loss",
    "delta accuracy",
    "max delta logit",
    "of tolerance",
    "top-1 agreement",
    "right",
)


def runs(name: str, precision: Precision, device: torch.device) -> bool:
    """Whether a backend is made for a precision at all."""
    try:
        backends.load(name).executed_precision(precision, device)
    except BackendError:
        return False
    return True


def cells_of(line: Agreement) -> list[str]:
    """A backend's result, as the columns from `loss` on."""
    deltas = ["-" if d is None else f"{d:.1e}" for d in (line.delta_loss, line.delta_accuracy)]
    logits = [f"{line.max_abs_delta:.1e}", f"{line.share_of_tolerance:.2f}", f"{line.top1_agreement:.4f}"]
    right = "yes" if line.right else f"NO: {line.diverging_layer}"
    return [f"{line.loss:.7f}", f"{line.accuracy:.4f}", *deltas, *logits, right]


def print_title(split: Split, device: torch.device) -> None:
    packages = ", ".join(f"{name} {version}" for name, version in versions(("torch", "triton", "numpy")).items())
    print(f"# Parity on {devices.describe(device)}\n")
    print(f"{len(split):,} test images, shipped weights; {packages}; commit {source_commit()}.")
    print(
        "Made by `experiments/parity.py`. Deltas of loss and accuracy are against `pytorch` at the same precision and"
    )
    print("batch; logits against float64, and as a share of the tolerance that `lenet/parity` derives.")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("words", nargs="*", help="backends, precisions and input types; all of a kind without one")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--batch-size", type=int, action="append", help=f"default: {BATCH_SIZES}")
    add_image_options(parser, TEST_IMAGES)
    option = parser.parse_args(arguments)
    precisions = [precision for precision in Precision if precision in option.words] or list(Precision)
    input_types = [input_type for input_type in InputType if input_type in option.words] or list(InputType)
    names = [name for name in option.words if name not in {*precisions, *input_types}] or list(backends.names())
    device, split, arrays = devices.resolve(option.device), test_images(option), weights.load().arrays
    print_title(split, device)
    head(*HEADINGS)
    right = True
    references = {input_type: reference_of(arrays, split.images, input_type) for input_type in input_types}
    for input_type, precision, size in product(input_types, precisions, option.batch_size or BATCH_SIZES):
        started = time.perf_counter()
        done, missing = compare_backends(
            [name for name in names if runs(name, precision, device)],
            arrays,
            split,
            device=device,
            precision=precision,
            batch_size=size,
            input_type=input_type,
            reference=references[input_type],
        )
        for line in done:
            row(line.backend, input_type, precision, line.precision, f"{size:,}", *cells_of(line))
        for gap in missing:
            row(gap.backend, input_type, precision, "", f"{size:,}", gap.reason)
        right &= not missing and all(line.right for line in done)
        print(f"{input_type} {precision} {size}: {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
