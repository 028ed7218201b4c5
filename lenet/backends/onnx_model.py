"""The ONNX model that a spec asks for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lenet.backends.base import BuildSpec
from lenet.backends.precision import DTYPES
from lenet.export import to_onnx
from lenet.quantization import quantized_precision
from lenet.quantized_export import to_quantized_onnx

__all__ = ["onnx_model"]


def onnx_model(arrays: Mapping[str, np.ndarray], spec: BuildSpec, *, integer: bool = False) -> bytes:
    """Export the network of a spec's precision, with its images.

    Args:
        arrays: Weights by parameter name.
        spec: Names the precision, the type of the images, and the scales.
        integer: Whether an int8 network has the integer layout of `lenet.quantized_export`.

    Raises:
        WeightsError: A weight is beyond the precision's range.
        QuantizationError: The scales do not fit the weights.
        ExportError: LeNet cannot be exported here.
    """
    if quantized_precision(spec.precision) is None:
        return to_onnx(arrays, DTYPES[spec.precision], spec.image_dtype)
    return to_quantized_onnx(arrays, spec.precision, spec.scales, spec.image_dtype, integer=integer)
