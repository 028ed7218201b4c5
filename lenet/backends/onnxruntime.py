"""ONNX Runtime on the CPU and on CUDA, with its inputs and outputs bound to PyTorch's memory."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Final

import numpy as np
import torch

from lenet.architecture import CLASSES
from lenet.backends import entry, installed_version
from lenet.backends.base import NO_GPU, Availability, Backend, BuildSpec, Runner, new_stream
from lenet.backends.buffer_cache import BindingRunner, Bound
from lenet.backends.onnx_model import onnx_model
from lenet.backends.precision import check_override
from lenet.backends.refusal import refusal_of
from lenet.errors import BackendError
from lenet.export import INPUT, OUTPUT
from lenet.provenance import program
from lenet.vocabulary import Precision

__all__ = ["OnnxRuntime", "OnnxRuntimeRunner", "open_session", "refuse_fallback"]

_OLDEST: Final = (1, 20)
_PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_LAYERS: Final = frozenset({"Conv", "Gemm", "MatMul", "MaxPool"})
"""The operators of LeNet's layers; ONNX Runtime keeps what computes shapes on the CPU by design."""
_PRECISIONS: Final = {
    "cpu": (Precision.FP32, Precision.INT8),
    "cuda": (Precision.FP32, Precision.TF32, Precision.FP16),
}


class OnnxRuntime(Backend):
    """An ONNX Runtime session over the exported graph, all graph optimisations on."""

    name: ClassVar[str] = "onnxruntime"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    def probe(self, device: torch.device) -> Availability:
        """Available where the installed build has the device's execution provider."""
        version = installed_version(entry(self.name))
        if reason := self._other_device(device) or self._not_installed():
            return Availability(version, reason)
        assert version is not None
        if tuple(map(int, version.split(".")[:2])) < _OLDEST:
            return Availability(version, f"onnxruntime {version} is too old: at least {'.'.join(map(str, _OLDEST))}")
        try:
            library = _library()
        except Exception as error:  # noqa: BLE001 - an installed library can fail to load in any way
            return Availability(version, f"onnxruntime cannot be loaded: {error}", broken=True)
        provider = _PROVIDERS[device.type]
        # Both distributions hold one package, and overwrite each other's files: one is installed after none is left.
        install = entry("onnxruntime-cudagraph" if device.type == "cuda" else "onnxruntime").install
        again = f"{program('pip')} uninstall --yes onnxruntime onnxruntime-gpu && {install}"
        imported = getattr(library, "__version__", "of an unknown version")
        if imported != version:
            two = f"onnxruntime {imported} is imported, {version} is installed"
            return Availability(version, f"two versions in one environment: {two}: {again}")
        if provider not in library.get_available_providers():
            return Availability(version, f"this build has no {provider}: {again}")
        if device.type == "cuda" and not torch.cuda.is_available():
            return Availability(version, NO_GPU)
        return Availability(version)

    def executed_precision(self, precision: Precision, device: torch.device) -> str:
        """The precision asked for: fp32 or int8 on a CPU; fp32, tf32 or fp16 on CUDA."""
        if device.type not in self.devices:
            raise self._unsupported(precision, device, f"a device of {' or '.join(self.devices)}")
        supported = _PRECISIONS[device.type]
        if precision not in supported:
            raise self._unsupported(precision, device, " or ".join(supported))
        check_override(precision, device)
        return precision

    def _build(self, arrays: Mapping[str, np.ndarray], spec: BuildSpec) -> Runner:
        return self._runner(onnx_model(arrays, spec, integer=True), spec)

    def _runner(self, model: bytes, spec: BuildSpec) -> Runner:
        stream = new_stream(spec.device)
        return OnnxRuntimeRunner(open_session(model, spec, stream), spec, stream)


def open_session(
    model: bytes, spec: BuildSpec, stream: torch.cuda.Stream | None, cuda_options: Mapping[str, str] | None = None
) -> Any:
    """An ``InferenceSession`` over a serialised model, on the device's execution provider alone.

    Args:
        model: The model.
        spec: What it runs on, and in which precision.
        stream: The stream that all its work is queued on; None on a CPU.
        cuda_options: Further options of the CUDA provider.

    Raises:
        BackendError: ONNX Runtime refuses the network, or falls back to another provider, be it for one layer.
    """
    library = _library()
    options = library.SessionOptions()
    options.graph_optimization_level = library.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    library.set_default_logger_severity(3)  # of what is said before there is a session, such as of plugins
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    provider = _PROVIDERS[spec.device.type]
    settings: dict[str, str] = {}
    if stream is not None:
        settings = {
            "device_id": str(spec.device.index or 0),
            "user_compute_stream": str(stream.cuda_stream),
            "use_tf32": str(int(spec.precision is Precision.TF32)),
            "cudnn_conv_algo_search": "EXHAUSTIVE",
            **(cuda_options or {}),
        }
    with TemporaryDirectory() as directory:
        optimized = Path(directory) / "optimized.onnx"
        if spec.precision is Precision.INT8:
            # On x86 ONNX Runtime otherwise leaves convolutions of int8 activations in float32.
            options.add_session_config_entry("session.qdqisint8allowed", "1")
            options.optimized_model_filepath = str(optimized)
        session = _session(model, options, provider, settings)
        if spec.precision is Precision.INT8:
            refuse_float_layers(optimized)
    refuse_fallback(session, provider)
    return session


def _session(model: bytes, options: Any, provider: str, settings: Mapping[str, str]) -> Any:
    library = _library()
    with refusal_of("ONNX Runtime", "onnxruntime", library.__version__, f"runs on {provider}"):
        return library.InferenceSession(model, options, providers=[(provider, settings)])


def refuse_float_layers(optimized: Path) -> None:
    """Refuse an optimised graph that computes a convolution or a fully connected layer in float32.

    Args:
        optimized: The graph that ONNX Runtime runs, as it writes it.

    Raises:
        BackendError: It does; which layers, is told.
    """
    import onnx

    layers = [node for node in onnx.load(optimized).graph.node if node.op_type.endswith(("Conv", "Gemm", "MatMul"))]
    if found := [f"{node.name} by {node.op_type}" for node in layers if not node.op_type.startswith("Q")]:
        raise BackendError(
            "ONNX Runtime does not run int8 here",
            found=", ".join(found),
            wanted="QLinearConv and QGemm",
            hint="choose another precision, or another version of onnxruntime",
        )


def refuse_fallback(session: Any, provider: str) -> None:
    """Refuse a session that computes on another provider than the one that it is called after.

    Args:
        session: An ``InferenceSession`` that recorded where it puts each node. ONNX Runtime before 1.24 records none,
            and is taken at its word.
        provider: The one that was asked for.

    Raises:
        BackendError: The provider is missing, or a layer is on another; which, is told.
    """
    strays = []
    if hasattr(session, "get_provider_graph_assignment_info"):
        strays = [
            f"{node.name} on {part.ep_name}"
            for part in session.get_provider_graph_assignment_info()
            for node in part.get_nodes()
            if part.ep_name != provider and node.op_type in _LAYERS
        ]
    if strays or provider not in session.get_providers():
        raise BackendError(
            "ONNX Runtime fell back to another provider",
            found=", ".join(strays or session.get_providers()),
            wanted=provider,
            hint="install the CUDA and cuDNN versions that this build of onnxruntime-gpu names",
        )


class OnnxRuntimeRunner(BindingRunner):
    """A binding is made once for each input buffer; a call with a buffer that is known only runs it.

    Args:
        session: An ``InferenceSession``.
        spec: What it was opened for.
        stream: The stream that its work is queued on; None on a CPU.
    """

    def __init__(self, session: Any, spec: BuildSpec, stream: torch.cuda.Stream | None) -> None:
        super().__init__(spec, stream)
        self._run_session = session.run_with_iobinding
        self._new_binding = session.io_binding
        self._element = np.dtype(spec.input)

    def _run_options(self) -> Any:
        """The options of one buffer's runs."""
        options = _library().RunOptions()
        # The caller synchronises; without this, every run would wait for its stream.
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        return options

    def _bind(self, images: torch.Tensor) -> Bound:
        logits = torch.empty(images.shape[0], CLASSES, device=images.device)
        binding = self._new_binding()
        kind, index = images.device.type, images.device.index or 0
        binding.bind_input(INPUT, kind, index, self._element, tuple(images.shape), images.data_ptr())
        binding.bind_output(OUTPUT, kind, index, np.float32, tuple(logits.shape), logits.data_ptr())
        return Bound(partial(self._run_session, binding, self._run_options()), logits)


def _library() -> Any:
    return importlib.import_module("onnxruntime")
