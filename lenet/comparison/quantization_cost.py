"""What quantising a network costs, apart from what any runtime does."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch.nn.functional import cross_entropy

from lenet import parity
from lenet.vocabulary import Precision

__all__ = ["QuantizationCost", "quantization_cost"]


@dataclass(frozen=True, slots=True)
class QuantizationCost:
    """The quantised network beside the network that it was made from, both without a runtime's error.

    Attributes:
        accuracy: Of the quantised network, 0-1.
        loss: Its mean cross-entropy, in nats.
        float_accuracy: Of the float64 network.
        float_loss: Likewise.
    """

    accuracy: float
    loss: float
    float_accuracy: float
    float_loss: float

    def to_json(self) -> dict[str, float]:
        """As JSON can hold it."""
        return asdict(self)


def quantization_cost(reference: parity.Reference, labels: torch.Tensor, precision: Precision) -> QuantizationCost:
    """Accuracy and loss of a quantised network and of its float64 original.

    Args:
        reference: Of the images.
        labels: int64 (N,).
        precision: INT8 or FP8.
    """
    return QuantizationCost(*_figures(reference.wanted(precision), labels), *_figures(reference.logits, labels))


def _figures(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    return (logits.argmax(1) == labels).double().mean().item(), cross_entropy(logits, labels).item()
