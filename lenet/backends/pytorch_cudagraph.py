"""PyTorch's operators, captured once into a CUDA graph and replayed: eager kernels without eager launches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import torch

from lenet.backends.base import BuildSpec, Precision, Runner, new_stream
from lenet.backends.precision import allow_tf32
from lenet.backends.pytorch_eager import Network, PyTorchBackend

__all__ = ["PyTorchCudaGraph"]

MOST_GRAPHS: Final = 16
"""Graphs that a runner keeps, the latest used; each holds its input buffer, its logits and its activations."""

_EAGER_CALLS: Final = 3
"""Calls before a capture, in which cuDNN and cuBLAS choose their kernels and allocate (PyTorch's CUDA graph notes)."""


class PyTorchCudaGraph(PyTorchBackend):
    """Capture and replay on CUDA. A graph is bound to one buffer of images, so nothing is copied before a replay."""

    name: ClassVar[str] = "pytorch-cudagraph"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)

    def _build(self, arrays: Mapping[str, np.ndarray], spec: BuildSpec) -> Runner:
        return _GraphRunner(Network(arrays, spec), spec)


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    images: torch.Tensor
    logits: torch.Tensor


class _GraphRunner(Runner):
    """The first call with a buffer captures a graph for it; later calls with it replay that."""

    def __init__(self, network: Network, spec: BuildSpec) -> None:
        super().__init__(spec, new_stream(spec.device))
        self._network = network
        self._tf32 = spec.precision is Precision.TF32
        self._graphs: OrderedDict[tuple[int, int], _Captured] = OrderedDict()

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        key = (images.data_ptr(), images.shape[0])
        captured = self._graphs.get(key)
        if captured is None:
            captured = self._graphs[key] = self._capture(images)
            if len(self._graphs) > MOST_GRAPHS:
                self._graphs.popitem(last=False)
        else:
            self._graphs.move_to_end(key)
        with self.on_stream():
            captured.graph.replay()
        return captured.logits

    def _bare(self, images: torch.Tensor) -> Callable[[], object]:
        replay: Callable[[], object] = self._graphs[images.data_ptr(), images.shape[0]].graph.replay
        return replay

    def _capture(self, images: torch.Tensor) -> _Captured:
        allow_tf32(self._tf32)
        graph = torch.cuda.CUDAGraph()
        with torch.inference_mode():
            with self.on_stream():
                for _ in range(_EAGER_CALLS):
                    self._network(images)
            self.synchronize()
            with torch.cuda.graph(graph, stream=self.stream):
                logits = self._network(images)
        return _Captured(graph, images, logits)
