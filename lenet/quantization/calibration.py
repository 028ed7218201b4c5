"""Scales for weights and activations.

A weight's scale maps the largest weight of its output channel to the format's largest number. For int8 it may also map
it to 63. Two products of a byte and such a weight fit in 16 bits, which x86 CPUs without VNNI add them in.

An activation's scale maps a range to the format's largest number. One of three methods finds the range on training
images:

- ``max``: the largest magnitude.
- ``percentile``: the magnitude that 99.99 % of the values do not exceed.
- ``mse``: the range with the smallest mean squared error of the quantised values, of `_RATIOS` of the largest.

Sources: Wu et al., arXiv:2004.09602, section 3.3 (max and percentile, and max for weights); Nagel et al., "A white
paper on neural network quantization", arXiv:2106.08295, section 3.1 (mean squared error).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import numpy as np
import torch

from lenet import weights
from lenet.architecture import INPUT_SHAPE
from lenet.errors import QuantizationError
from lenet.quantization.formats import FORMATS, Format
from lenet.quantization.network import inputs_of
from lenet.quantization.scales import Scales
from lenet.vocabulary import Precision

__all__ = ["DEFAULT_IMAGES", "DEFAULT_METHOD", "REDUCED", "Method", "calibrate", "calibrate_on"]


class Method(StrEnum):
    """How the range of activations is found."""

    MAX = "max"
    PERCENTILE = "percentile"
    MSE = "mse"


DEFAULT_METHOD: Final = Method.PERCENTILE
DEFAULT_IMAGES: Final = 256

_PERCENTILE: Final = 0.9999
_RATIOS: Final = np.linspace(0.2, 1.0, 81)

REDUCED: Final = 63.0
"""The largest weight of a reduced range: ``255 * 63 + 255 * 63`` is below ``2**15``."""


def calibrate(
    arrays: Mapping[str, np.ndarray],
    images: torch.Tensor,
    precision: Precision,
    *,
    method: Method = DEFAULT_METHOD,
    seed: int = 0,
    count: int = DEFAULT_IMAGES,
    reduce_range: bool = False,
) -> Scales:
    """Make scales from a seeded sample of training images.

    Args:
        arrays: float32 weights by parameter name.
        images: uint8 (N, 3, 32, 32).
        precision: INT8 or FP8.
        method: How the range of activations is found.
        seed: Of the sample.
        count: Images of the sample. If there are fewer, all are used.
        reduce_range: Keep int8 weights within `REDUCED`.

    Raises:
        QuantizationError: A reduced range was asked of another format than int8. There are no images, they are of
            another shape or type or all of one value, a layer's inputs are all 0, or a scale is beyond float32.
    """
    if reduce_range and precision is not Precision.INT8:
        raise QuantizationError(
            f"{precision} weights have no reduced range",
            found=f"--reduce-range with --precision {precision}",
            wanted="--precision int8",
            hint="leave --reduce-range out",
        )
    _check_images(images)
    order = np.random.default_rng(seed).permutation(len(images))[:count]
    notes = {"method": method.value, "seed": seed, "images": len(order), "reduce_range": reduce_range}
    chosen = images[torch.from_numpy(np.sort(order))]
    return calibrate_on(arrays, chosen, precision, method, notes, reduce_range=reduce_range)


def calibrate_on(
    arrays: Mapping[str, np.ndarray],
    images: torch.Tensor,
    precision: Precision,
    method: Method,
    notes: Mapping[str, object] | None = None,
    *,
    reduce_range: bool = False,
    probing: bool = False,
) -> Scales:
    """Make scales from all of the given images.

    Args:
        arrays: float32 weights by parameter name.
        images: (N, 3, 32, 32), on any device: normalised float32, or uint8 bytes.
        precision: INT8 or FP8.
        method: How the range of activations is found.
        notes: What the scales should say of themselves.
        reduce_range: Keep int8 weights within `REDUCED`.
        probing: Give a layer whose inputs are all 0 the scale 1.

    Raises:
        QuantizationError: A layer's inputs are all 0, or a scale is beyond float32.
    """
    form = FORMATS[precision]
    largest = REDUCED if reduce_range else form.largest
    inputs, by_channel = {}, {}
    with torch.inference_mode(), np.errstate(over="ignore"):  # a scale that overflows is refused
        for name, x in inputs_of(arrays, images):
            found = _range(x.abs().flatten(), form, method)
            inputs[name] = np.float32(1.0 if probing and found == 0 else found / form.largest)
            if not 0 < inputs[name] < np.inf:
                raise _no_scale(f"inputs of {name}", float(inputs[name]))
            by_channel[name] = _weight_scale(f"{name}.weight", arrays[f"{name}.weight"], largest)
    return Scales(precision, inputs, by_channel, weights.digest(arrays), notes or {})


def _weight_scale(name: str, weight: np.ndarray, largest: float) -> np.ndarray:
    found = np.abs(weight.astype(np.float64)).reshape(len(weight), -1).max(1)
    scale = (found / largest).astype(np.float32)
    if (scale[found > 0] == 0).any():
        raise _no_scale(name, 0.0)
    return np.where(found > 0, scale, np.float32(1))  # a channel of zeros: any scale will do


def _range(magnitudes: torch.Tensor, form: Format, method: Method) -> float:
    largest = magnitudes.max().item()
    if method is Method.MAX or largest == 0:
        return largest
    if method is Method.PERCENTILE:
        return float(np.quantile(magnitudes.numpy(), _PERCENTILE))
    errors = [_squared_error(magnitudes, ratio * largest / form.largest, form) for ratio in _RATIOS]
    return float(_RATIOS[np.argmin(errors)] * largest)


def _squared_error(magnitudes: torch.Tensor, scale: float, form: Format) -> float:
    return (form.round(magnitudes / scale) * scale - magnitudes).square_().mean().item()


def _check_images(images: torch.Tensor) -> None:
    wanted = f"uint8 (N, {', '.join(map(str, INPUT_SHAPE))}), N at least 1, of more than one value"
    kind = f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
    if images.dtype is not torch.uint8 or images.shape[1:] != INPUT_SHAPE or not len(images):
        raise QuantizationError("scales cannot be made from these images", found=kind, wanted=wanted, hint=_HINT)
    if images.min() == images.max():
        found = f"{kind}, every byte {images.flatten()[0].item()}"
        raise QuantizationError("scales cannot be made from constant images", found=found, wanted=wanted, hint=_HINT)


_HINT: Final = "calibrate on CIFAR-10's training images: `lenet quantize --download`"


def _no_scale(what: str, found: float) -> QuantizationError:
    return QuantizationError(
        f"{what}: no scale",
        found=f"a scale of {found:g}",
        wanted="a positive number that float32 can hold",
        hint="calibrate on other images, or choose another method: `lenet quantize --method max`",
    )
