"""PyTorch through ``torch.compile`` with every autotuning on, CUDA graphs included."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, Final

import numpy as np
import torch
from torch._dynamo import config as dynamo
from torch._dynamo.exc import TorchDynamoException

from lenet.architecture import INPUT_SHAPE
from lenet.backends.base import Availability, BuildSpec, Precision, Runner, new_stream
from lenet.backends.precision import allow_tf32
from lenet.backends.pytorch_eager import Network, PyTorchBackend, inference
from lenet.errors import BackendError

__all__ = ["PyTorchCompile"]

MOST_BUILDS: Final = 1024
"""Networks compiled in one process. TorchDynamo counts them all against one limit, since they share their code, and
fails at its default of 8; a runner's own batch sizes need no more than three."""


class PyTorchCompile(PyTorchBackend):
    """``torch.compile(mode="max-autotune", fullgraph=True)``; compiled while it is built, for its optimum batch."""

    name: ClassVar[str] = "pytorch-compile"

    def probe(self, device: torch.device) -> Availability:
        """As PyTorch; a CPU also needs a C++ compiler, a GPU Triton."""
        availability = super().probe(device)
        if availability and device.type == "cpu" and not _cpp_compiler():
            return Availability(availability.version, "torch.compile needs a C++ compiler on a CPU: install g++")
        return availability

    def _build(self, arrays: Mapping[str, np.ndarray], spec: BuildSpec) -> Runner:
        dynamo.recompile_limit = dynamo.accumulated_recompile_limit = MOST_BUILDS
        runner = _CompiledRunner(Network(arrays, spec), spec)
        try:
            with runner.on_stream():
                runner.forward(torch.zeros(spec.batches.optimum, *INPUT_SHAPE, device=spec.device))
        except TorchDynamoException as error:
            raise BackendError(
                "torch.compile failed",
                found=" ".join(str(error).split())[:300],
                wanted="a network that TorchInductor compiles on this machine",
                hint="run with TORCH_LOGS=+inductor for its log; the other PyTorch backends do not need it",
            ) from error
        runner.synchronize()
        return runner


class _CompiledRunner(Runner):
    def __init__(self, network: Network, spec: BuildSpec) -> None:
        super().__init__(spec, new_stream(spec.device))
        self._network = torch.compile(network, mode="max-autotune", fullgraph=True, dynamic=not spec.batches.static)
        self._tf32 = spec.precision is Precision.TF32

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        allow_tf32(self._tf32)
        with inference(), self.on_stream():
            logits: torch.Tensor = self._network(images)
            return logits

    def _bare(self, images: torch.Tensor) -> Callable[[], object]:
        return partial(self._network, images)


def _cpp_compiler() -> str | None:
    """The compiler that TorchInductor would find: ``$CXX``, else the usual names."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))), None)
