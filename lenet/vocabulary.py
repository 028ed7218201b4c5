"""The words that options, files and tables share. Each is defined here alone. No torch here."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

__all__ = [
    "BASELINE_BACKEND",
    "ONE_BATCH_MODES",
    "HostMemory",
    "InputType",
    "Mode",
    "Precision",
    "threads_name",
    "threads_words",
]

BASELINE_BACKEND: Final = "pytorch"
"""The backend that the others are compared with, for quality and for speed."""


class Precision(StrEnum):
    """The arithmetic that is asked of a backend.

    What a backend really runs is its `lenet.backends.base.Backend.executed_precision`.

    - ``FP32`` is IEEE single precision with TF32 off.
    - ``TF32`` lets convolutions and matrix products round their float32 operands to 10 bits of mantissa.
    - ``FP16`` and ``BF16`` hold weights and activations in that type.
    - ``FP16X2`` splits each float32 operand into the sum of two fp16 numbers, and adds up their products on tensor
      cores. It is nearly as exact as float32.
    - ``INT8`` and ``FP8`` (e4m3) run another network, the quantised one of `lenet.quantization`.
    """

    FP32 = "fp32"
    TF32 = "tf32"
    FP16 = "fp16"
    BF16 = "bf16"
    FP16X2 = "fp16x2"
    INT8 = "int8"
    FP8 = "fp8"


class InputType(StrEnum):
    """The dtype of the images that a backend gets. The words are also NumPy's and PyTorch's names.

    ``FLOAT32`` images are normalised (`lenet.data.augmentation.normalize`). ``UINT8`` images are the data's bytes, a
    quarter of the size, which the backend normalises on the device.
    """

    FLOAT32 = "float32"
    UINT8 = "uint8"


class Mode(StrEnum):
    """What a round covers.

    ``FORWARD`` is the forward pass alone, on a batch on the device. ``END_TO_END`` begins with the batch on the host
    and ends when the logits are done. ``THROUGHPUT`` is a stretch of many batches from the host, several of them in
    flight at a time, so that copies and computing overlap.
    """

    FORWARD = "forward"
    END_TO_END = "end_to_end"
    THROUGHPUT = "throughput"


ONE_BATCH_MODES: Final = (Mode.FORWARD, Mode.END_TO_END)
"""The modes of the coursework. A round is one batch, with nothing else in flight."""


class HostMemory(StrEnum):
    """Where the batch of a row that begins on the host lies.

    ``PINNED`` and ``PAGEABLE`` memory is copied to the device. ``ZERO_COPY`` is pinned memory that the device reads
    itself.
    """

    PINNED = "pinned"
    PAGEABLE = "pageable"
    ZERO_COPY = "zero-copy"


def threads_name(count: int) -> str:
    """A number of CPU threads in the name of a case."""
    return f"{count}threads"


def threads_words(count: int) -> str:
    """A number of CPU threads in words."""
    return f"{count} thread{'s' if count > 1 else ''}"
