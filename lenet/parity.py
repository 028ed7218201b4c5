r"""Whether logits are right: a float64 reference, and how far a precision may stray from it.

The tolerance is derived, not guessed. A dot product :math:`y = \sum_i w_i x_i + b` of length :math:`k`, computed with
unit roundoff :math:`u` from operands that carry an error already, gets an error from four sources:

1. the operands' own errors, :math:`\sum_i w_i \delta x_i`;
2. rounding the operands to a format of unit roundoff :math:`u_o`: :math:`|\delta| \le u_o |w_i|` and
   :math:`u_o |x_i|` each;
3. the :math:`k` multiplications and :math:`k` additions of the sum;
4. storing the result in a format of unit roundoff :math:`u_s`: :math:`|\delta| \le u_s |y|`.

Worst-case bounds of 3 grow with :math:`k u` and are far too wide to catch a fault. Rounding errors behave as if they
were independent and of mean zero (Higham and Mary, "A new approach to probabilistic rounding error analysis", SIAM J.
Sci. Comput. 41(5), 2019), and then grow with :math:`\sqrt k\,u`. So variances are carried through the layers instead.
A rounding error of a value :math:`v` is taken as uniform on :math:`\pm u|v|`, of variance :math:`u^2 v^2 / 3`. The
partial sums of terms that come in an order unrelated to their values have a mean square of at most :math:`y^2 + Q/4`,
where :math:`Q = \sum_i w_i^2 x_i^2` (after a share :math:`f` of the terms it is :math:`f^2 y^2 + f(1-f)Q`). Together:

.. math:: \sigma_y^2 = \sum_i w_i^2 \sigma_{x_i}^2 + \frac{2 u_o^2}{3} Q + \frac{u^2}{3} Q
          + \frac{(k + 1) u^2}{3} (y^2 + Q/4) + \frac{u_s^2}{3} y^2

Images may also be bytes. Their reference normalises them in float64. A backend is taken to fold the normalisation into
the first convolution (`lenet.models.byte_input`): its operands are then the bytes, which no format rounds, and weights
:math:`w' = w / (255 s)`, which are rounded to float32 when they are folded; its bias :math:`b' = b - \sum w m / s`, no
longer small beside the sum, is rounded as it is stored; and the partial sums begin or end as far from zero as the bias
is large, so that :math:`y^2` in their mean square becomes :math:`\max(y^2, (y - b')^2, b'^2)`.

ReLU and max-pooling pass a variance on: a pool's output takes the largest of its window's, since another element may
win. A logit may differ from the reference by `SIGMAS` standard deviations.

The expressions are evaluated in float64 on the CPU, with the weights and the images at hand, so the tolerance follows
the size of the numbers: extreme images are allowed more than flat ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch.nn.functional import conv2d, linear, max_pool2d

from lenet.architecture import LAYERS, Conv2d, Flatten, Layer, Linear, MaxPool2d, ReLU
from lenet.data.augmentation import MEAN, STD
from lenet.errors import LenetError

__all__ = [
    "SIGMAS",
    "Comparison",
    "ParityError",
    "Reference",
    "Rounding",
    "compare",
    "diverging_layer",
    "reference",
    "rounding",
    "tolerance",
]

SIGMAS: Final = 6.0
"""Standard deviations that a logit may stray: for a normal error, one in 5e8 strays further."""


_CHUNK: Final = 1000
"""Images that are worked on at once: float64 activations of more would take gigabytes."""


class ParityError(LenetError):
    """A backend's logits are not those of the network."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """Unit roundoffs (half the distance from 1 to the next number) of a precision's arithmetic.

    Attributes:
        operand: Of the format that operands of a multiplication are rounded to; 0 where they are float32 already.
        sum: Of the accumulator.
        stored: Of the format that a layer's result is stored in.
    """

    operand: float
    sum: float
    stored: float


_FLOAT32: Final = 2.0**-24
# Rounding to TF32's 10 bits would give 2^-11. But a kernel may hand the tensor cores its float32 operands as they are,
# and they read the upper bits alone: truncation, of up to 2^-10 (PTX ISA, mma with .tf32 operands). On an H100 Triton's
# kernels do so and cuDNN's do not.
_TF32: Final = 2.0**-10
_FLOAT16: Final = 2.0**-11
_BFLOAT16: Final = 2.0**-8
# An operand split into two fp16 numbers: the second holds what rounding to the first left, at most 2^-11 of the value,
# to within 2^-11 of itself. Its product leaves out low x low, of at most 2^-22 |w x| and, as the product of two
# uniform errors, variance 2^-44 (w x)^2 / 9: as much as another sixth of the operands' 2 (2^-22)^2 (w x)^2 / 3.
_FLOAT16_PAIR: Final = 2.0**-22
_FLOAT16_PAIR_PRODUCT: Final = math.sqrt(7 / 6) * _FLOAT16_PAIR

_ROUNDING: Final = {
    "fp32": Rounding(0.0, _FLOAT32, _FLOAT32),
    # The tensor cores truncate where they add, so a sum's error is up to twice a rounding's.
    "tf32": Rounding(_TF32, 2 * _FLOAT32, _FLOAT32),
    "fp16": Rounding(_FLOAT16, 2 * _FLOAT32, _FLOAT16),
    "bf16": Rounding(_BFLOAT16, 2 * _FLOAT32, _BFLOAT16),
    "fp16x2": Rounding(_FLOAT16_PAIR_PRODUCT, 2 * _FLOAT32, _FLOAT16_PAIR),
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
            hint="derive its roundoffs and add them to lenet/parity.py",
        )
    return _ROUNDING[executed]


def reference(arrays: Mapping[str, np.ndarray], images: torch.Tensor) -> torch.Tensor:
    """Logits in float64 on the CPU, by walking the architecture's table.

    Args:
        arrays: Weights by parameter name.
        images: (N, 3, 32, 32), on any device: normalised float32, or uint8 bytes.

    Returns:
        float64 (N, 10) on the CPU.
    """
    x = images.detach().cpu().double()
    if images.dtype is torch.uint8:
        mean, std = _channels()
        x = (x / 255 - mean) / std
    with torch.inference_mode():
        for layer in LAYERS:
            x = _apply(layer, x, _weights(layer, arrays))
    return x


def tolerance(arrays: Mapping[str, np.ndarray], images: torch.Tensor, executed: str) -> torch.Tensor:
    """How far each logit may be from the reference: `SIGMAS` standard deviations of the module's model.

    Args:
        arrays: Weights by parameter name.
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
            parameters = _weights(layer, arrays)
            folded = of_bytes and layer is LAYERS[0]
            if folded and parameters is not None:
                parameters = _folded(*parameters)
            y = _apply(layer, x, parameters)
            if parameters is not None:
                variance = _variance(layer, x, y, variance, parameters, u, folded=folded)
            elif variance is not None and isinstance(layer, MaxPool2d):
                variance = max_pool2d(variance, layer.window)
            elif variance is not None and isinstance(layer, Flatten):
                variance = variance.flatten(1)
            x = y
    assert variance is not None  # the last layer has weights
    return SIGMAS * variance.sqrt()


class Reference:
    """The reference logits of some images, and each tolerance once it is asked for: both are slow, and worth keeping.

    Attributes:
        images: (N, 3, 32, 32), on the CPU: normalised float32, or uint8 bytes.
        logits: `reference` of them.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], images: torch.Tensor) -> None:
        self.images = images
        self.logits = torch.cat([reference(arrays, chunk) for chunk in images.split(_CHUNK)])
        self._arrays = arrays
        self._tolerances: dict[str, torch.Tensor] = {}

    def tolerance(self, executed: str) -> torch.Tensor:
        """`tolerance` of the images at a precision."""
        if executed not in self._tolerances:
            chunks = self.images.split(_CHUNK)
            self._tolerances[executed] = torch.cat([tolerance(self._arrays, chunk, executed) for chunk in chunks])
        return self._tolerances[executed]

    def compare(self, logits: torch.Tensor, executed: str) -> Comparison:
        """`compare` logits of these images, computed at a precision."""
        return compare(logits, self.logits, self.tolerance(executed))


@dataclass(frozen=True, slots=True)
class Comparison:
    """A backend's logits against the float64 reference's.

    Attributes:
        max_abs_delta: Largest |logit - reference|; infinite where a logit is not finite.
        max_share: Largest |logit - reference| over its own tolerance; at most 1 where all is right.
        top1_agreement: Share of images with the same largest logit, 0-1.
        flips: Images whose largest logit differs although the reference's lead is wider than both logits' tolerances.
        images: Number of images.
    """

    max_abs_delta: float
    max_share: float
    top1_agreement: float
    flips: int
    images: int

    @property
    def right(self) -> bool:
        """Whether every logit is within its tolerance, and no image changed its class beyond doubt."""
        return self.max_share <= 1 and self.flips == 0

    def __str__(self) -> str:
        return (
            f"max |delta logit| {self.max_abs_delta:.2e}, {self.max_share:.3g} of the tolerance, "
            f"top-1 agreement {self.top1_agreement:.4f} over {self.images:,} images"
        )


def compare(logits: torch.Tensor, wanted: torch.Tensor, allowed: torch.Tensor) -> Comparison:
    """Compare logits with the reference.

    Args:
        logits: (N, 10), any float type, any device.
        wanted: `reference` of the same images.
        allowed: `tolerance` of the same images.
    """
    found = logits.detach().cpu().double()
    delta = (found - wanted).abs().nan_to_num(nan=math.inf, posinf=math.inf)
    best, found_best = wanted.argmax(1), found.argmax(1)
    rows = torch.arange(len(wanted))
    lead = wanted[rows, best] - wanted[rows, found_best]
    doubt = allowed[rows, best] + allowed[rows, found_best]
    return Comparison(
        max_abs_delta=delta.max().item(),
        # An exact logit is right where nothing is allowed either, as with weights of zero.
        max_share=torch.where(delta == 0, 0.0, delta / allowed).max().item(),
        top1_agreement=(best == found_best).double().mean().item(),
        flips=int(((best != found_best) & (lead > doubt)).sum()),
        images=len(wanted),
    )


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


def _weights(layer: Layer, arrays: Mapping[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor] | None:
    if not layer.parameter_shapes():
        return None
    weight, bias = (torch.from_numpy(arrays[f"{layer.name}.{part}"]).double() for part in ("weight", "bias"))
    return weight, bias


def _channels() -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the channels, float64 (1, 3, 1, 1) each."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (MEAN, STD))
    return mean, std


def _folded(weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A convolution of normalised images as one of bytes."""
    mean, std = _channels()
    return weight / (255 * std), bias - (weight * mean / std).sum((1, 2, 3))


def _apply(layer: Layer, x: torch.Tensor, parameters: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
    match layer:
        case Conv2d() | Linear() if parameters is not None:
            return _affine(layer, x, *parameters)
        case ReLU():
            return x.clamp(min=0)
        case MaxPool2d(window=window):
            return max_pool2d(x, window)
        case Flatten():
            return x.flatten(1)
        case _:
            raise NotImplementedError(layer)


def _affine(layer: Layer, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return conv2d(x, weight, bias) if isinstance(layer, Conv2d) else linear(x, weight, bias)


def _variance(
    layer: Layer,
    x: torch.Tensor,
    y: torch.Tensor,
    variance: torch.Tensor | None,
    parameters: tuple[torch.Tensor, torch.Tensor],
    u: Rounding,
    *,
    folded: bool,
) -> torch.Tensor:
    """The module's formula: the variance of ``y``, given that of ``x``, if any; for bytes where the layer is folded."""
    weight, bias = parameters
    length = weight[0].numel()
    square = u.operand**2 * 2 / 3
    peak = y**2
    stored = u.stored**2 / 3 * y**2
    if folded:
        square = (u.operand**2 + _FLOAT32**2) / 3
        bias = bias.view(1, -1, 1, 1)
        peak = torch.maximum(peak, torch.maximum((y - bias) ** 2, bias**2))
        stored = stored + u.stored**2 / 3 * bias**2
    terms = _affine(layer, x**2, weight**2, None)
    summed = u.sum**2 / 3 * (terms + (length + 1) * (peak + terms / 4))
    added = square * terms + summed + stored
    return added if variance is None else _affine(layer, variance, weight**2, None) + added
