"""The quantised LeNet in PyTorch, by fake quantisation: float32 arithmetic on the values of 8-bit numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn.functional import conv2d, linear, max_pool2d, relu

from lenet.architecture import LAYERS, Conv2d, MaxPool2d, ReLU
from lenet.data.augmentation import MEAN, STD
from lenet.quantization import Affine, Scales, quantize, resolve
from lenet.vocabulary import Precision

__all__ = ["QuantizedLeNet", "quantized_network"]


class QuantizedLeNet(nn.Module):
    """The quantised network: images (N, 3, 32, 32), normalised float32 or bytes, to float32 logits (N, 10).

    Args:
        network: Its layers by name.
        precision: INT8 or FP8.
    """

    def __init__(self, network: Mapping[str, Affine], precision: Precision) -> None:
        super().__init__()
        self.precision = precision
        for name, affine in network.items():
            scale = torch.from_numpy(affine.weight_scale).view(-1, *[1] * (affine.weight.ndim - 1))
            self.register_buffer(f"{name}_weight", affine.weight.float() * scale)
            self.register_buffer(f"{name}_bias", torch.from_numpy(affine.bias))
            self.register_buffer(f"{name}_scale", torch.tensor(affine.input_scale))
        self.mean: torch.Tensor
        self.std: torch.Tensor
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of images on the device of the buffers."""
        x = images
        if x.dtype is torch.uint8:
            x = (x.float() / 255 - self.mean) / self.std
        for layer in LAYERS:
            match layer:
                case ReLU():
                    x = relu(x)
                case MaxPool2d(window=window):
                    x = max_pool2d(x, window)
                case _ if not layer.parameter_shapes():
                    x = x.flatten(1)
                case _:
                    weight, bias, scale = (
                        getattr(self, f"{layer.name}_{part}") for part in ("weight", "bias", "scale")
                    )
                    x = self._rounded(x / scale) * scale
                    x = conv2d(x, weight, bias) if isinstance(layer, Conv2d) else linear(x, weight, bias)
        return x

    def _rounded(self, x: torch.Tensor) -> torch.Tensor:
        if self.precision is Precision.INT8:
            return x.round().clamp(-128, 127)
        return x.clamp(-448, 448).to(torch.float8_e4m3fn).float()


def quantized_network(
    arrays: Mapping[str, np.ndarray], precision: Precision, scales: Scales | None = None
) -> QuantizedLeNet:
    """A quantised LeNet in evaluation mode on the CPU.

    Args:
        arrays: float32 weights by parameter name.
        precision: INT8 or FP8.
        scales: Of these weights. None for the shipped ones.

    Raises:
        QuantizationError: The scales do not fit the weights.
    """
    return QuantizedLeNet(quantize(arrays, resolve(arrays, precision, scales)), precision).eval()
