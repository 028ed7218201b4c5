"""Predict the fused kernel's times on an RTX 4060 Ti from those of its variants on another GPU; prints Markdown.

``python experiments/predict_ada.py docs/results/ada.json > docs/results/ada-prediction.md``

No GPU is needed: `measure_ada.py` made the record.

The model: a block takes as many cycles on both cards, and every multiprocessor works on its blocks one after the other.
A launch's time is then a line in the number of waves. Both cards issue one instruction a cycle on each of a
multiprocessor's four parts, 32 lanes wide.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import linear_regression
from typing import Final

from common import heading, row
from lenet.architecture import INPUT_SHAPE
from lenet.backends.fused import images_a_block, largest_split
from lenet.documents import parse
from lenet.errors import ResultsError
from lenet.kernels import SPLIT, Variant, largest_that_fits

BATCHES: Final = (1, 100, 1000, 10_000)
WAVES: Final = (1, 2, 4, 8)
"""Waves of the launches that the line is fitted to."""
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


@dataclass(frozen=True)
class Measured:
    """What was measured of a variant.

    Attributes:
        precision: Of the network.
        images: Images a block.
        bytes_in: Whether images are uint8.
        blocks_an_image: Blocks that share an image.
        registers: A thread, by NVRTC for compute capability 8.9.
        share: The largest error of a logit, of its tolerance.
        microseconds: Of a launch behind another, by batch.
    """

    precision: str
    images: int
    bytes_in: bool
    blocks_an_image: int
    registers: int
    share: float
    microseconds: dict[int, float]

    @property
    def variant(self) -> Variant:
        """Its variant, as compiled for compute capability 8.9."""
        return Variant(self.precision, self.images, self.bytes_in, ADA.shared_block, self.blocks_an_image)

    @property
    def name(self) -> str:
        """Its name in tables."""
        kind = "uint8" if self.bytes_in else "float32"
        split = f", {self.blocks_an_image} blocks an image" if self.blocks_an_image > 1 else ""
        return f"{self.precision} {kind}, {self.images} a block{split}"


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


def fitted(measured: Measured, card: Card, count: int) -> float:
    """Microseconds of a launch of so many waves, by the line through those of `WAVES`."""
    batches = [batch_of(card, measured.variant, waves) for waves in WAVES]
    slope, at_none = linear_regression(WAVES, [measured.microseconds[batch] for batch in batches])
    return at_none + slope * count


def batch_of(card: Card, variant: Variant, count: int) -> int:
    """The batch that fills so many waves."""
    return count * card.multiprocessors * variant.images


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


def measured_variants() -> Iterator[Variant]:
    """Those that compute capability 8.9 gets in the batches of `BATCHES`; bf16 has fp16's."""
    for precision, bytes_in in (("fp32", False), ("fp16", False), ("fp16x2", False), ("fp32", True), ("fp16", True)):
        found = {chosen(ADA, precision, batch, bytes_in=bytes_in) for batch in BATCHES}
        yield from sorted(found, key=lambda variant: (variant.images, -variant.blocks_an_image))


def batches(card: Card, variant: Variant) -> list[int]:
    """Those that are measured of a variant: few for one whose blocks share images, which runs in one wave alone."""
    if variant.blocks_an_image > 1:
        return [1]
    return sorted({*BATCHES, *(batch_of(card, variant, count) for count in WAVES)})


def read(path: Path) -> tuple[Card, list[Measured], str]:
    """A record: the card, what was measured of its variants, and what made it.

    Raises:
        ResultsError: It is not one.
    """
    try:
        record = parse(path.read_text(encoding="utf-8"))
        variants = [
            Measured(**one | {"microseconds": {int(batch): time for batch, time in one["microseconds"].items()}})
            for one in record["variants"]
        ]
        like = ADA if record["capability"] == ADA.capability else H200
        card = replace(
            like, name=record["card"], multiprocessors=int(record["multiprocessors"]), clock=float(record["clock"])
        )
        made_by = str(record["made_by"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultsError(
            f"{path} is no record of variants",
            found=f"{type(error).__name__}: {error}",
            wanted="what `python experiments/measure_ada.py` prints",
            hint="give docs/results/ada.json",
        ) from error
    return card, variants, made_by


def rounded(microseconds: float) -> str:
    """A predicted time, to two digits."""
    return f"{float(f'{microseconds:.2g}'):,g}"


def print_occupancy(variants: Sequence[Measured]) -> None:
    """Print what limits the blocks of a multiprocessor, and the waves of each batch."""
    limited = (f"blocks, by {what}" for what in blocks_at_once(ADA, variants[0].variant, 1))
    heading("Occupancy", "variant", "registers a thread", *limited, "warps of 48")
    for one in variants:
        limits = blocks_at_once(ADA, one.variant, one.registers)
        row(one.name, one.registers, *limits.values(), min(limits.values()) * one.variant.threads // 32)
    heading("Waves", "batch", "variant that the backend chooses", "blocks", "waves", "multiprocessors that work")
    for precision, batch in product(dict.fromkeys(one.precision for one in variants), BATCHES):
        variant = chosen(ADA, precision, batch, bytes_in=False)
        blocks, count = blocks_of(variant, batch), waves(ADA, variant, batch)
        share = f"{blocks / (count * ADA.multiprocessors):.0%}"
        row(batch, next(one.name for one in variants if one.variant == variant), blocks, count, share)


def print_prediction(variants: Sequence[Measured], source: Card) -> None:
    """Print the predicted times, and the copies from pinned memory beside them."""
    heading("Predicted forward passes", "images", *(f"batch {batch:,}" for batch in BATCHES))
    for precision, bytes_in in dict.fromkeys((one.precision, one.bytes_in) for one in variants):
        cells = []
        for batch in BATCHES:
            variant = chosen(ADA, precision, batch, bytes_in=bytes_in)
            one = next(one for one in variants if one.variant == variant)
            least, most = predict(one, source, ADA, batch)
            both = rounded(least), rounded(most)
            cells.append(" to ".join(dict.fromkeys(both)))
        row(f"{precision} {'uint8' if bytes_in else 'float32'}", *cells)
    for bytes_in in (False, True):
        size = image_bytes(replace(variants[0].variant, bytes_in=bytes_in))
        times = (1e6 * batch * size / (COPIED * ADA.bus) for batch in BATCHES)
        row(f"the copy of {'uint8' if bytes_in else 'float32'}", *map(rounded, times))


def print_check(variants: Sequence[Measured], source: Card) -> None:
    """Print what the line says of batches on the card that it was measured on."""
    heading("The model on the card that was measured", "variant", "batch", "waves", "by the line", "measured", "error")
    for one, batch in product(variants, BATCHES):
        if one.blocks_an_image == 1 and (count := waves(source, one.variant, batch)) > 1:
            line, found = fitted(one, source, count), one.microseconds[batch]
            row(one.name, batch, count, f"{line:.1f}", f"{found:.1f}", f"{line / found - 1:+.1%}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("record", type=Path, help="what `measure_ada.py` printed")
    option = parser.parse_args(arguments)
    source, variants, made_by = read(option.record)
    print(f"# The fused kernel on an {ADA.name}: a prediction\n")
    print("Nobody has measured these times on that card: they are computed. Microseconds of a launch behind another.")
    print(f"\nMeasured on {source.name} at {source.clock / 1e9:.2f} GHz: {made_by}.")
    print_prediction(variants, source)
    print_occupancy(variants)
    heading(
        "Measured with the code for compute capability 8.9", "variant", "error, of the tolerance", *map(str, BATCHES)
    )
    for one in variants:
        times = (f"{one.microseconds[batch]:.1f}" if batch in one.microseconds else "-" for batch in BATCHES)
        row(one.name, f"{one.share:.2f}", *times)
    print_check(variants, source)
    return 0


if __name__ == "__main__":
    sys.exit(main())
