r"""The quantised network, and its exact evaluation.

Each convolution and each fully connected layer quantises its weights and its input. With the scales :math:`s_x` of the
input and :math:`s_c` of an output channel, and rounding to the format :math:`Q`,

.. math:: \hat x = Q(x / s_x), \qquad \hat w_c = Q(w_c / s_c), \qquad y_c = s_x s_c \sum \hat w_c \hat x + b_c.

All zero points are 0. The last layer's output, the logits, is not quantised. In int8 a bias is rounded to a multiple of
:math:`s_x s_c`, so that runtimes that add it to an int32 sum add the same number.

Rounding is monotone, so it commutes with ReLU and max-pooling. A runtime may quantise before or after them.

Source: Wu et al., "Integer quantization for deep learning inference: principles and empirical evaluation",
arXiv:2004.09602, sections 3 and 4. The ranges are those of LiteRT's specification of 8-bit quantisation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from lenet import float64
from lenet.architecture import LAYERS, Conv2d, Linear
from lenet.errors import QuantizationError
from lenet.quantization.formats import FORMATS, Format
from lenet.quantization.scales import Scales

__all__ = ["Affine", "evaluate", "inputs_of", "quantize"]

_INT32: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Affine:
    """A convolution or a fully connected layer of the quantised network.

    Attributes:
        layer: The layer.
        weight: float64, in PyTorch's layout: numbers of the format.
        weight_scale: float32 (out,).
        input_scale: float32.
        bias: float32 (out,).
    """

    layer: Conv2d | Linear
    weight: torch.Tensor
    weight_scale: np.ndarray
    input_scale: np.float32
    bias: np.ndarray

    def sums(self, x: torch.Tensor) -> torch.Tensor:
        """Sums of products of the format's numbers. float64 holds them exactly."""
        return float64.affine(self.layer, x, self.weight)

    def along_channels(self, values: np.ndarray) -> torch.Tensor:
        """One value for each output channel, float64, as it is broadcast over an output."""
        shape = (1, -1, 1, 1) if isinstance(self.layer, Conv2d) else (1, -1)
        return torch.from_numpy(values.astype(np.float64)).view(shape)

    @property
    def step(self) -> torch.Tensor:
        """The value of 1 in `sums`, by channel, float64."""
        return self.along_channels(self.weight_scale.astype(np.float64) * float(self.input_scale))


def quantize(arrays: Mapping[str, np.ndarray], scales: Scales) -> dict[str, Affine]:
    """The layers of a quantised network by name.

    Args:
        arrays: float32 weights by parameter name.
        scales: Of these weights.

    Raises:
        QuantizationError: A bias is beyond the int32 sums that it is added to.
    """
    form = FORMATS[scales.precision]
    return {layer.name: _affine(layer, arrays, scales, form) for layer in LAYERS if isinstance(layer, Conv2d | Linear)}


def _affine(layer: Conv2d | Linear, arrays: Mapping[str, np.ndarray], scales: Scales, form: Format) -> Affine:
    weight = torch.from_numpy(arrays[f"{layer.name}.weight"]).double()
    bias = arrays[f"{layer.name}.bias"]
    scale, input_scale = scales.weights[layer.name], scales.inputs[layer.name]
    by_channel = torch.from_numpy(scale).double().view(-1, *[1] * (weight.ndim - 1))
    if form.whole:
        step = scale.astype(np.float64) * float(input_scale)
        units = np.rint(bias / step)
        if np.abs(units).max() > _INT32:
            raise QuantizationError(
                f"{layer.name}.bias does not fit beside int8 products",
                found=f"{np.abs(units).max():.3g} times the product of the scales",
                wanted=f"at most {_INT32}, as int32 sums hold",
                hint="make scales of these weights with `lenet quantize`",
            )
        bias = (units * step).astype(np.float32)
    return Affine(layer, form.round(weight / by_channel), scale, input_scale, bias)


def evaluate(network: Mapping[str, Affine], scales: Scales, images: torch.Tensor) -> torch.Tensor:
    """Logits of the quantised network, with no rounding but the format's.

    Args:
        network: Of `quantize`.
        scales: Those that it was made with.
        images: (N, 3, 32, 32), on any device: normalised float32, or uint8 bytes.

    Returns:
        float64 (N, 10) on the CPU.
    """
    form = FORMATS[scales.precision]
    x = float64.normalized(images)
    with torch.inference_mode():
        for layer in LAYERS:
            affine = network.get(layer.name)
            if affine is None:
                x = float64.apply(layer, x)
            else:
                sums = affine.sums(form.round(x / float(affine.input_scale)))
                x = sums * affine.step + affine.along_channels(affine.bias)
    return x


def inputs_of(arrays: Mapping[str, np.ndarray], images: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Each weighted layer's name and its input in the float network, float64, from the first layer on.

    Args:
        arrays: float32 weights by parameter name.
        images: uint8 (N, 3, 32, 32).
    """
    x = float64.normalized(images)
    for layer in LAYERS:
        parameters = float64.parameters_of(layer, arrays)
        if parameters is not None:
            yield layer.name, x
        x = float64.apply(layer, x, parameters)
