"""LeNet in float64 on the CPU, by walking the architecture's table, exactly or with rounding where a format has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeAlias

import numpy as np
import torch
from torch.nn.functional import conv2d, linear, max_pool2d

from lenet.architecture import LAYERS, Conv2d, Flatten, Layer, Linear, MaxPool2d, ReLU
from lenet.data.augmentation import MEAN, STD
from lenet.vocabulary import Precision

__all__ = [
    "EXACT",
    "TRUNCATED_TO_TF32",
    "Arithmetic",
    "affine",
    "apply",
    "folded",
    "forward",
    "parameters_of",
    "reference",
    "variants",
]

Round: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""float64 in, float64 out, of the same shape: each value as a format holds it."""


def _exact(x: torch.Tensor) -> torch.Tensor:
    return x


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Where a runtime rounds. Sums are exact: what they add is the tolerance's.

    Attributes:
        name: What it is called where a runtime is said to be near it.
        operand: Of weights and inputs, where they are multiplied.
        bias: Of biases.
        product: Of a sum of products, before its bias is added.
        stored: Of a layer's result.
        centre: What is taken off bytes before they are multiplied; the first bias makes up for it.
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
    """float64 as TF32 holds it: float32 with 10 of its 23 bits of mantissa, rounded to the nearest or truncated."""
    bits = x.float().contiguous().view(torch.int32)
    if nearest:
        bits = bits + 0x0FFF + (bits >> 13 & 1)
    return (bits & ~0x1FFF).view(torch.float32).double()


TRUNCATED_TO_TF32: Final = Arithmetic("truncated operands", operand=partial(_bits, nearest=False))


def _of_format(dtype: torch.dtype) -> tuple[Arithmetic, ...]:
    """Where a runtime of 16 bits may round. All of them occur: see `Arithmetic` and docs/results/parity-faults.md."""
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


def variants(executed: str, *, of_bytes: bool = False) -> tuple[Arithmetic, ...]:
    """The ways in which a right runtime of an executed precision may round; none where that is float32's or nearly.

    Args:
        executed: The precision.
        of_bytes: Whether the images are bytes. Weights' rounding then counts less where a runtime centres these.
    """
    found = _VARIANTS.get(executed, ())
    return (*found, replace(found[0], name="centred bytes", centre=128.0)) if found and of_bytes else found


def forward(arrays: Mapping[str, np.ndarray], images: torch.Tensor, arithmetic: Arithmetic = EXACT) -> torch.Tensor:
    """Logits in float64.

    Args:
        arrays: float32 weights by parameter name.
        images: (N, 3, 32, 32), on any device: normalised float32, or uint8 bytes. Exact arithmetic normalises bytes
            in float64; any other gets them with weights that hold the normalisation, as runtimes do.
        arithmetic: Where to round.

    Returns:
        float64 (N, 10) on the CPU.
    """
    x = images.detach().cpu().double()
    of_bytes = images.dtype is torch.uint8
    if of_bytes and arithmetic is EXACT:
        mean, std = _channels()
        x = (x / 255 - mean) / std
    with torch.inference_mode():
        for layer in LAYERS:
            parameters = parameters_of(layer, arrays)
            if parameters is not None and arithmetic is not EXACT:
                weight, bias = parameters
                if of_bytes and layer is LAYERS[0]:
                    weight, bias = folded(weight, bias)
                    x, bias = x - arithmetic.centre, bias + arithmetic.centre * weight.sum((1, 2, 3))
                weight, bias = arithmetic.operand(weight), arithmetic.bias(bias)
                x = arithmetic.product(affine(layer, arithmetic.operand(x), weight, None))
                x = arithmetic.stored(x + (bias.view(1, -1, 1, 1) if isinstance(layer, Conv2d) else bias))
            else:
                x = apply(layer, x, parameters)
    return x


def reference(arrays: Mapping[str, np.ndarray], images: torch.Tensor) -> torch.Tensor:
    """`forward` by exact arithmetic: what logits are compared with."""
    return forward(arrays, images)


def parameters_of(layer: Layer, arrays: Mapping[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor] | None:
    """A layer's weight and bias in float64; None where it has none."""
    if not layer.parameter_shapes():
        return None
    weight, bias = (torch.from_numpy(arrays[f"{layer.name}.{part}"]).double() for part in ("weight", "bias"))
    return weight, bias


def folded(weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A convolution of normalised images as one of bytes."""
    mean, std = _channels()
    return weight / (255 * std), bias - (weight * mean / std).sum((1, 2, 3))


def apply(layer: Layer, x: torch.Tensor, parameters: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
    """A layer's output, with nothing rounded but by float64."""
    match layer:
        case Conv2d() | Linear() if parameters is not None:
            return affine(layer, x, *parameters)
        case ReLU():
            return x.clamp(min=0)
        case MaxPool2d(window=window):
            return max_pool2d(x, window)
        case Flatten():
            return x.flatten(1)
        case _:
            raise NotImplementedError(layer)


def affine(layer: Layer, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The sums of a convolution or of a fully connected layer."""
    return conv2d(x, weight, bias) if isinstance(layer, Conv2d) else linear(x, weight, bias)


def _channels() -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the channels, float64 (1, 3, 1, 1) each."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (MEAN, STD))
    return mean, std
