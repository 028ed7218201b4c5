"""The device that a command asked for, CPU threads, and the capture of CUDA graphs."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lenet.errors import DeviceError
from lenet.vocabulary import threads_words

__all__ = ["capturing", "describe", "no_garbage_collection", "resolve", "set_threads"]


def resolve(name: str) -> torch.device:
    """The torch device for ``cpu``, ``cuda`` or ``auto`` (CUDA if there is a GPU, else the CPU).

    Each process that ``torchrun`` starts gets a GPU of its own.

    Raises:
        DeviceError: ``cuda`` was asked for, and this machine has no GPU, or fewer than torchrun started processes.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise DeviceError(
            f"--device {name}: there is no CUDA device",
            found=f"torch {torch.__version__}, {built}, which sees no GPU",
            wanted="an NVIDIA GPU, its driver, and a torch built for CUDA",
            hint="use --device cpu, or check that `nvidia-smi` lists the GPU",
        )
    local_rank = os.environ.get("LOCAL_RANK")
    if local_rank is not None:
        count = torch.cuda.device_count()
        if int(local_rank) >= count:
            raise DeviceError(
                f"there is no GPU for process {local_rank} of this machine",
                found=f"{count} GPU{'s' if count > 1 else ''}",
                wanted="a GPU for each process; they are counted from 0",
                hint=f"start `torchrun --nproc-per-node={count}`, or use --device cpu",
            )
        torch.cuda.set_device(int(local_rank))
    return torch.device("cuda", torch.cuda.current_device())


def describe(device: torch.device) -> str:
    """The GPU's name, or ``CPU`` with torch's number of threads, which changes the order of sums."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {threads_words(torch.get_num_threads())}"


def set_threads(count: int | None) -> None:
    """Set PyTorch's number of CPU threads; None leaves its own choice."""
    if count is not None:
        torch.set_num_threads(count)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Turn Python's garbage collector off until the context is left."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def capturing(graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream | None) -> Iterator[None]:
    """Capture into a CUDA graph what is queued on a stream until the context is left.

    Calls of other threads do not end the capture, as in NVIDIA's trtexec. The garbage collector is off meanwhile: a
    compiled kernel that is collected unloads its module, and such a call of the capture's own thread ends it.

    Args:
        graph: What to capture into.
        stream: The stream; torch's own for captures if None.
    """
    with no_garbage_collection(), torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        yield
