"""How a kernel is queued: by the driver's own calls, for which everything is prepared before."""

from __future__ import annotations

import ctypes
import functools
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from lenet.errors import BackendError

__all__ = ["Graph", "KernelNode", "LaunchConfig", "driver", "prepared"]


class LaunchConfig(ctypes.Structure):
    """The driver API's ``CUlaunchConfig``: blocks, threads a block, bytes of shared memory, stream, attributes."""

    _fields_: ClassVar = [
        ("blocks", ctypes.c_uint * 3),
        ("threads", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("attribute_count", ctypes.c_uint),
    ]


class KernelNode(ctypes.Structure):
    """The driver API's ``CUDA_KERNEL_NODE_PARAMS_v2``; the kernel's context is the current one."""

    _fields_: ClassVar = [
        ("function", ctypes.c_void_p),
        ("blocks", ctypes.c_uint * 3),
        ("threads", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("arguments", ctypes.c_void_p),
        ("extra", ctypes.c_void_p),
        ("kernel", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
    ]


@functools.cache
def driver() -> Any:
    """The driver's library.

    Raises:
        BackendError: There is none.
    """
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise BackendError(
            "NVIDIA's driver cannot be loaded",
            found=str(error),
            wanted="libcuda.so.1, of CUDA 12 or newer",
            hint="check `nvidia-smi`",
        ) from error


class Graph:
    """A CUDA graph of one launch, destroyed with this object: the driver then frees it when the last launch is done.

    Args:
        driver: The driver's library.
        node: The launch.
        stream: A stream of the context that it is to run in. The calling thread may have another, or none.

    Raises:
        BackendError: The driver refuses it.
    """

    def __init__(self, driver: Any, node: KernelNode, stream: int) -> None:
        self.handle, context = ctypes.c_void_p(), ctypes.c_void_p()
        status = driver.cuStreamGetCtx(ctypes.c_void_p(stream), ctypes.byref(context))
        status = status or driver.cuCtxPushCurrent_v2(context)
        if not status:
            status = self._make(driver, node)
            driver.cuCtxPopCurrent_v2(ctypes.byref(context))
        if status:
            raise _refused("refuses to prepare the launch", status)
        weakref.finalize(self, driver.cuGraphExecDestroy, self.handle).atexit = False

    def _make(self, driver: Any, node: KernelNode) -> int:
        graph, added, none = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_size_t(0)
        status: int = driver.cuGraphCreate(ctypes.byref(graph), 0)
        if status:
            return status
        status = driver.cuGraphAddKernelNode_v2(ctypes.byref(added), graph, None, none, ctypes.byref(node))
        status = status or driver.cuGraphInstantiateWithFlags(ctypes.byref(self.handle), graph, ctypes.c_ulonglong(0))
        driver.cuGraphDestroy(graph)
        return status


def prepared(
    launch: Callable[..., int], arguments: tuple[object, ...], logits: torch.Tensor, keep: tuple[object, ...]
) -> Callable[[], torch.Tensor]:
    """A call that queues a launch, keeps what it needs, and returns the logits."""

    def call(_keep: tuple[object, ...] = keep) -> torch.Tensor:
        status = launch(*arguments)
        if status:
            raise _refused("refuses to launch the kernel", status)
        return logits

    return call


def _refused(what: str, status: int) -> BackendError:
    return BackendError(
        f"the driver {what}",
        found=f"error {status}",
        wanted="a launch",
        hint="an earlier error of this process's CUDA work shows here as well",
    )
