"""LeNet as a plain PyTorch module."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn.functional import max_pool2d, relu

from lenet import architecture, weights
from lenet.models.byte_input import fold_normalization

__all__ = ["LeNet", "Network", "from_weights", "network", "to_arrays"]

_LAYERS = {layer.name: layer for layer in architecture.LAYERS}


def _convolution(name: str) -> nn.Conv2d:
    layer = _LAYERS[name]
    assert isinstance(layer, architecture.Conv2d)
    return nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel)


def _linear(name: str) -> nn.Linear:
    layer = _LAYERS[name]
    assert isinstance(layer, architecture.Linear)
    return nn.Linear(layer.in_features, layer.out_features)


class LeNet(nn.Module):
    """The network of `lenet.architecture`: float32 (N, 3, 32, 32) -> logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _convolution("conv1")
        self.conv2 = _convolution("conv2")
        self.fc1 = _linear("fc1")
        self.fc2 = _linear("fc2")
        self.fc3 = _linear("fc3")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of normalised images.

        Args:
            images: (N, 3, 32, 32), with the dtype and device of the parameters.

        Returns:
            (N, 10), with the same dtype and device.
        """
        x = max_pool2d(relu(self.conv1(images)), 2)
        x = max_pool2d(relu(self.conv2(x)), 2)
        x = x.flatten(1)
        x = relu(self.fc1(x))
        x = relu(self.fc2(x))
        logits: torch.Tensor = self.fc3(x)
        return logits


class Network(LeNet):
    """A LeNet of any dtype that takes images of another and gives float32 logits.

    Args:
        dtype: Of its parameters.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.to(dtype)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Cast, run, cast back; between float32 and float32 a cast does nothing."""
        return super().forward(images.to(self.dtype)).float()


def from_weights(arrays: Mapping[str, np.ndarray], dtype: torch.dtype = torch.float32) -> LeNet:
    """A LeNet in evaluation mode on the CPU.

    Args:
        arrays: float32 weights by parameter name.
        dtype: The dtype that parameters are rounded to.

    Raises:
        WeightsError: A weight is beyond the dtype's range.
    """
    model = LeNet().to(dtype)
    model.load_state_dict(weights.narrow(arrays, dtype))
    return model.eval()


def network(
    arrays: Mapping[str, np.ndarray], dtype: torch.dtype = torch.float32, images: torch.dtype = torch.float32
) -> Network:
    """A `Network` in evaluation mode on the CPU.

    Args:
        arrays: float32 arrays by parameter name.
        dtype: What its parameters are rounded to.
        images: Of its input: float32 for normalised images, uint8 for bytes, whose normalisation is then inside.

    Raises:
        WeightsError: A weight is beyond the dtype's range.
    """
    if images is torch.uint8:
        arrays = fold_normalization(arrays)
    model = Network(dtype)
    model.load_state_dict(weights.narrow(arrays, dtype))
    return model.eval()


def to_arrays(model: LeNet) -> weights.Arrays:
    """A float32 network's parameters by name, as contiguous arrays on the host: the inverse of `from_weights`."""
    return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in model.named_parameters()}
