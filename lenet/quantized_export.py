"""The quantised LeNet as an ONNX model: float operators between QuantizeLinear and DequantizeLinear.

A runtime that knows the pattern replaces an operator between the two by one on 8-bit numbers. The standard layout
quantises the inputs of convolutions and of fully connected layers, which is what TensorRT, TensorRT for RTX and
OpenVINO look for.

ONNX Runtime's CPU provider fuses a convolution only with a QuantizeLinear right behind it, and with an int32 bias. The
integer layout has both. ReLU and pooling then work on int8. Both layouts are the same network, since rounding commutes
with ReLU and pooling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from lenet import weights
from lenet.architecture import LAYERS
from lenet.data.augmentation import MEAN, STD
from lenet.errors import ExportError
from lenet.export import INPUT, LATER_OPSET, OUTPUT, constant, element, operator, require_packages, serialized
from lenet.quantization import Affine, Scales, quantize, resolve
from lenet.vocabulary import Precision

if TYPE_CHECKING:
    import onnx

__all__ = ["to_quantized_onnx"]

_TYPES: Final = {Precision.INT8: torch.int8, Precision.FP8: torch.float8_e4m3fn}


def to_quantized_onnx(
    arrays: Mapping[str, np.ndarray],
    precision: Precision,
    scales: Scales | None = None,
    images: torch.dtype = torch.float32,
    *,
    integer: bool = False,
) -> bytes:
    """Export a quantised LeNet.

    Args:
        arrays: float32 weights by parameter name, as `lenet.weights.check` wants them.
        precision: INT8 or FP8.
        scales: Of these weights. None for the shipped ones.
        images: Of the input: float32 for normalised images, or uint8 for bytes. The graph normalises bytes.
        integer: Use the integer layout. It is for INT8 alone.

    Returns:
        A serialised ONNX model with the input and output of `lenet.export.to_onnx`. The same weights and scales give
        the same bytes.

    Raises:
        WeightsError: The arrays do not fit the architecture.
        QuantizationError: The scales do not fit the weights.
        ExportError: A package is missing, or ONNX's checker refused the network.
    """
    if integer and precision is not Precision.INT8:
        raise ExportError(
            f"{precision} has no integer layout", found=precision, wanted=Precision.INT8, hint="use the standard layout"
        )
    weights.check(arrays, "the weights to export")
    require_packages()
    network = quantize(arrays, resolve(arrays, precision, scales))
    graph = _Graph(_TYPES[precision], integer=integer)
    return serialized(graph.nodes(network, images), graph.tensors, images, LATER_OPSET)


class _Graph:
    """A graph that is being built.

    Args:
        dtype: Of quantised numbers.
        integer: Whether it has the integer layout.

    Attributes:
        tensors: The constants of the nodes so far.
    """

    def __init__(self, dtype: torch.dtype, *, integer: bool) -> None:
        self.tensors: list[onnx.TensorProto] = []
        self._dtype = dtype
        self._integer = integer

    def nodes(self, network: Mapping[str, Affine], images: torch.dtype) -> Iterator[onnx.NodeProto]:
        """The nodes in order, from `INPUT` to `OUTPUT`."""
        at, of = INPUT, list(network)
        if images is torch.uint8:
            yield from self._normalization()
            at = "normalized_images"
        yield self._quantize(at, network[of[0]])
        at = f"{of[0]}.input"
        for layer in LAYERS:
            name, attributes = operator(layer)
            output = OUTPUT if layer is LAYERS[-1] else layer.name
            if layer.name not in network:
                yield _node(name, [at], output, **attributes)
                at = output
                continue
            affine = network[layer.name]
            if not self._integer and layer.name != of[0]:
                yield self._quantize(at, affine)
                at = f"{layer.name}.input"
            yield from self._affine(affine, at, output)
            at = output
            if self._integer and output != OUTPUT:
                following = network[of[of.index(layer.name) + 1]]
                yield self._quantize(at, following)
                at = f"{following.layer.name}.input"

    def _quantize(self, at: str, affine: Affine) -> onnx.NodeProto:
        """The node that quantises what will be a layer's input."""
        name = affine.layer.name
        scale = self._constant(f"{name}.input_scale", torch.tensor(affine.input_scale))
        zero = self._constant(f"{name}.input_zero", torch.zeros((), dtype=self._dtype))
        return _node("QuantizeLinear", [at, scale, zero], f"{name}.input")

    def _affine(self, affine: Affine, at: str, output: str) -> Iterator[onnx.NodeProto]:
        """A layer on dequantised numbers."""
        name = affine.layer.name
        weight = self._constant(f"{name}.weight", affine.weight.to(torch.float32).to(self._dtype))
        scale = self._constant(f"{name}.weight_scale", torch.from_numpy(affine.weight_scale))
        zero = self._constant(f"{name}.weight_zero", torch.zeros(len(affine.weight_scale), dtype=self._dtype))
        parts = [f"{name}.input_scale", f"{name}.input_zero"]
        yield _node("DequantizeLinear", [at, *parts], f"{name}.input_values")
        yield _node("DequantizeLinear", [weight, scale, zero], f"{name}.weight_values", axis=0)
        if self._integer:
            step = affine.weight_scale * affine.input_scale
            whole = torch.from_numpy(np.rint(affine.bias / step.astype(np.float64)).astype(np.int32))
            bias = self._constant(f"{name}.bias", whole)
            sizes = self._constant(f"{name}.bias_scale", torch.from_numpy(step))
            none = self._constant(f"{name}.bias_zero", torch.zeros_like(whole))
            yield _node("DequantizeLinear", [bias, sizes, none], f"{name}.bias_values", axis=0)
            bias = f"{name}.bias_values"
        else:
            bias = self._constant(f"{name}.bias", torch.from_numpy(affine.bias))
        kind, attributes = operator(affine.layer)
        yield _node(kind, [f"{name}.input_values", f"{name}.weight_values", bias], output, **attributes)

    def _normalization(self) -> Iterator[onnx.NodeProto]:
        """From bytes to normalised images, in float32."""
        mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (MEAN, STD))
        factor = self._constant("images.factor", (1 / (255 * std)).float())
        shift = self._constant("images.shift", (-mean / std).float())
        yield _node("Cast", [INPUT], "cast_images", to=element(torch.float32))
        yield _node("Mul", ["cast_images", factor], "scaled_images")
        yield _node("Add", ["scaled_images", shift], "normalized_images")

    def _constant(self, name: str, value: torch.Tensor) -> str:
        """Add a constant, and return its name."""
        self.tensors.append(constant(name, value))
        return name


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node(kind, inputs, [output], output, **attributes)
