"""Predict the fused kernel's times on an RTX 4060 Ti from those on another GPU; prints Markdown.

``python experiments/predict_ada.py docs/results/fused-h200.md > docs/results/ada-prediction.md``

No GPU is needed: the page is what `fused_check.py` printed on one. NVRTC counts the registers.

The model: a block takes as many cycles on both cards, and every multiprocessor works on its blocks one after the other.
A launch's time is then a line in the number of waves. Both cards issue one instruction a cycle on each of a
multiprocessor's four parts, 32 lanes wide.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import linear_regression
from typing import Final

from common import heading, row
from lenet.architecture import INPUT_SHAPE
from lenet.backends.fused import images_a_block, largest_split
from lenet.errors import ResultsError
from lenet.kernels import SPLIT, Variant, largest_that_fits
from lenet.kernels.compiler import compile_variant

BATCHES: Final = (1, 100, 1000, 10_000)
FITTED: Final = (100, 1000, 10_000)
"""Batches whose times the line is fitted to."""
PRODUCT: Final = 2 * 16 * 8 * 16
"""FLOP of an ``mma.m16n8k16``."""


@dataclass(frozen=True)
class Card:
    """What a GPU has.

    Attributes:
        name: By which it is sold.
        capability: Its compute capability.
        multiprocessors: How many.
        clock: Hz, under load.
        memory: Bytes a second, by its specification.
        l2: Bytes of L2 cache.
        bus: Bytes a second from the host's memory, by the bus's specification.
        shared_block: Bytes of shared memory that a block can have.
        shared: Bytes of shared memory a multiprocessor.
        threads: Threads a multiprocessor.
        blocks: Blocks a multiprocessor.
        products: FLOP a cycle and multiprocessor on tensor cores, of 16-bit operands with float32 sums.
    """

    name: str
    capability: str
    multiprocessors: int
    clock: float
    memory: float
    l2: int
    bus: float
    shared_block: int
    shared: int
    threads: int
    blocks: int
    products: int


H200: Final = Card("NVIDIA H200", "9.0", 132, 1.98e9, 4.8e12, 60 * 2**20, 63e9, 227 * 1024, 228 * 1024, 2048, 32, 4096)
ADA: Final = Card("RTX 4060 Ti", "8.9", 34, 2.535e9, 288e9, 32 * 2**20, 15.75e9, 99 * 1024, 100 * 1024, 1536, 24, 512)
"""Limits: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability". Clock, memory and
multiprocessors: NVIDIA's specifications. Products: "NVIDIA Ada GPU Architecture", by which an RTX 4090 of 128
multiprocessors at 2.52 GHz gives 165.2 TFLOP/s; "NVIDIA H100 Tensor Core GPU Architecture": 989.4 by 132 at 1.83."""

LAUNCH: Final = 1.82
"""Microseconds of an empty launch behind another, on an H200: docs/results/floor-h200.md."""
COPIED: Final = 0.87
"""Share of the bus's rate that a copy reached on an H200: 54.9 of 63 GB/s, docs/results/floor-h200.md."""


CARDS: Final = {"NVIDIA H200": H200, "NVIDIA GeForce RTX 4060 Ti": ADA}
"""By the names that the driver gives them."""
_ROW: Final = re.compile(r"\| (\w+) (float32|uint8), (\d) images?(?: over (\d) blocks)? x [^|]*\|(.*)\|")


@dataclass(frozen=True)
class Measured:
    """A variant's times.

    Attributes:
        variant: As the card that it will run on gets it.
        microseconds: Of a launch behind another, by batch.
    """

    variant: Variant
    microseconds: dict[int, float]


def name_of(variant: Variant) -> str:
    """A variant's name in tables."""
    kind = "uint8" if variant.bytes_in else "float32"
    split = f", {variant.blocks_an_image} blocks an image" if variant.blocks_an_image > 1 else ""
    return f"{variant.precision} {kind}, {variant.images} a block{split}"


def blocks_at_once(card: Card, variant: Variant, registers: int) -> dict[str, int]:
    """Blocks that a multiprocessor can hold, by what limits them.

    The calculation is that of ``cuda_occupancy.h`` in NVIDIA's CUDA Toolkit. Registers come in units of 256 a warp, and
    each of a multiprocessor's four parts has 16,384. A block's shared memory is 1 KB more than it asks for, in units of
    128 bytes.
    """
    warps = variant.threads // 32
    of_part = 65_536 // 4 // (-(-32 * registers // 256) * 256)
    shared = -(-(variant.shared_bytes + 1024) // 128) * 128
    return {
        "registers": 4 * of_part // warps,
        "shared memory": card.shared // shared,
        "threads": card.threads // variant.threads,
        "the hardware": card.blocks,
    }


def mma(variant: Variant) -> int:
    """The ``mma`` that a block of ``tensor_cores.cu`` issues, over all of its warps; 0 in fp32."""
    if variant.precision == "fp32":
        return 0
    conv1, conv2 = -(-variant.images * 196 // 16) * 7 * 3, -(-variant.images * 25 // 8) * 13 * 4
    connected = 8 * 25 + 6 * 8 + 6
    return (conv1 + conv2 + connected) * (3 if variant.parts > 1 else 1)


def blocks_of(variant: Variant, batch: int) -> int:
    """Blocks of a launch."""
    return -(-batch // variant.images) * variant.blocks_an_image


def waves(card: Card, variant: Variant, batch: int) -> int:
    """Blocks that a multiprocessor works on, one after the other."""
    return -(-blocks_of(variant, batch) // card.multiprocessors)


def fitted(measured: Measured, card: Card, count: int, batches: Sequence[int] = FITTED) -> float:
    """Microseconds of a launch of so many waves, by the line through those of some batches."""
    counts = [waves(card, measured.variant, batch) for batch in batches]
    slope, at_none = linear_regression(counts, [measured.microseconds[batch] for batch in batches])
    return at_none + slope * count


def predict(measured: Measured, source: Card, target: Card, batch: int) -> tuple[float, float]:
    """Microseconds of a forward pass behind another on the target: the least, and the most.

    Cycles are the source's, but for products on tensor cores. At least a launch takes the cycles that the target's
    tensor cores need for them; at most what they need more than the source's comes on top.
    """
    variant = measured.variant
    count = waves(target, variant, batch)
    there = measured.microseconds[batch] if waves(source, variant, batch) == count else fitted(measured, source, count)
    cycles = (there - LAUNCH) * 1e-6 * source.clock
    of_products = [mma(variant) * PRODUCT / card.products * count for card in (source, target)]
    bounds = max(cycles, of_products[1]), cycles + max(0.0, of_products[1] - of_products[0])
    size = batch * image_bytes(variant)
    from_memory = size / target.memory if size > target.l2 else 0.0
    least, most = (LAUNCH + 1e6 * max(bound / target.clock, from_memory) for bound in bounds)
    return least, most


def image_bytes(variant: Variant) -> int:
    """Bytes of an image."""
    channels, rows, columns = INPUT_SHAPE
    return channels * rows * columns * (1 if variant.bytes_in else 4)


def chosen(card: Card, precision: str, batch: int, *, bytes_in: bool) -> Variant:
    """What the backend chooses on a card for a batch on the device."""
    split = Variant(precision, 1, bytes_in, card.shared_block, SPLIT)
    if precision == "fp32" and batch <= largest_split(split, card.multiprocessors):
        return split
    most = largest_that_fits(precision, card.shared_block)
    images = images_a_block(batch, multiprocessors=card.multiprocessors, most=most)
    return Variant(precision, images, bytes_in, card.shared_block)


def variants_of(card: Card) -> Iterator[Variant]:
    """Those that a card gets in the batches of `BATCHES`; bf16 has fp16's."""
    for precision, bytes_in in (("fp32", False), ("fp16", False), ("fp16x2", False), ("fp32", True), ("fp16", True)):
        found = {chosen(card, precision, batch, bytes_in=bytes_in) for batch in BATCHES}
        yield from sorted(found, key=lambda variant: (variant.images, -variant.blocks_an_image))


def read(path: Path) -> tuple[Card, dict[Variant, Measured], str]:
    """A page of `fused_check.py`: the card, the times of the variants of `ADA`, and what made it.

    Raises:
        ResultsError: It is not one, of another card, or lacks a variant.
    """
    try:
        text = path.read_text(encoding="utf-8")
        title, _, made_by = text.splitlines()[:3]
        card = CARDS[title.removeprefix("# The fused kernel on ")]
        sizes, rows = next(
            re.finditer(r"^\| variant ((?:\| \d+ replay, back to back )+)\|\n\|.*\n((?:\|.*\n)+)", text, re.MULTILINE)
        ).groups()
        found = {}
        for precision, kind, images, blocks, times in _ROW.findall(rows):
            variant = Variant(precision, int(images), kind == "uint8", ADA.shared_block, int(blocks or 1))
            pairs = zip(re.findall(r"\d+", sizes), times.split("|"), strict=True)
            found[variant] = Measured(variant, {int(size): float(cell.split(",")[1]) for size, cell in pairs})
        return card, {variant: found[variant] for variant in variants_of(ADA)}, made_by
    except (OSError, ValueError, KeyError, StopIteration, IndexError) as error:
        raise ResultsError(
            f"{path} is no page to predict from",
            found=f"{type(error).__name__}: {error}",
            wanted=f"what `python experiments/fused_check.py` prints on an {' or '.join(CARDS)}",
            hint="give docs/results/fused-h200.md",
        ) from error


def registers_of(variant: Variant) -> int:
    """Registers a thread, of the machine code for compute capability 8.9.

    Raises:
        BackendError: NVRTC is not installed.
    """
    (found,) = re.findall(r"Used (\d+) registers", compile_variant(variant, "sm_89").log)
    return int(found)


def rounded(microseconds: float) -> str:
    """A predicted time, to two digits."""
    return f"{float(f'{microseconds:.2g}'):,g}"


def print_occupancy() -> None:
    """Print what limits the blocks of a multiprocessor, and the waves of each batch."""
    variants = [variant for variant in variants_of(ADA) if not variant.bytes_in]
    limited = (f"blocks, by {what}" for what in blocks_at_once(ADA, variants[0], 1))
    heading("Occupancy", "variant", "registers a thread", *limited, "warps of 48")
    for variant in variants:
        registers = registers_of(variant)
        limits = blocks_at_once(ADA, variant, registers)
        row(name_of(variant), registers, *limits.values(), min(limits.values()) * variant.threads // 32)
    heading("Waves", "batch", "variant that the backend chooses", "blocks", "waves", "multiprocessors that work")
    for precision, batch in product(dict.fromkeys(variant.precision for variant in variants), BATCHES):
        variant = chosen(ADA, precision, batch, bytes_in=False)
        blocks, count = blocks_of(variant, batch), waves(ADA, variant, batch)
        row(f"{batch:,}", name_of(variant), blocks, count, f"{blocks / (count * ADA.multiprocessors):.0%}")


def print_prediction(measured: Mapping[Variant, Measured], source: Card) -> None:
    """Print the predicted times, and the copies from pinned memory beside them."""
    heading("Predicted forward passes", "images", *(f"batch {batch:,}" for batch in BATCHES))
    for precision, bytes_in in dict.fromkeys((variant.precision, variant.bytes_in) for variant in measured):
        cells = []
        for batch in BATCHES:
            variant = chosen(ADA, precision, batch, bytes_in=bytes_in)
            both = map(rounded, predict(measured[variant], source, ADA, batch))
            cells.append(" to ".join(dict.fromkeys(both)))
        row(f"{precision} {'uint8' if bytes_in else 'float32'}", *cells)
    for bytes_in in (False, True):
        size = image_bytes(Variant("fp32", 1, bytes_in, ADA.shared_block))
        times = (1e6 * batch * size / (COPIED * ADA.bus) for batch in BATCHES)
        row(f"the copy of {'uint8' if bytes_in else 'float32'}", *map(rounded, times))


def print_check(measured: Mapping[Variant, Measured], source: Card) -> None:
    """Print what the line through the two smaller batches says of the largest, on the card that was measured."""
    *smaller, batch = FITTED
    title = (
        f"The model on the {source.name}: batch {batch:,}, by batches {' and '.join(f'{size:,}' for size in smaller)}"
    )
    heading(title, "variant", "waves of the three", "by the line", "measured", "error")
    for variant, one in measured.items():
        counts = [waves(source, variant, size) for size in FITTED]
        if variant.blocks_an_image == 1 and counts[0] < counts[1]:
            line, found = fitted(one, source, counts[2], smaller), one.microseconds[batch]
            row(
                name_of(variant), ", ".join(map(str, counts)), f"{line:.1f}", f"{found:.1f}", f"{line / found - 1:+.1%}"
            )


ASSUMED = """\
**Nobody has measured these times: they are a prediction.** Microseconds of a launch behind another. This card's tensor
cores are slower. Where two times stand, the first hides that behind other work, and the second adds it.

Compute capability 8.9 lacks bulk copies, and its 99 KB of shared memory have no room for the fully connected layers'
weights: blocks read them from L2. The measured kernels had them in shared memory, but for fp16x2's. The prediction adds
nothing for that. It adds nothing either for integer instructions, which share half of this card's lanes.
On the card, `python experiments/fused_check.py > mine.md` prints its times, in the table of replays back to back.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("page", type=Path, help="what `fused_check.py` printed")
    source, measured, made_by = read(parser.parse_args(arguments).page)
    print(f"# The fused kernel on an {ADA.name}: a prediction\n\n{ASSUMED}")
    print(f"From an {source.name} at {source.clock / 1e9:.2f} GHz: {made_by}")
    print_prediction(measured, source)
    print_occupancy()
    print_check(measured, source)
    return 0


if __name__ == "__main__":
    sys.exit(main())
