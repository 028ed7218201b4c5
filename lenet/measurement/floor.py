r"""How fast a row could be on the machine that it was measured on: its floor, and which limit sets it. No torch here.

The limits are measured (`lenet.measurement.limits`); what a batch needs follows from `lenet.architecture`. A batch of
:math:`n` images takes at least the longest of

- *arithmetic*: its floating-point operations at the rate at which the machine multiplies large matrices in the
  executed precision;
- *memory*: its bytes, each image and each weight read once and each logit written once, at the rate at which the
  machine copies memory. Nothing between the layers is counted, for a fused network keeps it on chip. The rate is the
  best of all buffers that are no smaller than those bytes, so a batch that may stay in a cache is held to the cache's
  rate; after a cold start it is the largest buffer's;
- *copy*, end to end and in throughput: its images' bytes from the host, at the link's rate, which is the best of all
  copies from pinned memory. Bytes in pageable memory, and those that the device reads itself (zero-copy), cross the
  same link. How fast the host stages pageable memory changes from moment to moment, so it is no limit;
- *launch*, of one batch at a time: the shortest work that can be launched, timed by the row's own clock. In throughput
  the launches of several batches overlap.

The longest, not the sum: different units do these things, and nothing keeps them from overlapping, not even the copy
and the arithmetic of one batch, which a kernel that reads the host's memory or a copy in parts overlaps. A floor that
added them could be undercut.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from lenet.architecture import CLASSES, FLOPS_PER_IMAGE, INPUT_SHAPE, PARAMETER_COUNT
from lenet.vocabulary import HostMemory, InputType, Mode, Precision

__all__ = [
    "Floor",
    "Limits",
    "Rates",
    "Workload",
    "best_rate",
    "copy_seconds",
    "floor",
    "image_bytes",
    "moved_bytes",
    "peak_rate",
]

Rates = Sequence[tuple[int, float]]
"""Bytes a second at which buffers of so many bytes were moved: (bytes, rate) pairs."""

_INPUT_BYTES: Final[Mapping[str, int]] = {InputType.FLOAT32: 4, InputType.UINT8: 1}

_ARITHMETIC: Final[Mapping[str, tuple[str, int, int]]] = {
    Precision.FP32: (Precision.FP32, 1, 4),
    Precision.TF32: (Precision.TF32, 1, 4),
    Precision.FP16: (Precision.FP16, 1, 2),
    Precision.BF16: (Precision.BF16, 1, 2),
    # Operands split into a high and a low half of fp16: three products for one.
    Precision.FP16X2: (Precision.FP16, 3, 4),
    Precision.INT8: (Precision.INT8, 1, 1),
    Precision.FP8: (Precision.FP8, 1, 1),
}
"""Of an executed precision: whose rate, how many products for one, and the bytes of a weight."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a machine can do, as measured.

    Attributes:
        arithmetic: Floating-point operations a second by precision; those that the device can do.
        memory: Bytes a second, read and written together, for buffers of several sizes.
        copy: Bytes a second from host to device by the host memory, ``pinned`` and ``pageable``; empty on a CPU.
        launch: Seconds of the shortest work by the clock of forward rows.
        launch_wall: Seconds of the shortest work by the wall clock, until it is synchronised.
    """

    arithmetic: Mapping[str, float]
    memory: Rates
    copy: Mapping[str, Rates]
    launch: float
    launch_wall: float

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Limits:
        """What `to_json` gave.

        Raises:
            KeyError: A field is missing.
            TypeError: A field is misshapen.
        """

        def rates(pairs: Any) -> Rates:
            return tuple((int(size), float(rate)) for size, rate in pairs)

        return cls(
            arithmetic=dict(document["arithmetic"]),
            memory=rates(document["memory"]),
            copy={name: rates(pairs) for name, pairs in document["copy"].items()},
            launch=document["launch"],
            launch_wall=document["launch_wall"],
        )


@dataclass(frozen=True, slots=True)
class Workload:
    """What a row does to a batch.

    Attributes:
        mode: What a round covers.
        batch_size: Images a batch.
        precision: What the backend really ran.
        input: ``float32`` or ``uint8`` images.
        host_memory: ``pinned``, ``pageable`` or ``zero-copy``; None if nothing is copied.
        cold_cache: Whether the GPU's L2 cache was emptied before each round.
    """

    mode: Mode
    batch_size: int
    precision: str
    input: str
    host_memory: str | None
    cold_cache: bool


@dataclass(frozen=True, slots=True)
class Floor:
    """The shortest time that a batch can take.

    Attributes:
        seconds: A batch.
        term: The limit that sets it: ``arithmetic``, ``memory``, ``copy`` or ``launch``.
    """

    seconds: float
    term: str


def floor(work: Workload, limits: Limits) -> Floor | None:
    """The floor of a row, by the module's rule; None where the machine's rate for its precision was not measured."""
    peak = peak_rate(work.precision, limits)
    if peak is None:
        return None
    moved = moved_bytes(work)
    terms = {
        "arithmetic": FLOPS_PER_IMAGE * work.batch_size / peak,
        "memory": moved / best_rate(limits.memory, math.inf if work.cold_cache else moved),
        "launch": limits.launch,
    }
    if work.host_memory is not None:
        terms["copy"] = image_bytes(work) / best_rate(limits.copy[HostMemory.PINNED], 0)
    if work.mode is Mode.END_TO_END:
        terms["launch"] = max(limits.launch, limits.launch_wall)
    if work.mode is Mode.THROUGHPUT:
        del terms["launch"]
        # Runners side by side each have a core's own cache, which no copy of one buffer shows.
        terms["memory"] = moved / best_rate(limits.memory, 0)
    term = max(terms, key=lambda name: terms[name])
    return Floor(terms[term], term)


def peak_rate(precision: str, limits: Limits) -> float | None:
    """The network's floating-point operations a second at most, in an executed precision; None where that is unknown.

    Where a product is made of several, the machine's rate is shared among them.
    """
    rate_of, products, _ = _ARITHMETIC.get(precision, ("", 1, 0))
    rate = limits.arithmetic.get(rate_of)
    return None if rate is None else rate / products


def copy_seconds(work: Workload, limits: Limits) -> float:
    """How long a batch's images take from the host: at the link's rate, or at that of pageable memory as measured.

    Raises:
        KeyError: The machine's copies were not measured.
    """
    size = image_bytes(work)
    if work.host_memory == HostMemory.PAGEABLE:
        return size / best_rate(limits.copy[HostMemory.PAGEABLE], size)
    return size / best_rate(limits.copy[HostMemory.PINNED], 0)


def image_bytes(work: Workload) -> int:
    """Bytes of a batch of images."""
    return math.prod(INPUT_SHAPE) * _INPUT_BYTES[work.input] * work.batch_size


def moved_bytes(work: Workload) -> int:
    """Bytes that a batch needs from the device's memory: images, logits, and weights in the executed precision.

    Raises:
        KeyError: The precision is none of the project's.
    """
    return image_bytes(work) + 4 * CLASSES * work.batch_size + _ARITHMETIC[work.precision][2] * PARAMETER_COUNT


def best_rate(rates: Rates, size: float) -> float:
    """The best rate of all buffers of at least so many bytes, or else the largest buffer's."""
    return max((rate for bytes_, rate in rates if bytes_ >= size), default=max(rates)[1])
