"""Which layer of a wrong backend is at fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from lenet.architecture import LAYERS
from lenet.parity.comparison import compare
from lenet.parity.network import reference
from lenet.parity.tolerance import tolerance

__all__ = ["diverging_layer"]


def diverging_layer(
    forward_with: Callable[[Mapping[str, np.ndarray]], Callable[[torch.Tensor], torch.Tensor]],
    arrays: Mapping[str, np.ndarray],
    images: torch.Tensor,
    executed: str,
) -> str | None:
    """Name the layer whose output strays from the reference, of a backend whose inside cannot be seen.

    The backend is built again with changed weights, so that only the end of the network is at work, one layer more
    each time, from the last layer to the first. What is in front of the end is made trivial in two ways: a constant
    that comes from a bias alone, and a selection of the inputs that needs no bias. A fault in front of the end cannot
    show in both, so the first end that is wrong in both begins with the layer at fault. The layers behind it are
    right; of several faults the last is named.

    Args:
        forward_with: Builds the suspect from weights.
        arrays: The weights with which it was found wrong.
        images: Images for which it was found wrong, on its device.
        executed: The precision that it runs.

    Returns:
        The layer's name (the fault may lie in the activation, pooling or flattening behind it), or None where no end
        of the network is wrong.
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
    allowed = tolerance(arrays, images, executed).clamp(min=torch.finfo(torch.float32).tiny)
    return compare(forward(images), reference(arrays, images), allowed).right


def _constant_front(arrays: Mapping[str, np.ndarray], front: list[str]) -> dict[str, np.ndarray]:
    """Weights of zero in front; the last bias in front is what the end gets."""
    changed = dict(arrays)
    for name in front:
        weight, bias = f"{name}.weight", f"{name}.bias"
        changed[weight] = np.zeros_like(arrays[weight])
        size = len(arrays[bias])
        last = name == front[-1]
        changed[bias] = np.linspace(0.25, 2.0, size, dtype=np.float32) if last else np.zeros(size, np.float32)
    return changed


def _selecting_front(arrays: Mapping[str, np.ndarray], front: list[str]) -> dict[str, np.ndarray]:
    """One weight of 1 a row and no bias in front: each output is one of the inputs, spread over all of them."""
    changed = dict(arrays)
    for name in front:
        weight = np.zeros_like(arrays[f"{name}.weight"])
        rows = np.arange(len(weight))
        flat = weight.reshape(len(weight), -1)
        flat[rows, rows * flat.shape[1] // len(weight)] = 1
        changed[f"{name}.weight"] = weight
        changed[f"{name}.bias"] = np.zeros_like(arrays[f"{name}.bias"])
    return changed
