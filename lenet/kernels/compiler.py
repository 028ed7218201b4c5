"""Compile a variant of the kernel with NVRTC, NVIDIA's run-time compiler; no GPU is needed.

NVRTC is a library that PyTorch's CUDA wheels bring along; NVIDIA's ``cuda.core`` calls it
(https://nvidia.github.io/cuda-python/cuda-core/latest/).
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from lenet.errors import BackendError
from lenet.kernels import Variant
from lenet.provenance import pip_install

__all__ = [
    "INSTALL",
    "OPTIONS",
    "Compiled",
    "compile_source",
    "compile_variant",
    "cuda_core",
    "kernel_handle",
    "nvrtc_version",
]

INSTALL: Final = pip_install('-e ".[fused]"')

_UNUSED: Final = 177
"""The compiler's warning of a constant that a variant does not use."""

OPTIONS: Final[dict[str, Any]] = {"std": "c++17", "ptxas_options": ["-v"], "diag_suppress": _UNUSED}
"""What NVRTC is told of every variant and architecture (``cuda.core.ProgramOptions``)."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """Machine code.

    Attributes:
        cubin: For one compute capability.
        log: What the compiler said, with registers, spills and shared memory.
    """

    cubin: bytes
    log: str


def cuda_core() -> Any:
    """NVIDIA's ``cuda.core``.

    Raises:
        BackendError: It is not installed, or cannot be loaded.
    """
    try:
        return importlib.import_module("cuda.core")
    except Exception as error:
        raise BackendError(
            "cuda.core cannot be used here", found=str(error), wanted="NVIDIA's cuda-core", hint=INSTALL
        ) from error


def kernel_handle(kernel: Any) -> int:
    """The driver's ``CUkernel`` of a kernel of ``cuda.core``."""
    return int(kernel.handle if hasattr(kernel, "handle") else kernel._handle)  # noqa: SLF001 - before cuda.core 1.0


def nvrtc_version() -> str:
    """NVRTC's version, such as 13.0.

    Raises:
        BackendError: It cannot be loaded.
    """
    try:
        nvrtc = importlib.import_module("cuda.bindings.nvrtc")
        _, major, minor = nvrtc.nvrtcVersion()
    except Exception as error:
        raise BackendError(
            "NVRTC, which compiles the kernel, cannot be loaded",
            found=str(error),
            wanted="NVIDIA's NVRTC of a version that cuda-bindings knows",
            hint=f"{INSTALL}, and PyTorch for CUDA",
        ) from error
    return f"{major}.{minor}"


def compile_variant(variant: Variant, architecture: str) -> Compiled:
    """Compile a variant.

    Args:
        variant: What to compile.
        architecture: Such as ``sm_90``.

    Raises:
        BackendError: There is no compiler, or it failed; its log is shown.
    """
    return compile_source(variant.source, variant.macros, architecture)


def compile_source(source: str, macros: Mapping[str, str], architecture: str) -> Compiled:
    """Compile CUDA C++ with macros, as `compile_variant` does a variant."""
    core = cuda_core()
    nvrtc_version()
    options = core.ProgramOptions(arch=architecture, define_macro=list(macros.items()), **OPTIONS)
    log = io.StringIO()
    try:
        code = core.Program(source, "c++", options).compile("cubin", logs=log)
    except Exception as error:
        raise BackendError(
            f"NVRTC cannot compile the kernel for {architecture}",
            found=f"{error}\n{log.getvalue()}".replace("\0", "").strip(),
            wanted="a compiler that knows this architecture",
            hint="act on the compiler's log; a newer PyTorch brings a newer NVRTC",
        ) from error
    return Compiled(bytes(code.code), log.getvalue())
