"""LeNet as an ONNX model, for TensorRT, TensorRT for RTX, ONNX Runtime and OpenVINO.

The graph has a node for each entry of `lenet.architecture.LAYERS`, by the layer's name. At every precision it keeps the
contract of `lenet.backends.base`: float32 images or bytes in, float32 logits out. A graph of half precision is strongly
typed: its weights and activations have that type, and it casts at its ends.

The same weights give the same bytes on every machine, so these can be a cache's key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from lenet import architecture, weights
from lenet.architecture import CLASSES, INPUT_SHAPE, LAYERS, PARAMETER_SHAPES
from lenet.errors import ExportError
from lenet.models.byte_input import fold_normalization
from lenet.provenance import package_version, pip_install

if TYPE_CHECKING:
    import onnx

__all__ = [
    "BATCH",
    "INPUT",
    "LATER_OPSET",
    "OPSET",
    "OUTPUT",
    "PACKAGES",
    "constant",
    "element",
    "missing_packages",
    "operator",
    "require_packages",
    "serialized",
    "to_onnx",
]

INPUT: Final = "images"
OUTPUT: Final = "logits"
BATCH: Final = "batch"

OPSET: Final = 20
"""Version of the operator set. ONNX Runtime's CUDA provider has no MaxPool of version 22: the CPU would run it."""

LATER_OPSET: Final = 22
"""The first with Conv and MaxPool of bfloat16; also that of quantised networks."""

IR_VERSION: Final = 10
"""Version of the file format: that of the release of ONNX that brought the later operator set."""

PACKAGES: Final = ("onnx",)

_ELEMENTS: Final = {
    torch.float32: "FLOAT",
    torch.float16: "FLOAT16",
    torch.bfloat16: "BFLOAT16",
    torch.uint8: "UINT8",
    torch.int8: "INT8",
    torch.int32: "INT32",
    torch.float8_e4m3fn: "FLOAT8E4M3FN",
}
"""ONNX's names of PyTorch's types."""


def missing_packages() -> list[str]:
    """The packages that `to_onnx` needs and that are not installed. It imports none."""
    return [name for name in PACKAGES if package_version(name) is None]


def require_packages() -> None:
    """Refuse an environment that lacks a package.

    Raises:
        ExportError: A package is missing.
    """
    missing = missing_packages()
    if missing:
        raise ExportError(
            "LeNet cannot be exported to ONNX here",
            found=f"no {' and no '.join(missing)}",
            wanted=" and ".join(PACKAGES),
            hint=pip_install('-e ".[export]"'),
        )


def to_onnx(
    arrays: Mapping[str, np.ndarray], dtype: torch.dtype = torch.float32, images: torch.dtype = torch.float32
) -> bytes:
    """Export a LeNet.

    Args:
        arrays: float32 weights by parameter name, as `lenet.weights.check` wants them.
        dtype: Of weights and activations: float32, float16 or bfloat16.
        images: Of the input: float32 for normalised images, or uint8 for bytes. The graph normalises bytes.

    Returns:
        A serialised ONNX model that contains the weights. Its input is ``images`` (batch, 3, 32, 32), its output
        ``logits``, float32 (batch, 10), and ``batch`` is dynamic. The same weights and dtypes give the same bytes.

    Raises:
        WeightsError: The arrays do not fit the architecture, or a weight is beyond the dtype's range.
        ExportError: A package is missing, or ONNX's checker refused the network.
    """
    weights.check(arrays, "the weights to export")
    require_packages()
    if images is torch.uint8:
        arrays = fold_normalization(arrays)
    parameters = weights.narrow(arrays, dtype)
    tensors = [constant(name, parameters[name]) for name in PARAMETER_SHAPES]
    return serialized(_nodes(dtype, images), tensors, images, LATER_OPSET if dtype is torch.bfloat16 else OPSET)


def constant(name: str, value: torch.Tensor) -> onnx.TensorProto:
    """A tensor on the CPU as a constant of a graph."""
    from onnx import helper

    content = value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()  # since NumPy has no bfloat16
    return helper.make_tensor(name, element(value.dtype), value.shape, content, raw=True)


def serialized(
    nodes: Iterable[onnx.NodeProto], tensors: Sequence[onnx.TensorProto], images: torch.dtype, opset: int
) -> bytes:
    """A model of nodes that lead from `INPUT` to `OUTPUT`, and of the tensors that they use, checked by ONNX.

    Args:
        nodes: In their order. All are taken before the tensors.
        tensors: Constants; they may be added while the nodes are taken.
        images: Of the input.
        opset: Version of the operator set.

    Raises:
        ExportError: ONNX's checker refuses the model.
    """
    from onnx import checker, helper, shape_inference

    source = helper.make_tensor_value_info(INPUT, element(images), [BATCH, *INPUT_SHAPE])
    target = helper.make_tensor_value_info(OUTPUT, element(torch.float32), [BATCH, CLASSES])
    graph = helper.make_graph(list(nodes), "lenet", [source], [target], tensors)
    model = helper.make_model(
        graph, producer_name="lenet-bench", ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", opset)]
    )
    try:
        checker.check_model(model, full_check=True)
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        raise ExportError(
            "ONNX's checker refuses LeNet",
            found=str(error),
            wanted=f"an ONNX model of opset {opset}",
            hint=f"try another version than onnx {package_version('onnx')}",
        ) from error
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _nodes(dtype: torch.dtype, images: torch.dtype) -> Iterator[onnx.NodeProto]:
    """The nodes in order. Each is called like its output, except the last, whose output is `OUTPUT`."""
    from onnx import helper

    at = INPUT
    if images is not dtype:
        at = "cast_images"
        yield helper.make_node("Cast", [INPUT], [at], at, to=element(dtype))
    for layer in LAYERS:
        last = layer is LAYERS[-1] and dtype is torch.float32
        output = OUTPUT if last else layer.name
        kind, attributes = operator(layer)
        yield helper.make_node(kind, [at, *layer.parameter_shapes()], [output], layer.name, **attributes)
        at = output
    if dtype is not torch.float32:
        yield helper.make_node("Cast", [at], [OUTPUT], "cast_logits", to=element(torch.float32))


def operator(layer: architecture.Layer) -> tuple[str, dict[str, Any]]:
    """ONNX's operator for a layer, and those of its attributes that are not the default."""
    match layer:
        case architecture.Conv2d(kernel=size):
            return "Conv", {"kernel_shape": [size, size]}
        case architecture.MaxPool2d(window=size):
            return "MaxPool", {"kernel_shape": [size, size], "strides": [size, size]}
        case architecture.Linear():
            return "Gemm", {"transB": 1}
        case architecture.ReLU():
            return "Relu", {}
        case architecture.Flatten():
            return "Flatten", {"axis": 1}
    raise TypeError(f"no ONNX operator for {layer}")


def element(dtype: torch.dtype) -> int:
    """ONNX's number of a type."""
    from onnx import TensorProto

    return int(TensorProto.DataType.Value(_ELEMENTS[dtype]))
