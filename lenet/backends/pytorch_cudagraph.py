"""PyTorch's operators, captured once into a CUDA graph and replayed: eager kernels without eager launches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import numpy as np
import torch

from lenet import devices
from lenet.backends.base import BuildSpec, Runner, new_stream
from lenet.backends.buffer_cache import Bound, GraphRunner
from lenet.backends.precision import allow_tf32
from lenet.backends.pytorch_eager import PyTorchBackend, build_network
from lenet.models.pytorch_lenet import Network
from lenet.vocabulary import Precision

__all__ = ["PyTorchCudaGraph"]

_EAGER_CALLS: Final = 3
"""Calls before a capture, in which cuDNN and cuBLAS choose their kernels and allocate (PyTorch's CUDA graph notes)."""


class PyTorchCudaGraph(PyTorchBackend):
    """Capture and replay on CUDA. A graph is bound to one buffer of images, so nothing is copied before a replay."""

    name: ClassVar[str] = "pytorch-cudagraph"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)

    def _build(self, arrays: Mapping[str, np.ndarray], spec: BuildSpec) -> Runner:
        return _CudaGraphRunner(build_network(arrays, spec), spec)


class _CudaGraphRunner(GraphRunner):
    """The first call with a buffer captures a graph for it; later calls with it replay that."""

    def __init__(self, network: Network, spec: BuildSpec) -> None:
        super().__init__(spec, new_stream(spec.device))
        self._network = network
        self._tf32 = spec.precision is Precision.TF32

    def _bind(self, images: torch.Tensor) -> Bound:
        allow_tf32(self._tf32)
        graph = torch.cuda.CUDAGraph()
        with torch.inference_mode():
            with self.on_stream():
                for _ in range(_EAGER_CALLS):
                    self._network(images)
            self.synchronize()
            with devices.capturing(graph, self.stream):
                logits = self._network(images)
        return Bound(graph.replay, logits)
