"""LeNet as an ONNX model, for TensorRT, TensorRT for RTX and ONNX Runtime.

At every precision the graph keeps the contract of `lenet.backends.base`: float32 images or bytes in, float32 logits
out. A graph of half precision is strongly typed: its weights and activations have that type, and it casts at its ends.

The bytes do not say where or when they were made. The same weights give the same bytes, so these can be a cache's key.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from lenet import weights
from lenet.architecture import INPUT_SHAPE
from lenet.errors import ExportError
from lenet.models.pytorch_lenet import Network, network
from lenet.provenance import package_version, pip_install

if TYPE_CHECKING:
    import onnx

__all__ = ["BATCH", "INPUT", "OPSET", "OUTPUT", "PACKAGES", "missing_packages", "to_onnx"]

INPUT: Final = "images"
OUTPUT: Final = "logits"
BATCH: Final = "batch"

OPSET: Final = 22
"""Version of the operator set: the first with Conv and MaxPool of bfloat16."""

PACKAGES: Final = ("onnx", "onnxscript")


def missing_packages() -> list[str]:
    """The packages that `to_onnx` needs and that are not installed. It imports none."""
    return [name for name in PACKAGES if package_version(name) is None]


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
        ``logits``, float32 (batch, 10), and ``batch`` is dynamic. The same weights, dtypes and versions of PyTorch and
        of the exporter give the same bytes.

    Raises:
        WeightsError: The arrays do not fit the architecture, or a weight is beyond the dtype's range.
        ExportError: A package is missing, or the exporter or ONNX's checker refused the network.
    """
    weights.check(arrays, "the weights to export")
    missing = missing_packages()
    if missing:
        raise ExportError(
            "LeNet cannot be exported to ONNX here",
            found=f"no {' and no '.join(missing)}",
            wanted=" and ".join(PACKAGES),
            hint=pip_install('-e ".[export]"'),
        )
    proto = _export(network(arrays, dtype, images), images)
    _remove_provenance(proto)
    _check(proto)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _export(model: Network, images: torch.dtype) -> onnx.ModelProto:
    example = torch.zeros(2, *INPUT_SHAPE, dtype=images)  # torch.export takes a dimension of 1 for a constant
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they concern the exporter's internals, and differ by version
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                external_data=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={INPUT: {0: torch.export.Dim(BATCH)}},
                opset_version=OPSET,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise _refused("PyTorch's exporter", error) from error
    assert program is not None
    return program.model_proto


def _remove_provenance(model: onnx.ModelProto) -> None:
    """Clear the exporter's notes on its source, such as stack traces with paths of this machine."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for part in (model, graph, *graph.node, *values):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


def _check(model: onnx.ModelProto) -> None:
    from onnx import checker, shape_inference

    try:
        checker.check_model(model, full_check=True)
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        raise _refused("ONNX's checker", error) from error


def _refused(judge: str, error: Exception) -> ExportError:
    versions = ", ".join(f"{name} {package_version(name)}" for name in ("torch", *PACKAGES))
    return ExportError(
        f"{judge} refuses LeNet",
        found=str(error),
        wanted=f"an ONNX model of opset {OPSET}",
        hint=f"try other versions than {versions}",
    )
