"""The device memory that a call takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["PeakMemory", "allocated", "free_workspaces", "peak_memory"]


@dataclass(frozen=True, slots=True)
class PeakMemory:
    """Device memory, in bytes.

    Attributes:
        allocated: The most that PyTorch's allocator had handed out during the call, weights and inputs that were there
            before included.
        outside: What the device's used memory grew by during the call beside PyTorch's reserve: engines, workspaces and
            contexts of other libraries, such as TensorRT's. What another process took meanwhile is in it too.
    """

    allocated: int
    outside: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.allocated + self.outside

    def beyond(self, held: int) -> int | None:
        """Both together without what was held before; None where so much of that was freed that none can tell."""
        return self.total - held if self.total >= held else None


def allocated(device: torch.device) -> int:
    """What PyTorch's allocator has handed out on a GPU now, in bytes; 0 on a CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def free_workspaces(device: torch.device) -> None:
    """Give back the workspaces that cuBLAS keeps on a GPU, 33 MiB on an H100 for each stream that it ran on.

    The build of a compiled network frees them all: those of earlier runners would count as in use before it, and it
    would be found to take less than nothing. No CUDA graph that was captured with one may be replayed afterwards
    (PyTorch's notes, "CUDA semantics", "cuBLAS workspaces").
    """
    if device.type == "cuda":
        torch._C._cuda_clearCublasWorkspaces()  # noqa: SLF001 - what the notes name; there is no public one


def peak_memory(call: Callable[[], object], device: torch.device) -> PeakMemory | None:
    """Run a call once and tell the device memory it took.

    What a library keeps from when it was built is seen only if the call builds it. The driver is asked
    (``cudaMemGetInfo``), not NVML, since both tell the device's used memory and the driver needs no handle.

    Args:
        call: What to run; it may queue work on any stream.
        device: The device it runs on.

    Returns:
        None on a CPU.
    """
    if device.type != "cuda":
        call()
        return None
    torch.cuda.synchronize(device)
    before = _outside(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return PeakMemory(torch.cuda.max_memory_allocated(device), max(_outside(device) - before, 0))


def _outside(device: torch.device) -> int:
    free, total = torch.cuda.mem_get_info(device)
    return total - free - torch.cuda.memory_reserved(device)
