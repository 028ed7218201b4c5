"""LeNet in 8 bits, as data: its scales, their calibration, and an exact evaluation of the quantised network."""

from __future__ import annotations

from lenet.quantization.calibration import DEFAULT_IMAGES, DEFAULT_METHOD, REDUCED, Method, calibrate, calibrate_on
from lenet.quantization.formats import FORMATS, Format, quantized_precision
from lenet.quantization.network import Affine, evaluate, quantize
from lenet.quantization.scales import Scales, load, path_beside, resolve, save, scales_beside

__all__ = [
    "DEFAULT_IMAGES",
    "DEFAULT_METHOD",
    "FORMATS",
    "REDUCED",
    "Affine",
    "Format",
    "Method",
    "Scales",
    "calibrate",
    "calibrate_on",
    "evaluate",
    "load",
    "path_beside",
    "quantize",
    "quantized_precision",
    "resolve",
    "save",
    "scales_beside",
]
