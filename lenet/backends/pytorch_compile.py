"""PyTorch through ``torch.compile`` with every autotuning on, CUDA graphs included."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
import torch
from torch import nn
from torch._dynamo import config as dynamo
from torch._inductor import config as inductor
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from lenet.architecture import INPUT_SHAPE
from lenet.backends.base import Availability, BuildSpec, Runner
from lenet.backends.engine_cache import private_directory
from lenet.backends.pytorch_eager import PyTorchBackend, PyTorchRunner, build_network
from lenet.errors import BackendError
from lenet.models.pytorch_lenet import Network

__all__ = ["PyTorchCompile"]

MOST_BUILDS: Final = 1024
"""Networks compiled in one process. TorchDynamo counts them all against one limit, since they share their code, and
fails at its default of 8; a runner's own batch sizes need no more than three."""


_OFF: Final = ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE")
"""PyTorch's variables that switch torch.compile off."""

_INDUCTOR: Final = "TORCHINDUCTOR_CACHE_DIR"
_TRITON: Final = "TRITON_CACHE_DIR"

_SHOWN: Final = (300, 1500)
"""Characters of torch.compile's message that are shown: its beginning, and its end, where a compiler's words stand."""


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
        if availability and device.type == "cpu" and not _cpp_compiler():
            return Availability(availability.version, "torch.compile needs a C++ compiler on a CPU: install g++")
        return availability

    def _build(self, arrays: Mapping[str, np.ndarray], spec: BuildSpec) -> Runner:
        _keep_caches_private()
        _keep_quiet()
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
                found=_shortened(str(error)),
                wanted="a network that TorchInductor compiles on this machine",
                hint=_advice(),
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


def _keep_quiet() -> None:
    """Keep autotuning's tables, and candidates that do not compile, out of the terminal, unless ``TORCH_LOGS`` asks."""
    if os.environ.get("TORCH_LOGS"):
        return
    inductor.autotune_num_choices_displayed = 0
    inductor.max_autotune_report_choices_stats = False
    logging.getLogger("torch._inductor").setLevel(logging.CRITICAL)


def _keep_caches_private() -> None:
    """Have TorchInductor and Triton keep what they compile in the engine cache's directory, unless the user chose one.

    PyTorch's own default is a directory of a known name in the temporary directory, which another user can make first:
    what lies there is loaded and run.
    """
    # PyTorch puts its default into the environment when it first asks for it: that is nobody's choice.
    if os.environ.get(_INDUCTOR, default_cache_dir()) == default_cache_dir():
        os.environ[_INDUCTOR] = str(private_directory("inductor"))
        if Path(os.environ.get(_TRITON, default_cache_dir())).is_relative_to(default_cache_dir()):
            os.environ[_TRITON] = str(private_directory("triton"))


def _shortened(message: str) -> str:
    """A message on one line, with its middle left out where it is long."""
    text = " ".join(message.split())
    first, last = _SHOWN
    return text if len(text) <= first + last else f"{text[:first]} [...] {text[-last:]}"


def _advice() -> str:
    """What to do where TorchInductor fails: it hands paths to the C++ compiler as they are."""
    variables = {"TMPDIR": tempfile.gettempdir(), _INDUCTOR: os.environ.get(_INDUCTOR, "")}
    for name, path in variables.items():
        if any(character.isspace() for character in path):
            return f"set {name} to a directory without a space in its name: now it is {path!r}"
    return "run with TORCH_LOGS=+inductor for its log; the other PyTorch backends do not need it"


def _cpp_compiler() -> str | None:
    """The compiler that TorchInductor would find: ``$CXX``, else the usual names."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))), None)
