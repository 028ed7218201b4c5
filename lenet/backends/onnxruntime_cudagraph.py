"""ONNX Runtime on CUDA with its own CUDA graphs: captured in the first pass with a buffer, replayed in the others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any, ClassVar, Final

import torch

from lenet.backends.base import BuildSpec, Runner, new_stream
from lenet.backends.buffer_cache import Bound
from lenet.backends.onnxruntime import OnnxRuntime, OnnxRuntimeRunner, open_session
from lenet.errors import BackendError

__all__ = ["CudaGraphRunner", "OnnxRuntimeCudaGraph"]

_NUMBER: Final = "gpu_graph_id"
"""The run option by which ONNX Runtime looks a graph up."""

_FIRST_RUNS: Final = 3
"""ONNX Runtime makes two regular runs for its allocations, and captures the third. Most versions do so in one call."""


class OnnxRuntimeCudaGraph(OnnxRuntime):
    """ONNX Runtime, which captures CUDA graphs of its own.

    It refuses a network with a layer, a copy or a branch outside the CUDA provider. Source:
    https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html, "Using CUDA Graphs".
    """

    name: ClassVar[str] = "onnxruntime-cudagraph"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)

    def _runner(self, model: bytes, spec: BuildSpec) -> Runner:
        stream = new_stream(spec.device)
        session = open_session(model, spec, stream, {"enable_cuda_graph": "1"})
        return CudaGraphRunner(session, spec, stream)


class CudaGraphRunner(OnnxRuntimeRunner):
    """A runner whose session has a CUDA graph for each buffer of images.

    A graph reads and writes the addresses that it was captured with, and ONNX Runtime looks it up by a number alone. So
    each buffer's runs have a number that no other buffer ever gets. The session releases a graph that the cache drops.
    Releases of ONNX Runtime that cannot do so keep it, unused, until the runner is closed.

    Graphs belong to the thread that captured them. While one is captured, in the first pass with a buffer, no other
    thread may allocate or copy GPU memory: ONNX Runtime captures in CUDA's global mode.
    """

    def __init__(self, session: Any, spec: BuildSpec, stream: torch.cuda.Stream | None) -> None:
        super().__init__(session, spec, stream)
        self._numbers = count(1)  # runs without a number have 0
        self._release_graph: Callable[[int], None] | None = getattr(session, "release_captured_graph", None)

    def _run_options(self) -> Any:
        options = super()._run_options()
        options.add_run_config_entry(_NUMBER, str(next(self._numbers)))
        return options

    def _release(self, bound: Bound) -> None:
        if self._release_graph is not None:
            assert isinstance(bound.bare, partial)
            _, options = bound.bare.args
            self._release_graph(int(options.get_run_config_entry(_NUMBER)))

    def _bind(self, images: torch.Tensor) -> Bound:
        bound = super()._bind(images)
        try:
            for _ in range(_FIRST_RUNS):
                bound.bare()
        except Exception as error:  # ONNX Runtime's exceptions share no public base class
            raise BackendError(
                "ONNX Runtime cannot capture the network as a CUDA graph",
                found=str(error),
                wanted="kernels that can all be captured, and memory for them",
                hint="choose smaller batches, or the backend onnxruntime, which queues the kernels one by one",
            ) from error
        return bound
