"""TensorRT and TensorRT for RTX: an engine built from LeNet's ONNX model, run on PyTorch's memory.

The libraries share one API, so one module serves both: what needs a library is given it, as ``trt``. They differ in
what runs where. TensorRT times kernels on the GPU at hand and builds an engine for it alone. TensorRT for RTX builds,
with or without a GPU, an engine for a named compute capability, and compiles its kernels on the GPU when it first runs.

Networks are strongly typed: the ONNX model alone says which type a layer runs in. Whether float32 operands may be
rounded to TF32 is the one choice left to the builder, and it is always made.

NVIDIA's documentation of the API: https://docs.nvidia.com/deeplearning/tensorrt/latest/ (and .../tensorrt-rtx/latest/).
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import re
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, ClassVar, Final, TypeAlias

import numpy as np
import torch

from lenet import devices
from lenet.architecture import CLASSES, INPUT_SHAPE
from lenet.backends import entry, installed_version
from lenet.backends.base import AMPERE, Availability, Backend, BatchRange, BuildSpec, Runner, new_stream
from lenet.backends.buffer_cache import Bound, GraphRunner
from lenet.backends.engine_cache import Cached, EngineCache, EngineKey, EngineRefusedError, default_directory
from lenet.backends.precision import DTYPES, check_override
from lenet.errors import BackendError
from lenet.export import INPUT, OUTPUT, missing_packages, to_onnx
from lenet.vocabulary import Precision

__all__ = [
    "DEFAULT_LEVEL",
    "CudaGraphRunner",
    "EngineRunner",
    "JitRunner",
    "TensorRT",
    "TensorRTBackend",
    "TensorRTRTX",
    "build_plan",
    "targets",
]

Version: TypeAlias = tuple[int, int]

DEFAULT_LEVEL: Final = 3
"""The builder optimisation level that both libraries take where none is asked for."""

_KERNELS: Final = "kernels"
"""What the engine cache calls the compiled kernels that it keeps beside an engine."""

_LOG_LINES: Final = 20


class _UnloadableError(BackendError):
    """The library is installed and cannot be loaded."""


class TensorRTBackend(Backend):
    """What the two libraries share.

    Args:
        cuda_graph: Launch the kernels of a forward pass as one CUDA graph.
        optimization_level: How long to look for fast kernels, from 0 to 5.

    Attributes:
        module: The library's module.
        supported: The first version that is supported, and the first that no longer is.
        before_ampere: The precisions that GPUs of a compute capability below 8.0 can run.
    """

    devices: ClassVar[tuple[str, ...]] = ("cuda",)
    module: ClassVar[str]
    supported: ClassVar[tuple[Version, Version]]
    before_ampere: ClassVar[tuple[Precision, ...]]

    def __init__(self, *, cuda_graph: bool = False, optimization_level: int = DEFAULT_LEVEL) -> None:
        self.cuda_graph = cuda_graph
        self.optimization_level = optimization_level

    def library(self) -> ModuleType:
        """Import the library; this needs no GPU.

        Raises:
            BackendError: It is not installed, cannot be loaded, or is of a version that is not supported.
        """
        first, end = self.supported

        def unusable(found: str, kind: type[BackendError] = BackendError) -> BackendError:
            return kind(
                f"{self.name} cannot be used here",
                found=found,
                wanted=f"{self.module} >= {_dotted(first)}, < {_dotted(end)}",
                hint=entry(self.name).install,
            )

        try:
            trt = importlib.import_module(self.module)
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) and error.name == self.module:
                raise unusable(f"{self.module} is not installed") from error
            raise unusable(f"{self.module} cannot be loaded: {error}", _UnloadableError) from error
        version = str(getattr(trt, "__version__", "of an unknown version"))
        numbers = re.match(r"(\d+)\.(\d+)", version)
        release = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
        if release < first:
            raise unusable(f"{self.module} {version} is too old")
        if release >= end:
            raise unusable(f"{self.module} {version} is too new")
        return trt

    def probe(self, device: torch.device) -> Availability:
        """Available on CUDA, where the library can be loaded, is of a supported version, and supports the GPU."""
        line = entry(self.name)
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

    def executed_precision(self, precision: Precision, device: torch.device) -> str:
        """The precision asked for: the network is strongly typed, and TF32 is switched on or off explicitly."""
        if device.type not in self.devices:
            raise self._unsupported(precision, device, "an NVIDIA GPU")
        if precision not in DTYPES:
            raise self._unsupported(precision, device, " or ".join(DTYPES))
        if (
            precision not in self.before_ampere
            and torch.cuda.is_available()
            and torch.cuda.get_device_capability(device) < AMPERE
        ):
            older = " or ".join(self.before_ampere)
            raise self._unsupported(precision, device, f"{older}, or a GPU of compute capability 8.0 or newer")
        check_override(precision, device)
        return precision

    def _build(self, arrays: Mapping[str, np.ndarray], spec: BuildSpec) -> Runner:
        model = to_onnx(arrays, DTYPES[spec.precision], spec.image_dtype)
        # No local holds the engine: the exporter leaves cycles that keep this function's frame.
        return self._load(model, spec)

    def _load(self, model: bytes, spec: BuildSpec) -> Runner:
        """The runner of a model's engine, which comes from the cache or is built."""
        trt = self.library()
        capability = torch.cuda.get_device_capability(spec.device)
        key = EngineKey(
            source=hashlib.sha256(model).hexdigest(),
            library=self.module,
            version=trt.__version__,
            target=f"{torch.cuda.get_device_name(spec.device)}, compute capability {_dotted(capability)}",
            cuda=str(torch.version.cuda).partition(".")[0],
            precision=spec.precision,
            tf32=spec.precision is Precision.TF32,
            input=spec.input,
            batches=(spec.batches.minimum, spec.batches.optimum, spec.batches.maximum),
            optimization_level=self.optimization_level,
        )
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
            runtime = _made(trt, trt.Runtime(_log(trt)), "no runtime")
            try:
                engine = cache.load_or_build(key, build, runtime.deserialize_cuda_engine)
            except EngineRefusedError as error:
                raise _failure(trt, "refused to load the engine that it just built") from error
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


class TensorRT(TensorRTBackend):
    """TensorRT: an engine for the GPU at hand, whose kernels were chosen by timing them on it."""

    name: ClassVar[str] = "tensorrt"
    module: ClassVar[str] = "tensorrt"
    supported: ClassVar[tuple[Version, Version]] = ((10, 15), (11, 0))
    before_ampere: ClassVar[tuple[Precision, ...]] = (Precision.FP32, Precision.FP16)

    def _runner(
        self, trt: ModuleType, spec: BuildSpec, engine: Cached[Any], cache: EngineCache, key: EngineKey
    ) -> Runner:
        del cache, key
        runner = CudaGraphRunner if self.cuda_graph else EngineRunner
        return runner(trt, spec, engine, engine.value.create_execution_context(), new_stream(spec.device))


class TensorRTRTX(TensorRTBackend):
    """TensorRT for RTX: an engine for a compute capability, whose kernels are compiled on the GPU when first run.

    Compiled kernels are kept in the engine cache, beside the engine. The library captures CUDA graphs by itself.
    """

    name: ClassVar[str] = "tensorrt-rtx"
    module: ClassVar[str] = "tensorrt_rtx"
    supported: ClassVar[tuple[Version, Version]] = ((1, 4), (2, 0))
    before_ampere: ClassVar[tuple[Precision, ...]] = (Precision.FP16,)  # 1.7 compiles no float32 product for sm75

    def build_ahead(self, model: bytes, precision: Precision, batches: BatchRange, target: str) -> bytes:
        """Build an engine for a GPU that need not be here.

        Args:
            model: An ONNX model of `lenet.export.to_onnx`, of the precision's type.
            precision: What is asked of its arithmetic.
            batches: The batch sizes that it must take.
            target: One of `targets`, such as ``sm89``.

        Returns:
            The serialised engine.

        Raises:
            BackendError: The library cannot be used, does not know the target, or refuses the network for it.
        """
        return build_plan(
            self.library(),
            model,
            precision=precision,
            batches=batches,
            optimization_level=self.optimization_level,
            target=self.target(target),
        )

    def target(self, name: str) -> Any:
        """The library's own name for one of `targets`.

        Raises:
            BackendError: The library cannot be used, or does not know the target.
        """
        trt = self.library()
        known = targets(trt)
        if name not in known:
            raise BackendError(
                f"{self.name} {trt.__version__} does not build for {name!r}",
                found=name,
                wanted=", ".join(known),
                hint="sm89 is compute capability 8.9; `nvidia-smi --query-gpu=compute_cap --format=csv` prints a GPU's",
            )
        return known[name]

    def _unsupported_gpu(self, trt: ModuleType, capability: Version) -> str | None:
        known = targets(trt)
        if _target_name(capability) in known:
            return None
        return (
            f"{self.name} {trt.__version__} runs on {', '.join(known)}, not on compute capability {_dotted(capability)}"
        )

    def _target(self, trt: ModuleType, capability: Version) -> Any:
        return targets(trt)[_target_name(capability)]

    def _runner(
        self, trt: ModuleType, spec: BuildSpec, engine: Cached[Any], cache: EngineCache, key: EngineKey
    ) -> Runner:
        config = _made(trt, engine.value.create_runtime_config(), "no runtime configuration")
        # The default starts on fallback kernels and swaps in those of a batch size at some later call.
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        graphs = trt.CudaGraphStrategy
        config.cuda_graph_strategy = graphs.WHOLE_GRAPH_CAPTURE if self.cuda_graph else graphs.DISABLED
        kernels = _made(trt, config.create_runtime_cache(), "no runtime cache")
        stored = cache.read(key, _KERNELS)
        if stored is not None:
            kernels.deserialize(stored)  # refused after a new driver, say: then kernels are compiled anew
        _accepted(trt, config.set_runtime_cache(kernels), "the runtime cache")
        context = engine.value.create_execution_context(config)
        store = functools.partial(cache.write, key, kind=_KERNELS)
        return JitRunner(trt, spec, engine, context, new_stream(spec.device), kernels, stored, store)


def targets(trt: ModuleType) -> dict[str, Any]:
    """The compute capabilities that TensorRT for RTX builds for, by name: ``sm89`` is 8.9."""
    return {name.lower(): value for name, value in trt.ComputeCapability.__members__.items() if name.startswith("SM")}


def build_plan(
    trt: ModuleType,
    model: bytes,
    *,
    precision: Precision,
    batches: BatchRange,
    optimization_level: int = DEFAULT_LEVEL,
    target: Any = None,
) -> bytes:
    """Build a serialised engine.

    Args:
        trt: The library.
        model: An ONNX model of `lenet.export.to_onnx`.
        precision: Says whether TF32 may be used; the types are the model's.
        batches: The batch sizes of its one optimisation profile.
        optimization_level: How long to look for fast kernels, from 0 to 5.
        target: One of the values of `targets`, for TensorRT for RTX; None for the current GPU.

    Raises:
        BackendError: The library refused the model, the configuration or the network; its messages are shown.
    """
    log = _log(trt)
    log.messages.clear()
    builder = _made(trt, trt.Builder(log), "no builder")
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(_made(trt, network, "no network"), log)
    if not parser.parse(model):
        raise BackendError(
            f"{trt.__name__} cannot parse the ONNX model",
            found=_lines(_describe(parser.get_error(index)) for index in range(parser.num_errors)),
            wanted="an ONNX model that `lenet export` writes",
            hint=f"check that {trt.__name__} {trt.__version__} and the exporter fit each other",
        )
    config = _configuration(trt, builder, precision, batches, optimization_level, target)
    return bytes(_made(trt, builder.build_serialized_network(network, config), "no engine"))


def _configuration(
    trt: ModuleType, builder: Any, precision: Precision, batches: BatchRange, optimization_level: int, target: Any
) -> Any:
    config = _made(trt, builder.create_builder_config(), "no builder configuration")
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.builder_optimization_level = optimization_level
    level = config.builder_optimization_level  # one that is out of range is logged, and left as it was
    _accepted(trt, level == optimization_level, f"optimisation level {optimization_level}")
    switch = config.set_flag if precision is Precision.TF32 else config.clear_flag  # it is on by default
    switch(trt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    shapes = [(size, *INPUT_SHAPE) for size in (batches.minimum, batches.optimum, batches.maximum)]
    try:
        profile.set_shape(INPUT, *shapes)
    except (RuntimeError, TypeError) as error:  # it holds the sizes to be inconsistent, or its integers are too short
        raise BackendError(
            f"{trt.__name__} refused the batch sizes",
            found=f"{shapes}: {str(error).partition('. ')[0]}",
            wanted="sizes that its dimensions can hold",
            hint="choose smaller batches",
        ) from error
    _accepted(trt, config.add_optimization_profile(profile) >= 0, f"the profile {shapes}")
    if target is not None:
        config.num_compute_capabilities = 1
        _accepted(trt, config.set_compute_capability(target, 0), f"the target {target}")
    return config


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
        self._context = _made(trt, context, "no execution context")
        self._stream_handle = stream.cuda_stream
        with self.on_stream():
            self._buffer = torch.empty(spec.batches.maximum, CLASSES, device=spec.device)
        _accepted(trt, self._context.set_tensor_address(OUTPUT, self._buffer.data_ptr()), "the address of the logits")
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
            _accepted(self._trt, self._context.set_input_shape(INPUT, shape), f"the shape {shape}")
            self._batch = batch
            self._logits = self._buffer[:batch]
        if address != self._input_address:
            _accepted(self._trt, self._context.set_tensor_address(INPUT, address), "the address of the images")
            self._input_address = address

    def _enqueue(self) -> None:
        _accepted(self._trt, self._context.execute_async_v3(self._stream_handle), "the forward pass")


class CudaGraphRunner(GraphRunner, EngineRunner):
    """An `EngineRunner` that captures a CUDA graph for each buffer of images, and replays it."""

    def _bind(self, images: torch.Tensor) -> Bound:
        self._set_input(images.shape[0], images.data_ptr())
        self._enqueue()  # the first pass at a new shape does work that a graph cannot hold
        self.synchronize()
        graph = torch.cuda.CUDAGraph()
        with devices.capturing(graph, self.stream):
            queued = self._context.execute_async_v3(self._stream_handle)
        # A pass that was refused leaves a graph that does nothing, whose replay would show the last logits again.
        _accepted(self._trt, queued, "the forward pass that was to be captured")
        return Bound(graph.replay, self._logits)


class JitRunner(EngineRunner):
    """An `EngineRunner` whose library compiles kernels in the first pass at a batch size; they are stored then.

    Args:
        trt: The library.
        spec: What it was built for.
        engine: The deserialised engine.
        context: An execution context of the engine; None where the library made none.
        stream: The stream that its work is queued on.
        kernels: The runtime cache that the context compiles into.
        stored: What is stored of it.
        store: Stores it.
    """

    def __init__(
        self,
        trt: ModuleType,
        spec: BuildSpec,
        engine: Cached[Any],
        context: Any,
        stream: torch.cuda.Stream | None,
        kernels: Any,
        stored: bytes | None,
        store: Callable[[bytes], None],
    ) -> None:
        super().__init__(trt, spec, engine, context, stream)
        self._kernels = kernels
        self._stored = stored
        self._store = store
        self._compiled: set[int] = set()

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super()._forward(images)
        if self._batch not in self._compiled:
            self._compiled.add(self._batch)
            self._store_kernels()
        return logits

    def _store_kernels(self) -> None:
        content = bytes(_made(self._trt, self._kernels.serialize(), "no serialised runtime cache"))
        if content != self._stored:
            self._store(content)
            self._stored = content


def _made(trt: ModuleType, thing: Any, absence: str) -> Any:
    """What the library made, for it says by None that it failed."""
    if thing is None:
        raise _failure(trt, f"made {absence}")
    return thing


def _accepted(trt: ModuleType, accepted: bool, what: str) -> None:
    """Make sure that the library accepted a setting or a call, for it says by False that it did not."""
    if not accepted:
        raise _failure(trt, f"refused {what}")


def _failure(trt: ModuleType, problem: str) -> BackendError:
    messages = _log(trt).messages
    return BackendError(
        f"{trt.__name__} {trt.__version__} {problem}",
        found=_lines(messages) if messages else "nothing in its log",
        wanted="a library, a driver and a GPU that fit each other and the network",
        hint="act on the last messages of its log, which are shown as found",
    )


def _describe(error: Any) -> str:
    """A parser's error, and the node that it is about where there is one."""
    node = f"{error.node_operator()} node {error.node_name()}: " if error.node_operator() else ""
    return f"{node}{error.desc()}"


def _lines(messages: Iterable[str]) -> str:
    return "\n          ".join(messages)


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


def _target_name(capability: Version) -> str:
    return f"sm{capability[0]}{capability[1]}"


@functools.cache
def _log(trt: ModuleType) -> Any:
    """The library's logger, which keeps warnings and errors; one for a process, since the library takes no second."""

    class Log(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: deque[str] = deque(maxlen=_LOG_LINES)

        def log(self, severity: Any, msg: str) -> None:
            if int(severity) <= int(trt.ILogger.WARNING):  # the lower, the more severe
                self.messages.append(msg)

    return Log()
