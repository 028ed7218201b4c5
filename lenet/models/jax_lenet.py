"""LeNet as a function of JAX, from the table of layers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from lenet import weights
from lenet.architecture import LAYERS, Conv2d, Flatten, Layer, Linear, MaxPool2d, ReLU
from lenet.models.byte_input import fold_normalization

__all__ = ["network"]


def network(
    arrays: Mapping[str, np.ndarray], dtype: torch.dtype, images: torch.dtype, *, exact: bool
) -> Callable[[Any], Any]:
    """A function for ``jax.jit``, with the weights as constants.

    Args:
        arrays: float32 weights by parameter name.
        dtype: What weights and activations are held in.
        images: Of its input: float32 for normalised images, uint8 for bytes, whose normalisation is then inside.
        exact: Compute products of float32 operands in float32. Else XLA may round the operands to TF32.

    Returns:
        A function of images (N, 3, 32, 32), which gives float32 logits (N, 10).

    Raises:
        WeightsError: A weight is beyond the dtype's range.
    """
    jax = importlib.import_module("jax")
    if images is torch.uint8:
        arrays = fold_normalization(arrays)
    # Rounded to the dtype, and held in float32: NumPy has no bfloat16.
    rounded = {name: tensor.float().numpy() for name, tensor in weights.narrow(arrays, dtype).items()}
    element = str(dtype).removeprefix("torch.")
    precision = jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.DEFAULT

    def parameter(name: str) -> Any:
        return jax.numpy.asarray(rounded[name], dtype=element)

    def forward(x: Any) -> Any:
        x = x.astype(element)
        for layer in LAYERS:
            x = _apply(jax, layer, x, parameter, precision)
        return x.astype("float32")

    return forward


def _apply(jax: Any, layer: Layer, x: Any, parameter: Callable[[str], Any], precision: Any) -> Any:
    """A layer's output, by JAX's own functions."""
    if isinstance(layer, Conv2d):
        layout = ("NCHW", "OIHW", "NCHW")
        weight, bias = parameter(f"{layer.name}.weight"), parameter(f"{layer.name}.bias")
        sums = jax.lax.conv_general_dilated(x, weight, (1, 1), "VALID", dimension_numbers=layout, precision=precision)
        return sums + bias[:, None, None]
    if isinstance(layer, Linear):
        weight, bias = parameter(f"{layer.name}.weight"), parameter(f"{layer.name}.bias")
        return jax.numpy.dot(x, weight.T, precision=precision) + bias
    if isinstance(layer, MaxPool2d):
        window = (1, 1, layer.window, layer.window)
        return jax.lax.reduce_window(x, -np.inf, jax.lax.max, window, window, "VALID")
    if isinstance(layer, ReLU):
        return jax.nn.relu(x)
    assert isinstance(layer, Flatten)
    return x.reshape(x.shape[0], -1)
