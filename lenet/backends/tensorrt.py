"""TensorRT: an engine for the GPU at hand, run on PyTorch's memory."""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

import torch

from lenet import devices
from lenet.backends.base import BuildSpec, Runner, new_stream
from lenet.backends.buffer_cache import Bound, GraphRunner
from lenet.backends.tensorrt_api import accepted
from lenet.backends.tensorrt_engine import EngineRunner, TensorRTBackend, Version
from lenet.engine_cache import Cached, EngineCache, EngineKey
from lenet.vocabulary import Precision

__all__ = ["CudaGraphRunner", "TensorRT"]


class TensorRT(TensorRTBackend):
    """TensorRT: an engine for the GPU at hand, whose kernels were chosen by timing them on it."""

    name: ClassVar[str] = "tensorrt"
    module: ClassVar[str] = "tensorrt"
    supported: ClassVar[tuple[Version, Version]] = ((10, 15), (12, 0))
    before_ampere: ClassVar[tuple[Precision, ...]] = (Precision.FP32, Precision.FP16)

    def _runner(
        self, trt: ModuleType, spec: BuildSpec, engine: Cached[Any], cache: EngineCache, key: EngineKey
    ) -> Runner:
        del cache, key
        runner = CudaGraphRunner if self.cuda_graph else EngineRunner
        return runner(trt, spec, engine, engine.value.create_execution_context(), new_stream(spec.device))


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
        accepted(self._trt, queued, "the forward pass that was to be captured")
        return Bound(graph.replay, self._logits)
