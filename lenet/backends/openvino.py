"""OpenVINO on the CPU, with its inputs and outputs in PyTorch's memory."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import numpy as np
import torch

from lenet.architecture import CLASSES
from lenet.backends import entry, installed_version
from lenet.backends.base import Availability, Backend, BuildSpec, Runner
from lenet.backends.buffer_cache import BindingRunner, Bound
from lenet.backends.onnx_model import onnx_model
from lenet.backends.precision import adds_bytes_in_16_bits, check_override
from lenet.backends.refusal import refusal_of
from lenet.errors import BackendError, UnavailableError
from lenet.provenance import pip_install
from lenet.quantization import REDUCED, Scales, quantize, resolve
from lenet.vocabulary import Precision

__all__ = ["OpenVINO"]

_OLDEST: Final = 2024
"""The first year of releases whose properties are those used here."""

_PRECISIONS: Final = (Precision.FP32, Precision.INT8)

_TELEMETRY: Final = "openvino_telemetry"

_LAYERS: Final = frozenset({"Convolution", "FullyConnected"})
"""What the runtime model calls LeNet's layers with weights."""


class OpenVINO(Backend):
    """A model that OpenVINO compiles from the exported graph, for the latency of one request."""

    name: ClassVar[str] = "openvino"
    devices: ClassVar[tuple[str, ...]] = ("cpu",)

    def probe(self, device: torch.device) -> Availability:
        """Available if the installed OpenVINO has its CPU plugin."""
        version = installed_version(entry(self.name))
        if reason := self._other_device(device) or self._not_installed():
            return Availability(version, reason)
        assert version is not None
        if int(version.partition(".")[0]) < _OLDEST:
            return Availability(version, f"openvino {version} is too old: at least {_OLDEST}")
        try:
            found = _library().Core().available_devices
        except Exception as error:  # noqa: BLE001 - an installed library can fail to load in any way
            return Availability(version, f"openvino cannot be loaded: {error}", broken=True)
        if "CPU" not in found:
            again = pip_install("--force-reinstall openvino")
            return Availability(version, f"this build of openvino has no CPU plugin: {again}", broken=True)
        return Availability(version)

    def executed_precision(self, precision: Precision, device: torch.device) -> str:
        """fp32 and int8, the precisions that every CPU computes in."""
        if precision not in _PRECISIONS:
            raise self._unsupported(precision, device, " or ".join(_PRECISIONS))
        check_override(precision, device)
        return precision

    def _build(self, arrays: Mapping[str, np.ndarray], spec: BuildSpec) -> Runner:
        if spec.precision is Precision.INT8 and adds_bytes_in_16_bits():
            refuse_full_range(arrays, resolve(arrays, spec.precision, spec.scales))
        model = compile_model(onnx_model(arrays, spec))
        if spec.precision is Precision.INT8:
            refuse_float_layers(model)
        return _OpenVINORunner(model, spec)


def compile_model(model: bytes) -> Any:
    """Compile a serialised ONNX model for the CPU, in float32, with as many threads as PyTorch uses.

    Returns:
        An ``openvino.CompiledModel``.

    Raises:
        BackendError: OpenVINO refuses the network.
    """
    library, settings = _library(), _settings()
    with refusal_of("OpenVINO", "openvino", library.__version__, "compiles for the CPU"):
        core = library.Core()
        return core.compile_model(core.read_model(model), "CPU", settings)


def refuse_full_range(arrays: Mapping[str, np.ndarray], scales: Scales) -> None:
    """Refuse int8 weights that are beyond `REDUCED`. On x86 CPUs without VNNI, OpenVINO's sums saturate with them.

    Raises:
        UnavailableError: There is one.
    """
    largest = max(int(affine.weight.abs().max()) for affine in quantize(arrays, scales).values())
    if largest > REDUCED:
        raise UnavailableError(
            "OpenVINO's int8 sums would saturate on this CPU",
            found=f"openvino adds products of bytes in 16 bits on a CPU without VNNI, and an int8 weight is {largest}",
            wanted=f"weights of at most {REDUCED:.0f}, or a CPU with VNNI",
            hint="`lenet quantize --precision int8 --reduce-range --out reduced` makes a network that it runs",
        )


def refuse_float_layers(model: Any) -> None:
    """Refuse a model that computes a convolution or a fully connected layer in another type than 8-bit integers.

    Args:
        model: An ``openvino.CompiledModel`` of the quantised network.

    Raises:
        BackendError: It does; which layers, is told.
    """
    found = []
    for node in model.get_runtime_model().get_ops():
        facts = {key: node.get_rt_info()[key].astype(str) for key in ("layerType", "runtimePrecision", "primitiveType")}
        if facts["layerType"] in _LAYERS and not facts["primitiveType"].lower().endswith("_i8"):
            found.append(f"{facts['layerType']} by {facts['primitiveType']}")
    if found:
        raise BackendError(
            "OpenVINO does not run int8 here",
            found=", ".join(found),
            wanted="8-bit integers in every convolution and fully connected layer",
            hint="choose another precision, or another version of openvino",
        )


def _settings() -> dict[Any, Any]:
    """Without `inference_precision`, OpenVINO computes in bfloat16 on a CPU that can."""
    properties = importlib.import_module("openvino.properties")
    hint = importlib.import_module("openvino.properties.hint")
    return {
        hint.inference_precision: _library().Type.f32,
        hint.execution_mode: hint.ExecutionMode.ACCURACY,
        hint.performance_mode: hint.PerformanceMode.LATENCY,
        properties.inference_num_threads: torch.get_num_threads(),
    }


class _OpenVINORunner(BindingRunner):
    """Each buffer of images has a request of its own, bound to the buffer and to its logits."""

    def __init__(self, model: Any, spec: BuildSpec) -> None:
        super().__init__(spec, None)
        self._model = model

    def facts(self, *, zero_copy: bool = False) -> dict[str, str]:
        """The number of threads, which OpenVINO lowers to the cores that it finds."""
        del zero_copy
        return {"threads": str(self._model.get_property("INFERENCE_NUM_THREADS"))}

    def _bind(self, images: torch.Tensor) -> Bound:
        tensor = _library().Tensor
        logits = torch.empty(images.shape[0], CLASSES)
        request = self._model.create_infer_request()
        request.set_input_tensor(tensor(images.numpy(), shared_memory=True))
        request.set_output_tensor(tensor(logits.numpy(), shared_memory=True))
        start, wait = request.start_async, request.wait

        def run() -> None:
            start()
            wait()

        return Bound(run, logits)


def _library() -> Any:
    """OpenVINO, without its telemetry.

    Its import would tell Google Analytics, by a fork of this process. Where the telemetry is missing it does not.
    """
    if "openvino" in sys.modules or _TELEMETRY in sys.modules:
        return importlib.import_module("openvino")
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # an import takes it for a missing module
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[_TELEMETRY]
