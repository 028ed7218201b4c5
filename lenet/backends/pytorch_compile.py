"""PyTorch through ``torch.compile`` with every autotuning on, CUDA graphs included."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import ClassVar, Final

import numpy as np
import torch
from torch._dynamo import config as dynamo
from torch._dynamo.exc import TorchDynamoException

from lenet.architecture import INPUT_SHAPE
from lenet.backends.base import Availability, BuildSpec, Runner
from lenet.backends.pytorch_eager import Network, PyTorchBackend, PyTorchRunner
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
        dynamic = not spec.batches.static
        network = torch.compile(Network(arrays, spec), mode="max-autotune", fullgraph=True, dynamic=dynamic)
        runner = PyTorchRunner(network, spec)
        try:
            with runner.on_stream():
                runner.forward(
                    torch.zeros(spec.batches.optimum, *INPUT_SHAPE, dtype=spec.input.dtype, device=spec.device)
                )
        except TorchDynamoException as error:
            raise BackendError(
                "torch.compile failed",
                found=" ".join(str(error).split())[:300],
                wanted="a network that TorchInductor compiles on this machine",
                hint="run with TORCH_LOGS=+inductor for its log; the other PyTorch backends do not need it",
            ) from error
        runner.synchronize()
        return runner


def _cpp_compiler() -> str | None:
    """The compiler that TorchInductor would find: ``$CXX``, else the usual names."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))), None)
