"""The network's layers in float64, for references: no rounding but float64's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn.functional import conv2d, linear, max_pool2d

from lenet.architecture import Conv2d, Flatten, Layer, Linear, MaxPool2d, ReLU
from lenet.data.augmentation import MEAN, STD

__all__ = ["affine", "apply", "channels", "normalized", "parameters_of"]


def channels() -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the channels, each float64 (1, 3, 1, 1)."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (MEAN, STD))
    return mean, std


def normalized(images: torch.Tensor) -> torch.Tensor:
    """Images in float64 on the CPU; bytes are normalised."""
    x = images.detach().cpu().double()
    if images.dtype is not torch.uint8:
        return x
    mean, std = channels()
    return (x / 255 - mean) / std


def parameters_of(layer: Layer, arrays: Mapping[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor] | None:
    """A layer's weight and bias in float64, or None if it has none."""
    if not layer.parameter_shapes():
        return None
    weight, bias = (torch.from_numpy(arrays[f"{layer.name}.{part}"]).double() for part in ("weight", "bias"))
    return weight, bias


def apply(layer: Layer, x: torch.Tensor, parameters: tuple[torch.Tensor, torch.Tensor] | None = None) -> torch.Tensor:
    """A layer's output.

    Args:
        layer: The layer.
        x: Its input, float64.
        parameters: Its weight and bias, float64. None for a layer without.
    """
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


def affine(layer: Layer, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """The output of a convolution or of a fully connected layer."""
    return conv2d(x, weight, bias) if isinstance(layer, Conv2d) else linear(x, weight, bias)
