"""What slows every call of this process down, or changes what it runs, and does so unseen by a clock.

Tracers, profilers and debug modes stand inside of what is timed: a row would be their time as well. Other settings
of libraries change what is run, and belong to the conditions of a measurement.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any, Final

__all__ = ["SWITCHES", "instruments", "switches"]

_DEBUG: Final = {
    "CUDA_LAUNCH_BLOCKING": "the host waits for each kernel",
    "PYTORCH_NO_CUDA_MEMORY_CACHING": "each tensor is allocated by the driver",
    "TORCH_SHOW_DISPATCH_TRACE": "each operator is printed",
    "TORCH_CUDA_SANITIZER": "each access is checked",
    "PYTHONMALLOC": "each allocation is checked",
}
"""Variables that are for finding faults, and what they do; 0 and the like leave them off."""

_OFF: Final = frozenset({"", "0", "OFF", "FALSE", "NO", "N", "DEFAULT", "PYMALLOC", "MALLOC", "MIMALLOC"})

SWITCHES: Final = re.compile(
    r"(NVIDIA_TF32_OVERRIDE|LD_PRELOAD|MALLOC_CONF|CUBLASLT_\w+|CUDA_DEVICE_MAX_CONNECTIONS|CUDA_FORCE_PTX_JIT"
    r"|CUDA_INJECTION64_PATH|NVTX_INJECTION64_PATH|(ONEDNN|DNNL)_\w+"
    r"|MKL_(CBWR|DYNAMIC|ENABLE_INSTRUCTIONS)|ATEN_CPU_CAPABILITY|PYTORCH_(CUDA_)?ALLOC_CONF|PYTHONPERFSUPPORT"
    r"|OMP_(WAIT_POLICY|PROC_BIND|PLACES|DYNAMIC|SCHEDULE)|KMP_(BLOCKTIME|AFFINITY)|GOMP_(SPINCOUNT|CPU_AFFINITY)"
    r"|TORCH_(CUDNN|CUBLAS|BLAS|LINALG|ALLOW)_\w+|TORCH_COMPILE_\w+|TORCHDYNAMO_\w+|TORCHINDUCTOR_\w+"
    r"|TRITON_(INTERPRET|F32_DEFAULT|ENABLE_\w+|DISABLE_\w+)"
    r"|ORT_\w+|TRT_\w+)"
)
"""Names of the variables that change what libraries run; none that a library sets by itself while it is imported."""

_NO_CONDITION: Final = re.compile(r".*_(DIR|VERBOSE|LOGPATH)|DNNL_VERBOSE.*|TORCHINDUCTOR_(COMPILE_THREADS|WORKER_\w+)")
"""Those of them that say where or how loudly something is compiled."""


def instruments() -> list[str]:
    """What of this process is traced, profiled or debugged now, each with its name; empty for one that can be timed."""
    return list(_instruments())


def switches() -> dict[str, str]:
    """The variables of the environment that change what libraries run, as far as they are set, without directories."""
    chosen = {name for name in os.environ if SWITCHES.fullmatch(name) and not _NO_CONDITION.fullmatch(name)}
    return {name: re.sub(r"[^\s:=]*/", "", os.environ[name]) for name in sorted(chosen)}


def _instruments() -> Iterator[str]:
    for what, found in (
        ("sys.settrace", sys.gettrace()),
        ("threading.settrace", threading.gettrace()),
        ("sys.setprofile", sys.getprofile()),
        ("threading.setprofile", threading.getprofile()),
    ):
        if found is not None:
            yield f"{_owner(found)} ({what})"
    monitoring: Any = getattr(sys, "monitoring", None)  # from Python 3.12 on
    for number in range(6) if monitoring is not None else ():
        tool = monitoring.get_tool(number)
        if tool is not None:
            yield f"{tool} (sys.monitoring)"
    if tracemalloc.is_tracing():
        yield "tracemalloc (PYTHONTRACEMALLOC, -X tracemalloc)"
    if sys.flags.dev_mode:
        yield "Python's development mode (PYTHONDEVMODE, -X dev)"
    for name, does in _DEBUG.items():
        if os.environ.get(name, "").upper() not in _OFF:
            yield f"{name}={os.environ[name]} ({does})"
    yield from _instruments_of_torch()


def _instruments_of_torch() -> Iterator[str]:
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return
    if torch.is_anomaly_enabled():
        yield "autograd's anomaly mode (torch.autograd.set_detect_anomaly)"
    if torch.autograd._profiler_enabled():  # noqa: SLF001 - nothing public tells
        yield "PyTorch's profiler (torch.profiler, torch.autograd.profiler)"


def _owner(function: Any) -> str:
    """The package that a tracing function is of, such as coverage; a debugger's is a method of its object."""
    owner = getattr(function, "__module__", None) or type(function).__module__
    return str(owner).partition(".")[0]
