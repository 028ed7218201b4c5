"""LeNet in float64 on the CPU, from the architecture's table: exact, or with a format's rounding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeAlias

import numpy as np
import torch

from lenet.architecture import LAYERS, Conv2d
from lenet.float64 import affine, apply, channels, normalized, parameters_of
from lenet.vocabulary import Precision

__all__ = [
    "EXACT",
    "TRUNCATED_TO_TF32",
    "Arithmetic",
    "Overflow",
    "folded",
    "forward",
    "overflow",
    "reference",
    "variants",
]

Round: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""Rounds each value to a format: float64 in, float64 out, of the same shape."""


def _exact(x: torch.Tensor) -> torch.Tensor:
    return x


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Where a runtime rounds. Sums are exact here; the tolerance covers their errors.

    Attributes:
        name: The name in messages.
        operand: Rounds weights and inputs before they are multiplied.
        bias: Rounds biases.
        product: Rounds a sum of products before its bias is added.
        stored: Rounds a layer's result.
        centre: Is subtracted from bytes before they are multiplied. The first bias makes up for it.
    """

    name: str
    operand: Round = _exact
    bias: Round = _exact
    product: Round = _exact
    stored: Round = _exact
    centre: float = 0.0


EXACT: Final = Arithmetic("exact")


def _through(dtype: torch.dtype, x: torch.Tensor) -> torch.Tensor:
    return x.to(dtype).double()


def _bits(x: torch.Tensor, *, nearest: bool) -> torch.Tensor:
    """float64 values as TF32 holds them: float32 with 10 of 23 mantissa bits, rounded to nearest or truncated."""
    bits = x.float().contiguous().view(torch.int32)
    if nearest:
        bits = bits + 0x0FFF + (bits >> 13 & 1)
    return (bits & ~0x1FFF).view(torch.float32).double()


TRUNCATED_TO_TF32: Final = Arithmetic("truncated operands", operand=partial(_bits, nearest=False))


def _of_format(dtype: torch.dtype) -> tuple[Arithmetic, ...]:
    """Where a runtime of a 16-bit format may round. All of these occur: see docs/results/parity-faults.md."""
    to = partial(_through, dtype)
    plain = Arithmetic("float32 biases", operand=to, stored=to)
    biased = replace(plain, name="rounded biases", bias=to)
    return (plain, biased, replace(biased, name="sums rounded before the bias", product=to))


_VARIANTS: Final[Mapping[str, tuple[Arithmetic, ...]]] = {
    Precision.TF32: (
        Arithmetic("rounded operands", operand=partial(_bits, nearest=True)),
        TRUNCATED_TO_TF32,
    ),
    Precision.FP16: _of_format(torch.float16),
    Precision.BF16: _of_format(torch.bfloat16),
}


_FORMATS: Final[Mapping[str, torch.dtype]] = {
    Precision.FP16: torch.float16,
    Precision.FP16X2: torch.float16,
    Precision.BF16: torch.bfloat16,
}
"""What holds a layer's output, if it is not float32."""


def variants(executed: str, *, of_bytes: bool = False) -> tuple[Arithmetic, ...]:
    """The ways in which a right runtime of a precision may round. None for float32 and what is nearly as exact.

    Args:
        executed: The precision that the backend runs.
        of_bytes: Whether the images are bytes. A runtime may centre these, so that the weights' rounding counts less.
    """
    found = _VARIANTS.get(executed, ())
    return (*found, replace(found[0], name="centred bytes", centre=128.0)) if found and of_bytes else found


def forward(arrays: Mapping[str, np.ndarray], images: torch.Tensor, arithmetic: Arithmetic = EXACT) -> torch.Tensor:
    """Logits in float64.

    Args:
        arrays: float32 weights by parameter name.
        images: (N, 3, 32, 32), on any device: normalised float32, or uint8 bytes. Exact arithmetic normalises bytes
            in float64. Other arithmetic folds the normalisation into the weights, as runtimes do.
        arithmetic: Where to round.

    Returns:
        float64 (N, 10) on the CPU.
    """
    of_bytes = images.dtype is torch.uint8
    x = normalized(images) if arithmetic is EXACT else images.detach().cpu().double()
    with torch.inference_mode():
        for layer in LAYERS:
            parameters = parameters_of(layer, arrays)
            if parameters is not None and arithmetic is not EXACT:
                weight, bias = parameters
                if of_bytes and layer is LAYERS[0]:
                    weight, bias = folded(weight, bias)
                    x, bias = x - arithmetic.centre, bias + arithmetic.centre * weight.sum((1, 2, 3))
                weight, bias = arithmetic.operand(weight), arithmetic.bias(bias)
                x = arithmetic.product(affine(layer, arithmetic.operand(x), weight))
                x = arithmetic.stored(x + (bias.view(1, -1, 1, 1) if isinstance(layer, Conv2d) else bias))
            else:
                x = apply(layer, x, parameters)
    return x


def reference(arrays: Mapping[str, np.ndarray], images: torch.Tensor) -> torch.Tensor:
    """`forward` in exact arithmetic, with which logits are compared: float64 (N, 10) on the CPU."""
    return forward(arrays, images)


@dataclass(frozen=True, slots=True)
class Overflow:
    """A layer whose output is beyond what a precision holds, so that the weights are at fault and no backend is.

    Attributes:
        layer: Its name.
        largest: The largest size of a value there, in exact arithmetic.
        limit: The largest number of the precision's format.
        precision: The precision.
    """

    layer: str
    largest: float
    limit: float
    precision: str

    def __str__(self) -> str:
        return f"{self.layer} gives up to {self.largest:.3g}, beyond {self.precision}'s largest number {self.limit:.6g}"


def overflow(arrays: Mapping[str, np.ndarray], images: torch.Tensor, executed: str) -> Overflow | None:
    """The first layer whose output, before its activation, overflows in a precision; None if none does.

    Args:
        arrays: float32 weights by parameter name.
        images: (N, 3, 32, 32): normalised float32, or uint8 bytes.
        executed: The precision that the backend runs, not a quantised one: these saturate.
    """
    limit = torch.finfo(_FORMATS.get(executed, torch.float32)).max
    x = normalized(images)
    with torch.inference_mode():
        for layer in LAYERS:
            x = apply(layer, x, parameters_of(layer, arrays))
            largest = x.abs().max().item()
            if largest > limit:
                return Overflow(layer.name, largest, limit, executed)
    return None


def folded(weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias for bytes, of a convolution for normalised images."""
    mean, std = channels()
    return weight / (255 * std), bias - (weight * mean / std).sum((1, 2, 3))
