"""The coursework's published figures as data. They stand beside measured figures and are never mixed with them.

Source: «Оптимизация производительности нейронных сетей». Drawing sheet 3 has the recipe, sheet 4 loss and accuracy, and
sheet 5, «Сравнение быстродействия», the times and their conditions:

- all 10,000 test images; 5 warm-up batches, then the average of 100 runs;
- Ubuntu 24.04, AMD Ryzen 5 7500F, 32 GB DDR5, NVIDIA GeForce RTX 4060 Ti 8 GB.

The sheet does not state the batch size. Milliseconds a batch divided by milliseconds an image give about 1,000.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from lenet.training.recipe import Recipe
from lenet.vocabulary import Mode

__all__ = ["BATCH_SIZE", "FIGURES", "MACHINE", "QUALITIES", "RECIPE", "ROUNDS", "Figure", "Quality", "ratio_to_pytorch"]

MACHINE: Final = "NVIDIA GeForce RTX 4060 Ti"
BATCH_SIZE: Final = 1000
ROUNDS: Final = 100
RECIPE: Final[Mapping[str, int | float | tuple[int, ...]]] = MappingProxyType(
    {
        name: getattr(Recipe(), name)
        for name in (
            "epochs",
            "batch_size",
            "learning_rate",
            "momentum",
            "weight_decay",
            "milestones",
            "decay",
            "padding",
        )
    }
)
"""Sheet 3's recipe, which is the default of `lenet.training.recipe.Recipe`."""


@dataclass(frozen=True, slots=True)
class Figure:
    """The two published times of one runtime in one mode.

    Attributes:
        runtime: The sheet's name for the runtime.
        backend: The backend of this project that does the same.
        mode: What was timed.
        milliseconds_per_batch: As printed.
        milliseconds_per_image: As printed.
    """

    runtime: str
    backend: str
    mode: Mode
    milliseconds_per_batch: float
    milliseconds_per_image: float


FIGURES: Final = (
    Figure("PyTorch", "pytorch", Mode.FORWARD, 0.814, 0.0008),
    Figure("PyTorch", "pytorch", Mode.END_TO_END, 1.702, 0.0017),
    Figure("TensorRT", "tensorrt", Mode.FORWARD, 0.652, 0.0007),
    Figure("TensorRT", "tensorrt", Mode.END_TO_END, 1.620, 0.0016),
    Figure("TriPy -> TensorRT", "tripy", Mode.FORWARD, 0.548, 0.0005),
    Figure("TriPy -> TensorRT", "tripy", Mode.END_TO_END, 1.476, 0.0015),
)


@dataclass(frozen=True, slots=True)
class Quality:
    """The published loss and accuracy of one runtime on the 10,000 test images.

    Attributes:
        runtime: The sheet's name for the runtime.
        loss: Mean cross-entropy, in nats.
        accuracy: 0-1.
    """

    runtime: str
    loss: float
    accuracy: float


QUALITIES: Final = (Quality("PyTorch", 0.7994318, 0.7270), Quality("TriPy", 0.7994541, 0.7269))


def ratio_to_pytorch(figure: Figure) -> float:
    """The figure's time divided by PyTorch's published time in the same mode."""
    pytorch = next(one for one in FIGURES if one.backend == "pytorch" and one.mode == figure.mode)
    return figure.milliseconds_per_batch / pytorch.milliseconds_per_batch
