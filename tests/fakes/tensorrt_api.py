"""A recording fake of the documented Python API that `lenet.backends.tensorrt_api` and its like call.

It is no TensorRT, and a test that uses it says nothing about TensorRT: only which calls are made, in which order, with
which arguments, and what comes of a call that the library refuses. Its "engine" evaluates a given function on the host
memory behind the addresses that it was told, so that a wrong address or shape shows as wrong logits.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import contextmanager
from enum import Enum, IntEnum
from math import prod
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.fakes.tensorrt_bindings import RECORDED

if TYPE_CHECKING:
    from collections.abc import Iterator

STREAM_HANDLE = 0x57EA

_USED = {
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "BuilderFlag": ("TF32",),
    "ProfilingVerbosity": ("LAYER_NAMES_ONLY", "DETAILED"),
}
_ENUMS = {
    version.partition(".")[0]: {
        name: IntEnum(name, {key: names[name][key] for key in keys}) for name, keys in _USED.items()
    }
    for version, names in RECORDED.items()
}
"""Of the enumerations of each major version of TensorRT what is used, with the values that its bindings have."""

ComputeCapability = Enum("ComputeCapability", ["NONE", "CURRENT", "SM89", "SM120"])
CudaGraphStrategy = Enum("CudaGraphStrategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"])
DynamicShapesKernelSpecializationStrategy = Enum("DynamicShapesKernelSpecializationStrategy", ["LAZY", "EAGER", "NONE"])


class FakeTensorRT(ModuleType):
    """A module that stands where ``tensorrt`` or ``tensorrt_rtx`` would.

    Args:
        name: The module's name.
        version: What it says its version is.
        network: What its engines compute: images (N, 3, 32, 32) to logits (N, 10).

    Attributes:
        calls: Every recorded call: its name and arguments.
        refused: Names of calls that fail the way the API fails, each with a message to the logger.
        capturing: Whether a CUDA graph is being captured: then a pass is queued and not run.
    """

    def __init__(self, name: str, version: str, network: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__(name)
        self.__version__ = version
        self.network = network
        self.calls: list[tuple[Any, ...]] = []
        self.refused: set[str] = set()
        self.capturing = False
        self.parser_errors: list[FakeParserError] = []
        self.logger: Any = None
        self.ILogger = FakeLogger
        enums = _ENUMS.get(version.partition(".")[0], _ENUMS["11"])  # TensorRT for RTX 1 has those of TensorRT 11
        self.NetworkDefinitionCreationFlag: Any = enums["NetworkDefinitionCreationFlag"]
        self.BuilderFlag: Any = enums["BuilderFlag"]
        self.ProfilingVerbosity: Any = enums["ProfilingVerbosity"]
        self.ComputeCapability = ComputeCapability
        self.CudaGraphStrategy = CudaGraphStrategy
        self.DynamicShapesKernelSpecializationStrategy = DynamicShapesKernelSpecializationStrategy

    def record(self, name: str, *arguments: Any) -> bool:
        """Note a call, and say whether it is accepted."""
        self.calls.append((name, *arguments))
        if name in self.refused:
            message = f"{name} was refused"
            self.logger.log(FakeLogger.ERROR, message)
            return False
        return True

    def take_calls(self) -> list[tuple[Any, ...]]:
        """The calls since the last time this was asked."""
        calls, self.calls = self.calls, []
        return calls

    def construct(self, name: str, logger: Any) -> None:
        """Fail the way a constructor of the bindings fails, if it is refused. It is recorded then alone."""
        self.logger = logger
        if name in self.refused and not self.record(name):
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def Builder(self, logger: Any) -> FakeBuilder:  # noqa: N802 - the API's name
        self.construct("Builder", logger)
        return FakeBuilder(self)

    def OnnxParser(self, network: Any, logger: Any) -> FakeParser:  # noqa: N802 - the API's name
        assert network.flags == 1 << self.NetworkDefinitionCreationFlag["STRONGLY_TYPED"]
        assert logger is self.logger
        self.construct("OnnxParser", logger)
        return FakeParser(self, network)

    def Runtime(self, logger: Any) -> FakeRuntime:  # noqa: N802 - the API's name
        self.construct("Runtime", logger)
        return FakeRuntime(self)


class FakeLogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class FakeParserError:
    def __init__(self, operator: str, node: str, message: str) -> None:
        self._fields = operator, node, message

    def node_operator(self) -> str:
        return self._fields[0]

    def node_name(self) -> str:
        return self._fields[1]

    def desc(self) -> str:
        return self._fields[2]


class FakeParser:
    def __init__(self, library: FakeTensorRT, network: SimpleNamespace) -> None:
        self._library, self._network = library, network

    @property
    def num_errors(self) -> int:
        return len(self._library.parser_errors)

    def get_error(self, index: int) -> FakeParserError:
        return self._library.parser_errors[index]

    def parse(self, model: bytes) -> bool:
        self._network.model = model
        return not self._library.parser_errors


class FakeBuilder:
    def __init__(self, library: FakeTensorRT) -> None:
        self._library = library

    def create_network(self, flags: int) -> SimpleNamespace:
        return SimpleNamespace(flags=flags, model=b"")

    def create_builder_config(self) -> FakeConfig:
        return FakeConfig(self._library)

    def create_optimization_profile(self) -> FakeProfile:
        return FakeProfile()

    def build_serialized_network(self, network: SimpleNamespace, config: FakeConfig) -> bytes | None:
        settings = {name: value for name, value in vars(config).items() if not name.startswith("_")}
        accepted = self._library.record("build_serialized_network", settings)
        return b"plan of " + network.model if accepted else None


class FakeConfig:
    def __init__(self, library: FakeTensorRT) -> None:
        self._library = library
        self.builder_optimization_level = 3
        self.flags = {library.BuilderFlag.TF32}  # on by default, as in the library

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "builder_optimization_level" and not 0 <= value <= 5:
            self._library.record("builder_optimization_level", value)
            return
        super().__setattr__(name, value)

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: FakeProfile) -> int:
        self.profile = profile.shapes
        return 0 if self._library.record("add_optimization_profile", profile.shapes) else -1

    def set_compute_capability(self, capability: Any, index: int) -> bool:
        return self._library.record("set_compute_capability", capability, index)


class FakeProfile:
    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self.shapes = (name, *shapes)


class FakeRuntime:
    def __init__(self, library: FakeTensorRT) -> None:
        self._library = library

    def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
        accepted = self._library.record("deserialize_cuda_engine", plan)
        return FakeEngine(self._library) if accepted else None


class FakeEngine:
    def __init__(self, library: FakeTensorRT) -> None:
        self._library = library

    def create_runtime_config(self) -> FakeRuntimeConfig | None:
        return FakeRuntimeConfig(self._library) if self._library.record("create_runtime_config") else None

    def create_execution_context(self, config: FakeRuntimeConfig | None = None) -> FakeContext | None:
        settings = {} if config is None else vars(config)
        accepted = self._library.record(
            "create_execution_context",
            {name: value for name, value in settings.items() if not name.startswith("_")},
        )
        return FakeContext(self._library, None if config is None else config.runtime_cache) if accepted else None


class FakeRuntimeConfig:
    def __init__(self, library: FakeTensorRT) -> None:
        self._library = library
        self.runtime_cache: FakeRuntimeCache | None = None

    def create_runtime_cache(self) -> FakeRuntimeCache | None:
        return FakeRuntimeCache(self._library) if self._library.record("create_runtime_cache") else None

    def set_runtime_cache(self, cache: FakeRuntimeCache) -> bool:
        self.runtime_cache = cache
        return self._library.record("set_runtime_cache")


class FakeRuntimeCache:
    """Holds a name for each batch size that a context met."""

    def __init__(self, library: FakeTensorRT) -> None:
        self._library = library
        self.content = b"kernels"

    def serialize(self) -> bytes | None:
        return self.content if self._library.record("serialize") else None

    def deserialize(self, blob: bytes) -> bool:
        accepted = self._library.record("deserialize", blob)
        if accepted:
            self.content = blob
        return accepted


class FakeContext:
    def __init__(self, library: FakeTensorRT, kernels: FakeRuntimeCache | None) -> None:
        self._library = library
        self._kernels = kernels
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = shape
        return self._library.record("set_input_shape", name, shape)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return self._library.record("set_tensor_address", name, address)

    def execute_async_v3(self, stream_handle: int) -> bool:
        if not self._library.record("execute_async_v3", stream_handle):
            return False
        if self._kernels is not None and b" %d" % self._shape[0] not in self._kernels.content:
            self._kernels.content += b" %d" % self._shape[0]
        run = self._pass(self._shape, dict(self._addresses))
        if self._library.capturing:
            FakeCudaGraph.captured = run
        else:
            run()
        return True

    def _pass(self, shape: tuple[int, ...], addresses: dict[str, int]) -> Callable[[], None]:
        def run() -> None:
            logits = self._library.network(_at(addresses["images"], shape))
            _at(addresses["logits"], logits.shape)[...] = logits

        return run


class FakeStream:
    """Stands where a `torch.cuda.Stream` would; its work is done when it is queued."""

    cuda_stream = STREAM_HANDLE

    def __init__(self, library: FakeTensorRT) -> None:
        self._library = library

    def synchronize(self) -> None:
        self._library.record("synchronize")


class FakeCudaGraph:
    """Stands where a `torch.cuda.CUDAGraph` would."""

    library: FakeTensorRT
    captured: Callable[[], None] | None = None

    def __init__(self) -> None:
        self.run: Callable[[], None] | None = None

    def replay(self) -> None:
        assert self.run is not None
        self.library.record("replay")
        self.run()


@contextmanager
def capture(graph: FakeCudaGraph, *, stream: FakeStream, capture_error_mode: str) -> Iterator[None]:
    """Stands where `torch.cuda.graph` would."""
    library = graph.library
    library.record("begin_capture", stream.cuda_stream, capture_error_mode)
    FakeCudaGraph.captured, library.capturing = None, True
    yield
    graph.run, FakeCudaGraph.captured, library.capturing = FakeCudaGraph.captured, None, False
    library.record("end_capture")


def _at(address: int, shape: tuple[int, ...]) -> np.ndarray:
    buffer = (ctypes.c_float * prod(shape)).from_address(address)
    return np.ctypeslib.as_array(buffer).reshape(shape)


IMITATIONS = {
    FakeBuilder: "Builder",
    FakeConfig: "IBuilderConfig",
    FakeContext: "IExecutionContext",
    FakeEngine: "ICudaEngine",
    FakeLogger: "ILogger",
    FakeParser: "OnnxParser",
    FakeParserError: "ParserError",
    FakeProfile: "IOptimizationProfile",
    FakeRuntime: "Runtime",
    FakeRuntimeCache: "IRuntimeCache",
    FakeRuntimeConfig: "IRuntimeConfig",
}
"""The classes of the API that are imitated. The last two are in TensorRT for RTX alone."""
