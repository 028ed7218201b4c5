"""LeNet as a TriPy module. Import this module only on use: it imports nvtripy, and with it TensorRT."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import nvtripy as tp
import torch

from lenet import architecture, weights

__all__ = ["LeNet", "convert_state_torch_to_tripy", "from_weights"]

_LAYERS = {layer.name: layer for layer in architecture.LAYERS}


def _convolution(name: str, dtype: tp.dtype) -> tp.Conv:
    layer = _LAYERS[name]
    assert isinstance(layer, architecture.Conv2d)
    return tp.Conv(layer.in_channels, layer.out_channels, (layer.kernel, layer.kernel), dtype=dtype)


def _linear(name: str, dtype: tp.dtype) -> tp.Linear:
    layer = _LAYERS[name]
    assert isinstance(layer, architecture.Linear)
    return tp.Linear(layer.in_features, layer.out_features, dtype=dtype)


def _max_pool(name: str, x: tp.Tensor) -> tp.Tensor:
    layer = _LAYERS[name]
    assert isinstance(layer, architecture.MaxPool2d)
    window = (layer.window, layer.window)
    return tp.maxpool(x, window, stride=window)  # TriPy's default stride is 1, not the window


class LeNet(tp.Module):  # type: ignore[misc]  # nvtripy has no types
    """The network of `lenet.architecture`: images (N, 3, 32, 32) -> float32 logits (N, 10).

    Its parameters have no values until `load_state_dict` sets them; see `from_weights`.

    Args:
        dtype: Of parameters and activations: ``tp.float32``, ``tp.float16`` or ``tp.bfloat16``. The network casts
            images to it, and logits back to float32.
    """

    def __init__(self, dtype: tp.dtype = tp.float32) -> None:
        super().__init__()
        self.dtype = dtype
        self.conv1 = _convolution("conv1", dtype)
        self.conv2 = _convolution("conv2", dtype)
        self.fc1 = _linear("fc1", dtype)
        self.fc2 = _linear("fc2", dtype)
        self.fc3 = _linear("fc3", dtype)

    def forward(self, images: tp.Tensor) -> tp.Tensor:
        """Logits of normalised images.

        Args:
            images: (N, 3, 32, 32), of any dtype.

        Returns:
            float32 (N, 10).
        """
        x = tp.cast(images, self.dtype)
        x = _max_pool("pool1", tp.relu(self.conv1(x)))
        x = _max_pool("pool2", tp.relu(self.conv2(x)))
        x = tp.flatten(x, start_dim=1)
        x = tp.relu(self.fc1(x))
        x = tp.relu(self.fc2(x))
        return tp.cast(self.fc3(x), tp.float32)


def convert_state_torch_to_tripy(
    state: Mapping[str, np.ndarray | torch.Tensor], dtype: tp.dtype = tp.float32
) -> dict[str, tp.Tensor]:
    """Convert parameters of PyTorch's LeNet to TriPy's. Both have the same names, shapes and layout.

    Args:
        state: Arrays by parameter name (`lenet.weights.load`), or a PyTorch state dict on any device.
        dtype: Of the parameters. PyTorch rounds to it, so that both frameworks run the same values.

    Returns:
        Tensors in host memory, where TriPy wants the constants of a compiled function. They own their memory, since
        TriPy refuses memory that is not contiguous or not writable.

    Raises:
        WeightsError: A weight is beyond the dtype's range.
    """
    arrays = {name: _host_copy(value) for name, value in state.items()}
    return {name: tp.Tensor(tensor) for name, tensor in weights.narrow(arrays, getattr(torch, dtype.name)).items()}


def _host_copy(value: np.ndarray | torch.Tensor) -> np.ndarray:
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
    return np.array(array, dtype=np.float32, order="C")


def from_weights(arrays: Mapping[str, np.ndarray], dtype: tp.dtype = tp.float32) -> LeNet:
    """A LeNet with the given weights.

    Args:
        arrays: float32 arrays by parameter name, exactly those of the architecture.
        dtype: Of parameters and activations.

    Raises:
        nvtripy.TripyException: A parameter is missing, extra, or of another shape.
    """
    model = LeNet(dtype)
    model.load_state_dict(convert_state_torch_to_tripy(arrays, dtype))
    return model
