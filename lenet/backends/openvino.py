"""OpenVINO on the CPU, with its inputs and outputs in PyTorch's memory."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import numpy as np
import torch

from lenet.architecture import CLASSES
from lenet.backends import entry, installed_version
from lenet.backends.base import Availability, Backend, BuildSpec, Runner
from lenet.backends.buffer_cache import BindingRunner, Bound
from lenet.backends.precision import DTYPES, check_override
from lenet.errors import BackendError
from lenet.export import to_onnx
from lenet.provenance import pip_install
from lenet.vocabulary import Precision

__all__ = ["OpenVINO"]

_OLDEST: Final = 2024
"""The first year of releases whose properties are those used here."""


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
        """fp32, the one precision that every CPU computes in."""
        if precision is not Precision.FP32:
            raise self._unsupported(precision, device, Precision.FP32)
        check_override(precision, device)
        return precision

    def _build(self, arrays: Mapping[str, np.ndarray], spec: BuildSpec) -> Runner:
        model = to_onnx(arrays, DTYPES[spec.precision], spec.image_dtype)
        return _OpenVINORunner(compile_model(model), spec)


def compile_model(model: bytes) -> Any:
    """Compile a serialised ONNX model for the CPU, in float32, with as many threads as PyTorch uses.

    Returns:
        An ``openvino.CompiledModel``.

    Raises:
        BackendError: OpenVINO refuses the model.
    """
    library, settings = _library(), _settings()
    try:
        core = library.Core()
        return core.compile_model(core.read_model(model), "CPU", settings)
    except Exception as error:  # OpenVINO's exceptions share no public base class
        raise BackendError(
            "OpenVINO refuses the model",
            found=str(error),
            wanted=f"a model that openvino {library.__version__} compiles for the CPU",
            hint="try another version of openvino",
        ) from error


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
    return importlib.import_module("openvino")
