"""A step of training as four CUDA kernels: their source, and the sizes of their launches. Nothing here needs CUDA."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lenet.architecture import PARAMETER_SHAPES

__all__ = ["AUGMENT", "KERNELS", "MACROS", "SCRATCH", "StepKernel", "source"]

_HIDDEN1, _FEATURES = PARAMETER_SHAPES["fc1.weight"]
_CLASSES, _HIDDEN2 = PARAMETER_SHAPES["fc3.weight"]
_CONVOLUTIONS: Final = 2872
"""Weights and biases of both."""
_MAPS: Final = 6 * 14 * 14

SCRATCH: Final = 5 * (_MAPS + _FEATURES) // 4 + _FEATURES + 2 * (_HIDDEN1 + _HIDDEN2) + 12 + _CONVOLUTIONS
"""Floats of global memory that an image needs. What they are at first does not matter."""

MACROS: Final = {"SCRATCH": str(SCRATCH)}
"""What the source is told."""


@dataclass(frozen=True, slots=True)
class StepKernel:
    """One of the kernels.

    Attributes:
        name: Its name in the source.
        threads: A block.
        shared_bytes: Shared memory a block, at most the 48 KiB that every GPU gives without being asked.
        images: Images a block; 0 where the number of blocks does not depend on the batch.
        tiles: The number of blocks then.
    """

    name: str
    threads: int
    shared_bytes: int
    images: int
    tiles: int = 0

    def blocks(self, batch: int) -> int:
        """Blocks of a launch."""
        return -(-batch // self.images) if self.images else self.tiles


AUGMENT: Final = StepKernel("augment", 256, 0, images=1)
"""Makes the images of many batches."""

KERNELS: Final = (
    StepKernel("convolve", 416, 4 * 7500, images=1),
    StepKernel("classify", 512, 4 * 4920, images=4),
    StepKernel("differentiate", 768, 4 * 12200, images=1),
    StepKernel("update", 256, 4 * 4000, images=0, tiles=335),
)
"""In the order of a step."""


def source() -> str:
    """CUDA C++, without the macros."""
    directory = Path(__file__).parent
    return "\n".join(
        (directory / name).read_text(encoding="utf-8") for name in ("common.cuh", "step_forward.cu", "step_back.cu")
    )
