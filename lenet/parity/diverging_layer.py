"""Find the layer at fault in a backend with wrong logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from lenet.architecture import LAYERS
from lenet.parity.comparison import compare
from lenet.parity.network import reference
from lenet.parity.quantized import quantized_reference
from lenet.parity.tolerance import tolerance
from lenet.quantization import Method, Scales, calibrate_on, quantize, quantized_precision

__all__ = ["diverging_layer", "probing_scales"]


def diverging_layer(
    forward_with: Callable[[Mapping[str, np.ndarray]], Callable[[torch.Tensor], torch.Tensor]],
    arrays: Mapping[str, np.ndarray],
    images: torch.Tensor,
    executed: str,
) -> str | None:
    """Name the layer whose output strays from the reference. The backend is a black box.

    The backend is built again and again, each time with weights that leave one layer more at work, from the last layer
    on. The layers in front of these become trivial in two ways: a constant from a bias alone, and a selection of inputs
    without a bias. A fault in front cannot show in both. So when the logits are first wrong in both, the layer that was
    added last is at fault. With several faults the last layer is named.

    Args:
        forward_with: Builds the backend from weights, and from their `probing_scales`.
        arrays: The weights for which its logits are wrong.
        images: Images for which they are wrong, on its device.
        executed: The precision that it runs.

    Returns:
        The layer's name, or None if no build is wrong. The fault may also lie in the activation, pooling or flattening
        behind that layer.
    """
    names = [layer.name for layer in LAYERS if layer.parameter_shapes()]
    for position in reversed(range(len(names))):
        fronts = (_constant_front, _selecting_front)
        ends = [front(arrays, names[:position]) for front in fronts[: 2 if position else 1]]
        if not any(_is_right(forward_with(end), end, images, executed) for end in ends):
            return names[position]
    return None


def _is_right(
    forward: Callable[[torch.Tensor], torch.Tensor],
    arrays: Mapping[str, np.ndarray],
    images: torch.Tensor,
    executed: str,
) -> bool:
    scales = probing_scales(arrays, images, executed)
    if scales is None:
        wanted, allowed = reference(arrays, images), tolerance(arrays, images, executed)
    else:
        wanted, allowed = quantized_reference(quantize(arrays, scales), scales, images)
    return compare(forward(images), wanted, allowed.clamp(min=torch.finfo(torch.float32).tiny)).right


def probing_scales(arrays: Mapping[str, np.ndarray], images: torch.Tensor, executed: str) -> Scales | None:
    """The scales with which a build of changed weights is compared, or None if the precision has none.

    Args:
        arrays: Weights that `diverging_layer` builds with.
        images: Its images, which they are calibrated on.
        executed: The precision that the backend runs.
    """
    precision = quantized_precision(executed)
    return None if precision is None else calibrate_on(arrays, images, precision, Method.MAX, probing=True)


def _constant_front(arrays: Mapping[str, np.ndarray], front: list[str]) -> dict[str, np.ndarray]:
    """Weights with zeros in the front layers, whose last bias is then the input of the layers behind."""
    changed = dict(arrays)
    for name in front:
        weight, bias = f"{name}.weight", f"{name}.bias"
        changed[weight] = np.zeros_like(arrays[weight])
        size = len(arrays[bias])
        last = name == front[-1]
        changed[bias] = np.linspace(0.25, 2.0, size, dtype=np.float32) if last else np.zeros(size, np.float32)
    return changed


def _selecting_front(arrays: Mapping[str, np.ndarray], front: list[str]) -> dict[str, np.ndarray]:
    """Weights with one 1 a row and no bias in the front layers, so that each output there is one of the inputs."""
    changed = dict(arrays)
    for name in front:
        weight = np.zeros_like(arrays[f"{name}.weight"])
        rows = np.arange(len(weight))
        flat = weight.reshape(len(weight), -1)
        flat[rows, rows * flat.shape[1] // len(weight)] = 1
        changed[f"{name}.weight"] = weight
        changed[f"{name}.bias"] = np.zeros_like(arrays[f"{name}.bias"])
    return changed
