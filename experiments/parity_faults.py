"""Which wrong runtimes parity finds: faults of arithmetic and of indices, emulated in float64; prints Markdown.

``LENET_DATA=... python experiments/parity_faults.py > docs/results/parity-faults.md``

Precisions as arguments select them. With ``--rows-only`` several processes can share the work.

The table compares two checks. "Largest alone" bounds each logit. "All bounds" is `lenet.parity.Reference.compare`. A
fault is emulated together with the roundings of the precision's first arithmetic.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import unfold

from common import add_image_options, head, row, test_images
from lenet import parity, weights
from lenet.architecture import LAYERS, Conv2d, Layer
from lenet.data.augmentation import normalize
from lenet.float64 import affine, apply, parameters_of
from lenet.models.byte_input import fold_normalization
from lenet.parity.network import EXACT, Arithmetic, Round, variants
from lenet.provenance import source_commit
from lenet.weights import Arrays

NAMES = [layer.name for layer in LAYERS if layer.parameter_shapes()]
COARSER = {"fp32": "tf32", "tf32": "bf16", "fp16": "bf16"}
CHECKS = ("1 image, largest alone", "32 images, all bounds", "all images, largest alone", "all images, all bounds")
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
DROPPED = 10
MIXES = 10
MANY = 1000
"""Images, unless the command names another number."""
_IMAGES_AT_ONCE = 100


@dataclass(frozen=True)
class Emulation:
    """A network that rounds where it is told to. Its sums are exact, except those that ``accumulator`` rounds.

    Attributes:
        arrays: Weights by parameter name; for bytes, with the normalisation in them.
        default: The arithmetic of every layer.
        of_layer: Other arithmetic, by the layer's name.
        accumulator: How a sum is rounded, and after how many products, by the layer's name.
    """

    arrays: Mapping[str, np.ndarray]
    default: Arithmetic
    of_layer: Mapping[str, Arithmetic] = field(default_factory=dict)
    accumulator: Mapping[str, tuple[Round, int]] = field(default_factory=dict)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """float64 logits (N, 10) of images (N, 3, 32, 32)."""
        with torch.inference_mode():
            return torch.cat([self._logits(chunk.double()) for chunk in images.split(_IMAGES_AT_ONCE)])

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        for layer in LAYERS:
            parameters = parameters_of(layer, self.arrays)
            if parameters is None:
                x = apply(layer, x, None)
                continue
            rounds = self.of_layer.get(layer.name, self.default)
            weight, bias = rounds.operand(parameters[0]), rounds.bias(parameters[1])
            y = rounds.product(self._sums(layer, rounds.operand(x), weight))
            x = rounds.stored(y + (bias.view(1, -1, 1, 1) if isinstance(layer, Conv2d) else bias))
        return x

    def _sums(self, layer: Layer, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if layer.name not in self.accumulator:
            return affine(layer, x, weight, None)
        to, every = self.accumulator[layer.name]
        columns = unfold(x, weight.shape[-1]).transpose(1, 2) if isinstance(layer, Conv2d) else x
        rows = weight.flatten(1)
        total = torch.zeros(*columns.shape[:-1], len(rows), dtype=torch.float64)
        for first in range(0, rows.shape[1], every):
            part = slice(first, first + every)
            total = to(total + columns[..., part] @ rows[:, part].T)
        if not isinstance(layer, Conv2d):
            return total
        side = x.shape[-1] - weight.shape[-1] + 1
        return total.transpose(1, 2).reshape(len(x), -1, side, side)


def rounding_faults(arrays: Arrays, executed: str) -> Iterator[tuple[str, Emulation]]:
    """Faults of arithmetic: right indices, coarser roundings."""
    first = (*variants(executed), EXACT)[0]
    right = Emulation(arrays, first)
    if executed in {"fp16", "bf16"}:
        for every in (4, 8, 16):
            yield (
                f"accumulator rounded every {every}",
                replace(right, accumulator=dict.fromkeys(NAMES, (first.stored, every))),
            )
        for name in NAMES:
            yield "accumulator of one layer rounded every 4", replace(right, accumulator={name: (first.stored, 4)})
    if executed in COARSER:
        coarser = variants(COARSER[executed])[0]
        for name in NAMES:
            yield f"{COARSER[executed]} in one layer", replace(right, of_layer={name: coarser})


def index_faults(arrays: Arrays, executed: str) -> Iterator[tuple[str, Emulation]]:
    """Faults of indices: right arithmetic, wrong elements."""
    first = (*variants(executed), EXACT)[0]

    def changed(name: str, change: Callable[[np.ndarray], object]) -> Emulation:
        copy = arrays[name].copy()
        change(copy)
        return Emulation({**arrays, name: copy}, first)

    def without(name: str, at: int) -> Emulation:
        return changed(name, lambda weight: weight.reshape(-1).put(at, 0))

    def swap(weight: np.ndarray) -> None:
        weight[[3, 4]] = weight[[4, 3]]

    for name in ("fc1", "fc2", "fc3"):
        yield "last 8 inputs of a layer forgotten", changed(f"{name}.weight", lambda w: w[:, -8:].fill(0))
    yield "last unit of fc1 not computed", changed("fc2.weight", lambda w: w[:, -1].fill(0))
    for name in NAMES:
        yield "two outputs of a layer swapped", changed(f"{name}.weight", swap)
        yield "a bias left out", changed(f"{name}.bias", lambda b: b.fill(0))
    generator = np.random.default_rng(0)
    for name in NAMES:
        for _ in range(DROPPED):
            at = int(generator.integers(arrays[f"{name}.weight"].size))
            yield f"one weight of {name} dropped", without(f"{name}.weight", at)


def byte_faults(arrays: Arrays, executed: str) -> Iterator[tuple[str, Emulation]]:
    """Faults of bytes: a wrong normalisation."""
    first = (*variants(executed), EXACT)[0]
    scaled = arrays["conv1.weight"] * np.float32(255 / 256)
    yield "/256 for /255", Emulation({**arrays, "conv1.weight": scaled}, first)


def right_runtimes(arrays: Arrays, executed: str) -> Iterator[tuple[str, Emulation]]:
    """Runtimes that must pass: each arithmetic, float32 throughout, and layers that differ in arithmetic."""
    allowed = (*variants(executed), EXACT)
    for one in allowed:
        yield f"right: {one.name}", Emulation(arrays, one)
    generator = np.random.default_rng(1)
    for _ in range(MIXES if len(allowed) > 1 else 0):
        drawn = {name: allowed[generator.integers(len(allowed))] for name in NAMES}
        yield "right: each layer one of these", Emulation(arrays, EXACT, drawn)


def largest_alone(found: parity.Comparison) -> bool:
    """The verdict of the bound on each logit."""
    return found.max_share <= 1 and found.flips == 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, a row for each kind of fault."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("precisions", nargs="*", metavar="PRECISION", help=f"default: {' '.join(PRECISIONS)}")
    parser.add_argument("--rows-only", action="store_true", help="no heading, for one of several processes")
    add_image_options(parser, MANY)
    option = parser.parse_args(arguments)
    if unknown := set(option.precisions) - set(PRECISIONS):
        parser.error(f"unknown precisions {', '.join(sorted(unknown))}: choose from {', '.join(PRECISIONS)}")
    torch.set_num_threads(1)
    split = test_images(option)
    if not option.rows_only:
        print("# Which wrong runtimes parity finds\n")
        print(f"Made by `experiments/parity_faults.py` at {source_commit()}: the first {len(split):,} test images,")
        print("emulated in float64. Found of how many; for right runtimes, the largest share of all bounds.")
        columns = ("precision", "input", "kind", "cases", *CHECKS, "share, 32 images", "share, all images")
        head(*columns)
    shipped = weights.load().arrays
    floats = parity.Reference(shipped, normalize(split.images))
    pixels = parity.Reference(shipped, split.images)
    for executed in option.precisions or PRECISIONS:
        print_rows(executed, "float32", floats, shipped)
        print_rows(executed, "uint8", pixels, fold_normalization(shipped))


def print_rows(executed: str, given: str, reference: parity.Reference, arrays: Arrays) -> None:
    """Print a row for each kind of fault.

    Args:
        executed: A precision.
        given: The input type of the images.
        reference: The reference of all images.
        arrays: The weights of a runtime with this input type.
    """
    kinds = [right_runtimes, rounding_faults, index_faults, *([byte_faults] if given == "uint8" else [])]
    rows: dict[str, list[Found]] = defaultdict(list)
    for kind, emulation in (case for cases in kinds for case in cases(arrays, executed)):
        rows[kind].append(judge(emulation(reference.images), reference, executed))
    for kind, found in rows.items():
        counts = [sum(one.verdicts[check] for one in found) for check in range(len(CHECKS))]
        worst = [f"{max(one.shares[of] for one in found):.2f}" if kind.startswith("right") else "" for of in (0, 1)]
        row(executed, given, kind, len(found), *counts, *worst)


class Found(NamedTuple):
    """What the checks say of one runtime: whether each of `CHECKS` finds a fault, and the shares of all bounds."""

    verdicts: tuple[bool, ...]
    shares: tuple[float, float]


def judge(logits: torch.Tensor, reference: parity.Reference, executed: str) -> Found:
    few, many = reference.compare(logits[:32], executed), reference.compare(logits, executed)
    one = parity.compare(logits[:1], reference.logits[:1], reference.tolerance(executed)[:1])
    right = (largest_alone(one), few.right, largest_alone(many), many.right)
    return Found(tuple(not verdict for verdict in right), (share(few), share(many)))


def share(found: parity.Comparison) -> float:
    """The largest share of any bound."""
    return max(found.max_share, found.closeness.share if found.closeness else 0.0)


if __name__ == "__main__":
    main()
