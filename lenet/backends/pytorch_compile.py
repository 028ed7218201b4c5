"""PyTorch through ``torch.compile`` with every autotuning on, CUDA graphs included."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import ClassVar, Final

import numpy as np
import torch
from torch import nn
from torch._dynamo import config as dynamo
from torch._inductor import config as inductor

from lenet.architecture import INPUT_SHAPE
from lenet.backends.base import Availability, BuildSpec, Runner
from lenet.backends.inductor import advice, cpp_compiler, keep_caches_private, keep_quiet, shortened
from lenet.backends.pytorch_eager import PyTorchBackend, PyTorchRunner, build_network
from lenet.errors import BackendError
from lenet.models.pytorch_lenet import Network

__all__ = ["PyTorchCompile"]

MOST_BUILDS: Final = 1024
"""Networks compiled in one process. TorchDynamo counts them all against one limit, since they share their code, and
fails at its default of 8; a runner's own batch sizes need no more than three."""


_OFF: Final = ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE")
"""PyTorch's variables that switch torch.compile off."""


class _Compiled(nn.Module):
    """A network that refuses to run as it is written.

    TorchDynamo takes the condition for true while it compiles, and leaves nothing of it in what runs. A call that
    PyTorch runs eagerly meets it, whatever made it do so.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_dynamo_compiling():
            raise BackendError(
                "torch.compile did not compile the network",
                found="PyTorch runs it eagerly",
                wanted="what TorchInductor compiled, as the row's name says",
                hint=f"look for what turns torch.compile off, such as {', '.join(_OFF)} or torch.compiler.set_stance",
            )
        logits: torch.Tensor = self.network(images)
        return logits


class PyTorchCompile(PyTorchBackend):
    """``torch.compile(mode="max-autotune", fullgraph=True)``; compiled while it is built, for its optimum batch."""

    name: ClassVar[str] = "pytorch-compile"

    def probe(self, device: torch.device) -> Availability:
        """As PyTorch; torch.compile must not be switched off, a CPU also needs a C++ compiler, a GPU Triton."""
        availability = super().probe(device)
        if availability and (switch := _switched_off()):
            return Availability(availability.version, switch)
        if availability and device.type == "cpu" and not cpp_compiler():
            return Availability(availability.version, "torch.compile needs a C++ compiler on a CPU: install g++")
        return availability

    def _build(self, arrays: Mapping[str, np.ndarray], spec: BuildSpec) -> Runner:
        keep_caches_private()
        keep_quiet()
        dynamo.recompile_limit = dynamo.accumulated_recompile_limit = MOST_BUILDS
        inductor.triton.cudagraph_or_error = True  # TorchInductor would otherwise leave CUDA graphs out in silence
        dynamic = not spec.batches.static
        network = _Compiled(build_network(arrays, spec))
        runner = PyTorchRunner(
            torch.compile(network, mode="max-autotune", fullgraph=True, dynamic=dynamic),
            spec,
        )
        try:
            with warnings.catch_warnings(), runner.on_stream():
                warnings.simplefilter("ignore")  # PyTorch's own, about its own modules and about TF32
                runner.forward(
                    torch.zeros(spec.batches.optimum, *INPUT_SHAPE, dtype=spec.image_dtype, device=spec.device)
                )
        except RuntimeError as error:  # as TorchDynamo's own exceptions are
            raise BackendError(
                "torch.compile failed",
                found=shortened(str(error)),
                wanted="a network that TorchInductor compiles on this machine",
                hint=advice(),
            ) from error
        runner.synchronize()
        return runner


def _switched_off() -> str | None:
    """What keeps torch.compile from compiling, or compiles with something other than TorchInductor."""
    named = next((name for name in _OFF if os.environ.get(name, "") == "1"), None)
    if named is None and dynamo.disable:
        return "torch._dynamo.config.disable turns torch.compile off: set it to False"
    if named is not None:
        return f"{named}=1 turns torch.compile off: unset {named}"
    override = "TORCH_COMPILE_OVERRIDE_BACKENDS"
    if os.environ.get(override):
        return f"{override}={os.environ[override]} puts another compiler in TorchInductor's place: unset {override}"
    return None
