"""The CUDA kernels of a training step (`lenet.kernels.step`) on a GPU: compiled, loaded and launched."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, TypeAlias

import torch

from lenet.architecture import INPUT_SHAPE
from lenet.data.augmentation import Crop, scale_and_shift
from lenet.errors import BackendError
from lenet.kernels import step
from lenet.kernels.compiler import compile_source, cuda_core, kernel_handle
from lenet.training.batches import Augment

__all__ = ["Kernels", "Launch", "Memory", "load"]


@dataclass(frozen=True, slots=True)
class Memory:
    """What the kernels work on.

    Attributes:
        weights: float32, all parameters, one behind the other.
        momentum: float32, of the same length: the velocity of each.
        rate: float32 (), the learning rate.
        scratch: float32 (batch size, `SCRATCH` of `lenet.kernels.step`).
        keep: SGD's momentum.
        decay: Its weight decay.
    """

    weights: torch.Tensor
    momentum: torch.Tensor
    rate: torch.Tensor
    scratch: torch.Tensor
    keep: float
    decay: float


StreamOf: TypeAlias = Callable[[torch.device], ctypes.c_void_p]
"""Gives the stream of a device to launch on."""

Launch: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]
"""Takes a step: float32 images (n, 3, 32, 32), int64 labels (n,), float32 logits (n, 10) to write; all contiguous."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """The kernels, loaded.

    Attributes:
        augment: Makes the images of many batches.
        bind: Gives the launch for what it works on.
    """

    augment: Augment
    bind: Callable[[Memory], Launch]


@cache
def load(device: torch.device) -> Kernels:
    """Compile the kernels for a GPU, and load them: once in a process.

    Raises:
        BackendError: There is no compiler or no ``cuda.core``, or one of them failed.
    """
    major, minor = torch.cuda.get_device_capability(device)
    core = cuda_core()
    cubin = compile_source(step.source(), step.MACROS, f"sm_{major}{minor}").cubin
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        with torch.cuda.device(device):
            torch.cuda.current_stream()  # PyTorch's context is the one to load into
            core.Device(device.index or 0).set_current()
            code = core.ObjectCode.from_cubin(cubin)
            loaded = {kernel.name: code.get_kernel(kernel.name) for kernel in (step.AUGMENT, *step.KERNELS)}
    except Exception as error:
        raise BackendError(
            "the driver refuses the kernels of a training step",
            found=str(error),
            wanted=f"kernels for sm_{major}{minor}",
            hint="check that the driver is as new as NVRTC",
        ) from error
    return launching(driver, loaded, _stream)


def launching(driver: Any, loaded: Mapping[str, Any], stream: StreamOf) -> Kernels:
    """The kernels' launches.

    Args:
        driver: The driver's library, of which ``cuLaunchKernel`` is called.
        loaded: Each kernel of `lenet.kernels.step`, as ``cuda.core`` gives it, by its name.
        stream: Gives the stream to launch on.
    """
    new_call = partial(_Call, driver.cuLaunchKernel, loaded)
    return Kernels(partial(_augment, new_call, stream), partial(_bind, new_call, stream))


class _Call:
    """A kernel and its arguments, which are changed in place from launch to launch.

    NVIDIA's bindings would convert all of them at each launch.
    """

    def __init__(self, launch: Any, loaded: Mapping[str, Any], kernel: step.StepKernel, *values: Any) -> None:
        self._kernel, self._code, self._values = kernel, loaded[kernel.name], values
        self._handle = ctypes.c_void_p(kernel_handle(self._code))
        self._arguments = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        self._launch = launch

    def __call__(self, batch: int, stream: ctypes.c_void_p) -> None:
        kernel = self._kernel
        shape = kernel.blocks(batch), 1, 1, kernel.threads, 1, 1
        status = self._launch(self._handle, *shape, kernel.shared_bytes, stream, self._arguments, None)
        if status:
            raise BackendError(
                f"the driver refuses to launch {kernel.name}",
                found=f"error {status}",
                wanted="a launch",
                hint="an earlier error of this process's CUDA work shows here as well",
            )


def _pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _stream(device: torch.device) -> ctypes.c_void_p:
    return ctypes.c_void_p(torch.cuda.current_stream(device).cuda_stream)


def _augment(
    new_call: Callable[..., _Call],
    stream: StreamOf,
    images: torch.Tensor,
    order: torch.Tensor,
    crops: Crop,
    padding: int,
) -> torch.Tensor:
    """An `Augment` by the kernel."""
    scale, shift = scale_and_shift(images.device)
    made = torch.empty(len(order), *INPUT_SHAPE, device=images.device)
    drawn = (images, order, crops.top, crops.left, crops.flip)
    values = (*map(_pointer, drawn), ctypes.c_int(padding), *map(_pointer, (scale, shift, made)))
    new_call(step.AUGMENT, *values)(len(order), stream(images.device))
    return made


def _bind(new_call: Callable[..., _Call], stream: StreamOf, memory: Memory) -> Launch:
    """The launch through the driver's API, with all of its arguments made beforehand but those of the batch."""
    images, labels, logits, batch = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_int()
    tensors = (memory.weights, memory.momentum, memory.rate, memory.scratch)
    weights, momentum, rate, scratch = map(_pointer, tensors)
    descent = (weights, momentum, rate, ctypes.c_float(memory.keep), ctypes.c_float(memory.decay))
    arguments = (
        (images, weights, scratch, batch),
        (labels, weights, scratch, logits, batch),
        (images, weights, scratch, batch),
        (*descent, scratch, batch),
    )
    calls = [new_call(kernel, *values) for kernel, values in zip(step.KERNELS, arguments, strict=True)]

    def launch(of_images: torch.Tensor, of_labels: torch.Tensor, to: torch.Tensor, _keep: object = tensors) -> None:
        images.value, labels.value, logits.value = of_images.data_ptr(), of_labels.data_ptr(), to.data_ptr()
        batch.value = len(of_labels)
        here = stream(to.device)
        for call in calls:
            call(batch.value, here)

    return launch
