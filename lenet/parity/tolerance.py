r"""How far the logits of a precision may stray from the float64 reference.

The tolerance is derived, not guessed. Take a dot product :math:`y = \sum_i w_i x_i + b` of length :math:`k`, computed
with unit roundoff :math:`u`. Its error has four sources:

1. the errors that the inputs already have, :math:`\sum_i w_i \delta x_i`;
2. rounding the operands to a format of unit roundoff :math:`u_o`: :math:`|\delta| \le u_o |w_i|` and
   :math:`u_o |x_i|` each;
3. the :math:`k` multiplications and :math:`k` additions of the sum;
4. storing the result in a format of unit roundoff :math:`u_s`: :math:`|\delta| \le u_s |y|`.

Worst-case bounds of source 3 grow with :math:`k u`, which is far too wide to catch a fault. But rounding errors behave
as if they were independent and of mean zero. Their sum then grows with :math:`\sqrt k\,u` (Higham and Mary, "A new
approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 41(5), 2019). So the layers pass on variances.

The rounding error of a value :math:`v` is taken as uniform on :math:`\pm u|v|`, with variance :math:`u^2 v^2 / 3`. Let
:math:`Q = \sum_i w_i^2 x_i^2`. If the order of the terms is unrelated to their values, the partial sum of a share
:math:`f` of them has mean square :math:`f^2 y^2 + f(1-f)Q`. That is at most :math:`y^2 + Q/4`. Together:

.. math:: \sigma_y^2 = \sum_i w_i^2 \sigma_{x_i}^2 + \frac{2 u_o^2}{3} Q + \frac{u^2}{3} Q
          + \frac{(k + 1) u^2}{3} (y^2 + Q/4) + \frac{u_s^2}{3} y^2

Images may also be bytes. The reference normalises them in float64. A backend is taken to fold the normalisation into
the first convolution (`lenet.models.byte_input`). This changes three things there:

- The operands are the bytes, which no format rounds, and the weights :math:`w' = w / (255 s)`. Folding rounds these to
  float32.
- The bias :math:`b' = b - \sum w m / s` is no longer small beside the sum. It is rounded as it is stored.
- The partial sums begin or end as far from zero as the bias is large. In their mean square :math:`y^2` becomes
  :math:`\max(y^2, (y - b')^2, b'^2)`.

ReLU passes a variance on. A max-pool passes on the largest variance in its window, since another element may win. A
logit may differ from the reference by `SIGMAS` standard deviations.

TF32 also allows operands to be truncated. The mean of that error is not zero: every operand becomes smaller. So the
network is computed with truncated operands as well. A tf32 logit may differ by the distance to that result in addition.
Without its mean, a truncation's error is as wide as a rounding's.

The expressions are evaluated in float64 on the CPU with the given weights and images. So the tolerance follows the size
of the numbers: extreme images are allowed more than flat ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch.nn.functional import max_pool2d

from lenet.architecture import LAYERS, Flatten, Layer, MaxPool2d
from lenet.errors import LenetError
from lenet.float64 import affine, apply, parameters_of
from lenet.parity.network import TRUNCATED_TO_TF32, folded, forward
from lenet.vocabulary import Precision

__all__ = ["SIGMAS", "ParityError", "Rounding", "rounding", "tolerance"]

SIGMAS: Final = 6.0
"""Standard deviations that a logit may stray. Of normal errors, one in 5e8 is larger."""


class ParityError(LenetError):
    """A backend's logits are wrong."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """Unit roundoffs (half the distance from 1 to the next number) of a precision's arithmetic.

    Attributes:
        operand: Of the format that operands of a multiplication are rounded to. 0 if they are float32 already.
        sum: Of the accumulator.
        stored: Of the format in which a layer's result is stored.
    """

    operand: float
    sum: float
    stored: float


_FLOAT32: Final = 2.0**-24
# A kernel may also give float32 operands to the tensor cores as they are. The tensor cores then read the upper bits
# alone (PTX ISA, mma with .tf32 operands). The error is as wide, but its mean is not zero. `tolerance` adds that mean.
_TF32: Final = 2.0**-11
_FLOAT16: Final = 2.0**-11
_BFLOAT16: Final = 2.0**-8
# An operand is split into two fp16 numbers. The second holds what rounding to the first left: at most 2^-11 of the
# value, with a relative error of 2^-11. The product leaves out low x low, which is at most 2^-22 |w x|. As a product of
# two uniform errors it has the variance 2^-44 (w x)^2 / 9. That is a sixth of the operands' 2 (2^-22)^2 (w x)^2 / 3.
_FLOAT16_PAIR: Final = 2.0**-22
_FLOAT16_PAIR_PRODUCT: Final = math.sqrt(7 / 6) * _FLOAT16_PAIR

_ROUNDING: Final[Mapping[str, Rounding]] = {
    Precision.FP32: Rounding(0.0, _FLOAT32, _FLOAT32),
    # Tensor cores truncate when they add, so a sum's error is up to twice a rounding's.
    Precision.TF32: Rounding(_TF32, 2 * _FLOAT32, _FLOAT32),
    Precision.FP16: Rounding(_FLOAT16, 2 * _FLOAT32, _FLOAT16),
    Precision.BF16: Rounding(_BFLOAT16, 2 * _FLOAT32, _BFLOAT16),
    Precision.FP16X2: Rounding(_FLOAT16_PAIR_PRODUCT, 2 * _FLOAT32, _FLOAT16_PAIR),
}


def rounding(executed: str) -> Rounding:
    """The roundoffs of an executed precision (`Backend.executed_precision`).

    Raises:
        ParityError: The precision is unknown.
    """
    if executed not in _ROUNDING:
        raise ParityError(
            f"there is no tolerance for {executed!r}",
            found=executed,
            wanted=", ".join(_ROUNDING),
            hint="derive its roundoffs and add them to lenet/parity/tolerance.py",
        )
    return _ROUNDING[executed]


def tolerance(arrays: Mapping[str, np.ndarray], images: torch.Tensor, executed: str) -> torch.Tensor:
    """How far each logit may be from the reference: `SIGMAS` standard deviations of this module's model.

    Args:
        arrays: float32 weights by parameter name.
        images: (N, 3, 32, 32), on any device: normalised float32, or uint8 bytes.
        executed: The precision that the backend really runs.

    Returns:
        float64 (N, 10) on the CPU.

    Raises:
        ParityError: The precision is unknown.
    """
    u = rounding(executed)
    x = images.detach().cpu().double()
    variance: torch.Tensor | None = None  # the images are exact
    of_bytes = images.dtype is torch.uint8
    with torch.inference_mode():
        for layer in LAYERS:
            parameters = parameters_of(layer, arrays)
            of_folded = of_bytes and layer is LAYERS[0]
            if of_folded and parameters is not None:
                parameters = folded(*parameters)
            y = apply(layer, x, parameters)
            if parameters is not None:
                variance = _variance(layer, x, y, variance, parameters, u, of_bytes=of_folded)
            elif variance is not None and isinstance(layer, MaxPool2d):
                variance = max_pool2d(variance, layer.window)
            elif variance is not None and isinstance(layer, Flatten):
                variance = variance.flatten(1)
            x = y
    assert variance is not None  # the last layer has weights
    allowed = SIGMAS * variance.sqrt()
    return allowed + (forward(arrays, images, TRUNCATED_TO_TF32) - x).abs() if executed == Precision.TF32 else allowed


def _variance(
    layer: Layer,
    x: torch.Tensor,
    y: torch.Tensor,
    variance: torch.Tensor | None,
    parameters: tuple[torch.Tensor, torch.Tensor],
    u: Rounding,
    *,
    of_bytes: bool,
) -> torch.Tensor:
    """The variance of ``y`` by this module's formula.

    Args:
        layer: A convolution or a fully connected layer.
        x: Its input, float64.
        y: Its output, float64.
        variance: Of ``x``. None if ``x`` is exact.
        parameters: Its weight and bias, float64.
        u: The precision's roundoffs.
        of_bytes: Whether ``x`` is bytes, and the weights hold their normalisation.
    """
    weight, bias = parameters
    length = weight[0].numel()
    square = u.operand**2 * 2 / 3
    peak = y**2
    stored = u.stored**2 / 3 * y**2
    if of_bytes:
        square = (u.operand**2 + _FLOAT32**2) / 3
        bias = bias.view(1, -1, 1, 1)
        peak = torch.maximum(peak, torch.maximum((y - bias) ** 2, bias**2))
        stored = stored + u.stored**2 / 3 * bias**2
    terms = affine(layer, x**2, weight**2, None)
    summed = u.sum**2 / 3 * (terms + (length + 1) * (peak + terms / 4))
    added = square * terms + summed + stored
    return added if variance is None else affine(layer, variance, weight**2, None) + added
