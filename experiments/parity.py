"""Every backend of a GPU against the float64 reference, at each precision and batch size; prints Markdown.

LENET_DATA=... python experiments/parity.py pytorch pytorch-compile pytorch-cudagraph > docs/results/parity-h100.md

Precisions and input types among the arguments narrow it to those.
"""

from __future__ import annotations

import sys
import time
from itertools import product

import torch

from lenet import backends, devices, weights
from lenet.comparison import compare_backends, reference_of
from lenet.data import cifar10
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


def main() -> int:
    precisions = [precision for precision in Precision if precision in sys.argv] or list(Precision)
    input_types = [input_type for input_type in InputType if input_type in sys.argv] or list(InputType)
    names = [name for name in sys.argv[1:] if name not in {*precisions, *input_types}] or list(backends.names())
    device = devices.resolve("cuda")
    split = cifar10.load("test", cifar10.default_directory(None))
    arrays = weights.load().arrays
    packages = ", ".join(f"{name} {version}" for name, version in versions(("torch", "triton", "numpy")).items())
    print(f"# Parity on {devices.describe(device)}\n")
    print(f"{len(split):,} test images, shipped weights; {packages}; commit {source_commit()}.")
    print(
        "Made by `experiments/parity.py`. Deltas of loss and accuracy are against `pytorch` at the same precision and"
    )
    print("batch; logits against float64, and as a share of the tolerance that `lenet/parity.py` derives.\n")
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}")
    right = True
    references = {input_type: reference_of(arrays, split.images, input_type) for input_type in input_types}
    for input_type, precision, batch_size in product(input_types, precisions, BATCH_SIZES):
        started = time.perf_counter()
        done, missing = compare_backends(
            [name for name in names if runs(name, precision, device)],
            arrays,
            split,
            device=device,
            precision=precision,
            batch_size=batch_size,
            input_type=input_type,
            reference=references[input_type],
        )
        for line in done:
            deltas = ["-" if d is None else f"{d:.1e}" for d in (line.delta_loss, line.delta_accuracy)]
            cells = [line.backend, input_type, precision, line.precision, f"{batch_size:,}", f"{line.loss:.7f}"]
            cells += [
                f"{line.accuracy:.4f}",
                *deltas,
                f"{line.max_abs_delta:.1e}",
                f"{line.share_of_tolerance:.2f}",
            ]
            cells += [f"{line.top1_agreement:.4f}", "yes" if line.right else f"NO: {line.diverging_layer}"]
            print(f"| {' | '.join(cells)} |", flush=True)
            right &= line.right
        for gap in missing:
            print(f"| {gap.backend} | {input_type} | {precision} | | {batch_size:,} | {gap.reason} |", flush=True)
            right = False
        print(
            f"{input_type} {precision} {batch_size}: {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True
        )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
