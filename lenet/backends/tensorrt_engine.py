"""What TensorRT and TensorRT for RTX share: a backend that builds or loads an engine, and a runner of its context.

Both take LeNet's ONNX model. TensorRT times kernels on the GPU at hand and builds an engine for it alone. TensorRT for
RTX builds an engine for a compute capability, with or without a GPU, and compiles its kernels when it first runs.

Networks are strongly typed: the ONNX model says which type a layer runs in. The builder chooses only whether float32
operands may be rounded to TF32, and it is always told.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
from abc import abstractmethod
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch

from lenet.architecture import CLASSES, INPUT_SHAPE
from lenet.backends import entry, installed_version, tensorrt_versions
from lenet.backends.base import ADA, AMPERE, Availability, Backend, BuildSpec, Runner
from lenet.backends.onnx_model import onnx_model
from lenet.backends.precision import DTYPES, check_override
from lenet.backends.tensorrt_api import DEFAULT_LEVEL, accepted, build_plan, created, failure, logger, made
from lenet.engine_cache import Cached, EngineCache, EngineKey, EngineRefusedError, default_directory
from lenet.errors import BackendError
from lenet.export import INPUT, OUTPUT, missing_packages
from lenet.quantization import FORMATS
from lenet.vocabulary import Precision

__all__ = ["EngineRunner", "StronglyTyped", "TensorRTBackend", "Version", "dotted"]

Version: TypeAlias = tuple[int, int]


class _UnloadableError(BackendError):
    """The library is installed and cannot be loaded."""


class StronglyTyped(Backend):
    """A backend whose network says which type an operator runs in.

    Attributes:
        precisions: Those that it knows.
        before_ampere: The precisions that GPUs of a compute capability below 8.0 can run.
    """

    devices: ClassVar[tuple[str, ...]] = ("cuda",)
    precisions: ClassVar[tuple[str, ...]]
    before_ampere: ClassVar[tuple[Precision, ...]]

    def executed_precision(self, precision: Precision, device: torch.device) -> str:
        """The precision asked for: the network is strongly typed, and TF32 is switched on or off explicitly."""
        if device.type not in self.devices:
            raise self._unsupported(precision, device, "an NVIDIA GPU")
        if precision not in self.precisions:
            raise self._unsupported(precision, device, " or ".join(self.precisions))
        if (
            precision not in self.before_ampere
            and torch.cuda.is_available()
            and torch.cuda.get_device_capability(device) < AMPERE
        ):
            older = " or ".join(self.before_ampere)
            raise self._unsupported(precision, device, f"{older}, or a GPU of compute capability 8.0 or newer")
        if precision is Precision.FP8 and torch.cuda.is_available() and torch.cuda.get_device_capability(device) < ADA:
            raise self._unsupported(precision, device, "fp8 on a GPU of compute capability 8.9 or newer")
        check_override(precision, device)
        return precision


class TensorRTBackend(StronglyTyped):
    """What the two libraries share.

    Args:
        cuda_graph: Launch the kernels of a forward pass as one CUDA graph.
        optimization_level: How long to look for fast kernels, from 0 to 5.

    Attributes:
        module: The library's module.
        supported: The first version that is supported, and the first that no longer is.
    """

    precisions: ClassVar[tuple[str, ...]] = (*DTYPES, *FORMATS)
    module: ClassVar[str]
    supported: ClassVar[tuple[Version, Version]]

    def __init__(self, *, cuda_graph: bool = False, optimization_level: int = DEFAULT_LEVEL) -> None:
        self.cuda_graph = cuda_graph
        self.optimization_level = optimization_level

    def library(self) -> ModuleType:
        """Import the library; this needs no GPU.

        Raises:
            BackendError: It is not installed, cannot be loaded, is of a version that is not supported, or there are
                two versions of it.
        """
        first, end = self.supported
        tensorrt_versions.refuse_two(entry(self.name))

        def unusable(found: str, kind: type[BackendError] = BackendError) -> BackendError:
            return kind(
                f"{self.name} cannot be used here",
                found=found,
                wanted=f"{self.module} >= {dotted(first)}, < {dotted(end)}",
                hint=entry(self.name).install,
            )

        try:
            trt = importlib.import_module(self.module)
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) and error.name == self.module:
                raise unusable(f"{self.module} is not installed") from error
            raise unusable(f"{self.module} cannot be loaded: {error}", _UnloadableError) from error
        version = str(getattr(trt, "__version__", "of an unknown version"))
        release = tensorrt_versions.release(version)
        if release < first:
            raise unusable(f"{self.module} {version} is too old")
        if release >= end:
            raise unusable(f"{self.module} {version} is too new")
        tensorrt_versions.refuse_another(entry(self.name), self.module, version)
        return trt

    def probe(self, device: torch.device) -> Availability:
        """Available on CUDA, where the library can be loaded, is of a supported version, and supports the GPU."""
        line = entry(self.name)
        if reason := self._other_device(device):
            return Availability(installed_version(line), reason)
        try:
            trt = self.library()
        except BackendError as error:
            reason = f"{error.found}, {error.wanted} is wanted: {error.hint}"
            return Availability(installed_version(line), reason, broken=isinstance(error, _UnloadableError))
        version = str(trt.__version__)
        missing = missing_packages()
        if missing:
            return Availability(version, f"{' and '.join(missing)} not installed: {line.install}")
        if absent := self._missing_device(device):
            return Availability(version, absent)
        return Availability(version, self._unsupported_gpu(trt, torch.cuda.get_device_capability(device)))

    def _build(self, arrays: Mapping[str, np.ndarray], spec: BuildSpec) -> Runner:
        model = onnx_model(arrays, spec)
        return self._load(model, spec)

    def _load(self, model: bytes, spec: BuildSpec) -> Runner:
        """The runner of a model's engine, which comes from the cache or is built."""
        trt = self.library()
        capability = torch.cuda.get_device_capability(spec.device)
        key: EngineKey = {
            "source": hashlib.sha256(model).hexdigest(),
            "library": self.module,
            "version": trt.__version__,
            "target": f"{torch.cuda.get_device_name(spec.device)}, compute capability {dotted(capability)}",
            "cuda": tensorrt_versions.cuda_major(entry(self.name)) or str(torch.version.cuda).partition(".")[0],
            "precision": spec.precision,
            "tf32": spec.precision is Precision.TF32,
            "input": spec.input,
            "batches": (spec.batches.minimum, spec.batches.optimum, spec.batches.maximum),
            "optimization_level": self.optimization_level,
        }
        build = functools.partial(
            build_plan,
            trt,
            model,
            precision=spec.precision,
            batches=spec.batches,
            optimization_level=self.optimization_level,
            target=self._target(trt, capability),
        )
        cache = EngineCache(default_directory())
        with torch.cuda.device(spec.device):  # the libraries build for the current device, and load onto it
            runtime = created(trt, "Runtime", logger(trt))
            try:
                engine = cache.load_or_build(key, build, runtime.deserialize_cuda_engine)
            except EngineRefusedError as error:
                raise failure(trt, "refused to load the engine that it just built") from error
            return self._runner(trt, spec, engine, cache, key)

    def _unsupported_gpu(self, trt: ModuleType, capability: Version) -> str | None:
        """Why the library does not run on a GPU of this compute capability; None where it does."""
        del trt, capability
        return None

    def _target(self, trt: ModuleType, capability: Version) -> Any:
        """The library's name for the compute capability to build for; None for the current GPU."""
        del trt, capability

    @abstractmethod
    def _runner(
        self, trt: ModuleType, spec: BuildSpec, engine: Cached[Any], cache: EngineCache, key: EngineKey
    ) -> Runner:
        """The runner of an engine that was loaded onto the device."""


class EngineRunner(Runner):
    """An engine's execution context, on PyTorch's memory and a stream of its own.

    All logits go to one buffer, which is made once: a forward pass allocates nothing, and tells the library of a batch
    size or an address only where it is another than the last.

    Args:
        trt: The library.
        spec: What it was built for.
        engine: The deserialised engine.
        context: An execution context of the engine; None where the library made none.
        stream: The stream that its work is queued on, never the default one, on which the library would synchronise
            the whole device.
    """

    def __init__(
        self, trt: ModuleType, spec: BuildSpec, engine: Cached[Any], context: Any, stream: torch.cuda.Stream | None
    ) -> None:
        super().__init__(spec, stream)
        assert stream is not None
        self._trt = trt
        self._engine = engine
        self._context = made(trt, context, "no execution context")
        self._stream_handle = stream.cuda_stream
        with self.on_stream():
            self._buffer = torch.empty(spec.batches.maximum, CLASSES, device=spec.device)
        accepted(trt, self._context.set_tensor_address(OUTPUT, self._buffer.data_ptr()), "the address of the logits")
        self._logits = self._buffer[:0]
        self._batch = 0
        self._input_address = 0

    def facts(self, *, zero_copy: bool = False) -> dict[str, str]:
        """The library's version, and the SHA-256 of the engine: building it again may choose other kernels."""
        del zero_copy
        return {"library_version": str(self._trt.__version__), "plan_sha256": self._engine.sha256}

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        self._set_input(images.shape[0], images.data_ptr())
        self._enqueue()
        return self._logits

    def _bare(self, images: torch.Tensor) -> Callable[[], object]:
        del images  # bound by the pass before
        return functools.partial(self._context.execute_async_v3, self._stream_handle)

    def _set_input(self, batch: int, address: int) -> None:
        if batch != self._batch:
            shape = (batch, *INPUT_SHAPE)
            accepted(self._trt, self._context.set_input_shape(INPUT, shape), f"the shape {shape}")
            self._batch = batch
            self._logits = self._buffer[:batch]
        if address != self._input_address:
            accepted(self._trt, self._context.set_tensor_address(INPUT, address), "the address of the images")
            self._input_address = address

    def _enqueue(self) -> None:
        accepted(self._trt, self._context.execute_async_v3(self._stream_handle), "the forward pass")


def dotted(version: Version) -> str:
    """A version or a compute capability in words."""
    return ".".join(map(str, version))
