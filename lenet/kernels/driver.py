"""Our kernels on a GPU: compiled or taken from the cache, loaded, and launched.

A launch is one call of the driver through ctypes, with all of its arguments made beforehand: NVIDIA's bindings convert
them at each call, and the replay of a CUDA graph wants its stream to be the current one.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias, TypeVar

import torch

from lenet.documents import to_json
from lenet.engine_cache import Cached, EngineCache, EngineKey, EngineRefusedError, default_directory
from lenet.errors import BackendError
from lenet.kernels.compiler import OPTIONS, compile_source, cuda_core, kernel_handle, nvrtc_version

__all__ = ["LaunchConfig", "library", "load_or_compile", "prepare_launch"]

T = TypeVar("T")
Argument: TypeAlias = ctypes.c_void_p | ctypes.c_int | ctypes.c_float


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


@functools.cache
def library() -> Any:
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


def prepare_launch(
    driver: Any, kernel: Any, config: LaunchConfig, arguments: Sequence[Argument], result: T, keep: object
) -> Callable[[], T]:
    """A call that queues a kernel. Any thread may make it.

    The kernel belongs to no context: it runs in its stream's, whatever the calling thread's is (CUDA Driver API,
    cuLaunchKernelEx).

    Args:
        driver: `library`, or what stands in for it.
        kernel: Of `load_or_compile`.
        config: Read at each call, as the arguments are, so that both can be changed in place between calls.
        arguments: The kernel's.
        result: What the call returns.
        keep: What the arguments point to.

    Returns:
        The call, which keeps all of these alive and the kernel loaded. It raises `BackendError` where the driver
        refuses the launch.
    """
    launch = driver.cuLaunchKernelEx
    addresses = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(argument) for argument in arguments))
    told = (ctypes.byref(config), ctypes.c_void_p(kernel_handle(kernel)), addresses, None)

    def call(_keep: object = (kernel, config, arguments, keep)) -> T:
        status = launch(*told)
        if status:
            raise BackendError(
                "the driver refuses to launch a kernel",
                found=f"error {status}",
                wanted="a launch",
                hint="an earlier error of this process's CUDA work shows here as well",
            )
        return result

    return call


def load_or_compile(
    source: str, macros: Mapping[str, str], kernels: Mapping[str, int], device: torch.device
) -> Cached[dict[str, Any]]:
    """Kernels of a source on a device, from the cache or compiled.

    Args:
        source: CUDA C++.
        macros: What it is told.
        kernels: By the name of each kernel the bytes of shared memory that its launches ask for.
        device: The GPU.

    Returns:
        Each kernel, as ``cuda.core`` gives it, by its name.

    Raises:
        BackendError: There is no compiler, it failed, or the driver refuses what it made.
        OutputError: The cache cannot be written.
    """
    major, minor = torch.cuda.get_device_capability(device)
    architecture = f"sm_{major}{minor}"
    inputs = to_json([source, dict(macros), OPTIONS])
    key: EngineKey = {
        "source": hashlib.sha256(inputs.encode()).hexdigest(),
        "library": "nvrtc",
        "version": nvrtc_version(),
        "target": architecture,
    }
    refusals: list[str] = []
    with torch.cuda.device(device):
        torch.cuda.current_stream()  # PyTorch's context is the one to load into
        try:
            return EngineCache(default_directory()).load_or_build(
                key,
                lambda: compile_source(source, macros, architecture).cubin,
                functools.partial(_load, kernels, device, refusals),
            )
        except EngineRefusedError as error:
            raise BackendError(
                "the driver refuses the kernel",
                found="; ".join(refusals),
                wanted=f"a kernel for {architecture}",
                hint="check that the driver is as new as NVRTC",
            ) from error


def _load(kernels: Mapping[str, int], device: torch.device, refusals: list[str], cubin: bytes) -> dict[str, Any] | None:
    """The kernels of a cubin, allowed their shared memory; None where the driver refuses, with the reason noted."""
    core = cuda_core()
    driver = importlib.import_module("cuda.bindings.driver")
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    found = {}
    try:
        core.Device(device.index or 0).set_current()
        code = core.ObjectCode.from_cubin(cubin)
        for name, shared_bytes in kernels.items():
            found[name] = code.get_kernel(name)
            handle, ordinal = driver.CUkernel(kernel_handle(found[name])), driver.CUdevice(device.index or 0)
            (status,) = driver.cuKernelSetAttribute(attribute, shared_bytes, handle, ordinal)
            if int(status) != 0:
                refusals.append(f"{name}: {shared_bytes} bytes of shared memory: {status}")
                return None
    except Exception as error:  # noqa: BLE001 - whatever the binding raises, the cache is to build anew
        refusals.append(str(error))
        return None
    return found
