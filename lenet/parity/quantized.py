r"""How far a runtime of the quantised network may be from its exact evaluation.

A runtime computes the value :math:`y` that a layer quantises with float32 rounding errors. Only where :math:`y / s` is
that near to the middle of two numbers of the format may it round to the other one. So each activation has an interval
of numbers that a right runtime may hold. Nearly always the interval holds one number.

The intervals pass through the network. Let :math:`[l_i, h_i]` be the interval of a layer's inputs, :math:`c_i` its
middle and :math:`r_i` half its width. Then

.. math:: y \in \sum_i w_i c_i + b \pm \left(\sum_i |w_i| r_i + 6 \sigma\right),

where :math:`\sigma` covers the runtime's float32 rounding. Rounding, ReLU and max-pooling are monotone, so they map the
interval's ends. This is what one step does downstream: it moves a sum by at most its weight, and that may bring more
activations near the middle of two numbers. A logit of most images may stray by float32's rounding alone. For the others
the interval is wide, since it takes every further step for possible.

The runtime may multiply float32 values (fake quantisation) or add whole numbers. With the unit roundoff :math:`u`, the
length :math:`k` and :math:`Q = \sum_i w_i^2 x_i^2`, the model of `lenet.parity.tolerance` gives

.. math:: \sigma^2 = \frac{u^2}{3} \left(3 Q + 4 (k + 1) (y^2 + b^2 + Q/4) + 6 y^2 + 2 b^2\right).

The terms are: rounding the operands and their products; the sum, which may truncate; the bias, the scale and the
division by the next scale.

A runtime of int8 may add 128 to :math:`y / s` before it rounds, as OpenVINO's FakeQuantize does. Its roundoffs are at
most :math:`3 \cdot 128 u` then, which the interval allows on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch

from lenet import float64
from lenet.architecture import LAYERS
from lenet.data.augmentation import MEAN, STD
from lenet.parity.tolerance import SIGMAS
from lenet.quantization.formats import FORMATS
from lenet.quantization.network import Affine, evaluate
from lenet.quantization.scales import Scales

__all__ = ["quantized_reference"]

_UNIT: Final = 2.0**-24

_SHIFTED: Final = 3 * 128 * _UNIT
"""What adding 128 and rounding may change, in steps of int8."""


def quantized_reference(
    network: Mapping[str, Affine], scales: Scales, images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of the quantised network, and how far a runtime's may be from them.

    Args:
        network: Of `lenet.quantization.quantize`.
        scales: Those that it was made with.
        images: (N, 3, 32, 32), on any device: normalised float32, or uint8 bytes.

    Returns:
        Two float64 tensors (N, 10) on the CPU.
    """
    exact = evaluate(network, scales, images)
    form = FORMATS[scales.precision]
    shifted = _SHIFTED if form.whole else 0.0
    low, high = _image_interval(images)
    with torch.inference_mode():
        for layer in LAYERS:
            affine = network.get(layer.name)
            if affine is None:
                low, high = float64.apply(layer, low), float64.apply(layer, high)
            else:
                scale = float(affine.input_scale)
                low, high = _affine_interval(
                    affine, form.round(low / scale - shifted), form.round(high / scale + shifted)
                )
    return exact, torch.maximum(high - exact, exact - low)


def _image_interval(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a runtime may divide by the first scale. It normalises bytes in float32, in any order of operations."""
    x = float64.normalized(images)
    size = x.abs()
    if images.dtype is torch.uint8:
        shift = torch.tensor([mean / std for mean, std in zip(MEAN, STD, strict=True)], dtype=torch.float64)
        size = size + 2 * shift.view(1, 3, 1, 1)
    margin = 4 * _UNIT * size
    return x - margin, x + margin


def _affine_interval(affine: Affine, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The interval of a layer's output, from that of its quantised input, in the format's numbers."""
    middle, radius = (low + high) / 2, (high - low) / 2
    step, bias = affine.step, affine.along_channels(affine.bias)
    y = affine.sums(middle) * step + bias
    terms = float64.affine(affine.layer, middle**2, affine.weight**2) * step**2
    length = affine.weight[0].numel()
    summed = 4 * (length + 1) * (y**2 + bias**2 + terms / 4)
    sigma = _UNIT * ((3 * terms + summed + 6 * y**2 + 2 * bias**2) / 3).sqrt()
    width = float64.affine(affine.layer, radius, affine.weight.abs()) * step + SIGMAS * sigma
    return y - width, y + width
