"""The 8-bit formats, and exact rounding to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch

from lenet.vocabulary import Precision

__all__ = ["FORMATS", "Format", "quantized_precision"]


def _to_whole(x: torch.Tensor) -> torch.Tensor:
    return x.round().clamp(-128, 127)


def _to_e4m3(x: torch.Tensor) -> torch.Tensor:
    """Round to 3 bits of mantissa and an exponent of at least -6, and saturate at 448.

    Source: Micikevicius et al., "FP8 formats for deep learning", arXiv:2209.05433, table 1.
    """
    exponent = (torch.frexp(x).exponent - 1).clamp(min=-6)
    step = torch.ldexp(torch.ones_like(x), exponent - 3)
    return ((x / step).round() * step).clamp(-448, 448)


@dataclass(frozen=True, slots=True)
class Format:
    """An 8-bit format.

    Attributes:
        largest: A scale maps the largest value of a tensor to this number.
        round: Rounds to nearest even and saturates: float64 in, float64 out. Activations of int8 saturate at -128 and
            127, as ONNX's QuantizeLinear does. Weights never reach -128.
        whole: Whether the format holds whole numbers alone.
    """

    largest: float
    round: Callable[[torch.Tensor], torch.Tensor]
    whole: bool


FORMATS: Final[Mapping[str, Format]] = {
    Precision.INT8: Format(127.0, _to_whole, whole=True),
    Precision.FP8: Format(448.0, _to_e4m3, whole=False),
}
"""The format of each quantised precision."""


def quantized_precision(executed: str) -> Precision | None:
    """The precision of this name if it is a quantised one, else None."""
    return Precision(executed) if executed in FORMATS else None
