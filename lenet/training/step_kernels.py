"""The CUDA kernels of a training step (`lenet.kernels.step`) on a GPU: compiled, loaded and launched."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, TypeAlias

import torch

from lenet.architecture import INPUT_SHAPE
from lenet.data.augmentation import Crop, scale_and_shift
from lenet.kernels import driver, step
from lenet.kernels.driver import Argument, LaunchConfig, prepare_launch
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


StreamOf: TypeAlias = Callable[[torch.device], int]
"""Gives the stream of a device to launch on."""

Launch: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]
"""Takes a step: float32 images (n, 3, 32, 32), int64 labels (n,), float32 logits (n, 10) to write; all contiguous."""


_Queue: TypeAlias = Callable[[int, int], None]
_Prepare: TypeAlias = Callable[[step.StepKernel, Sequence[Argument]], _Queue]


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
    """The kernels for a GPU, from the cache or compiled: once in a process.

    Raises:
        BackendError: There is no compiler or no ``cuda.core``, or one of them failed.
        OutputError: The cache cannot be written.
    """
    sizes = {kernel.name: kernel.shared_bytes for kernel in (step.AUGMENT, *step.KERNELS)}
    code = driver.load_or_compile(step.source(), step.MACROS, sizes, device)
    return launching(driver.library(), code.value, _stream)


def launching(library: Any, loaded: Mapping[str, Any], stream: StreamOf) -> Kernels:
    """The kernels' launches.

    Args:
        library: The driver's.
        loaded: Each kernel of `lenet.kernels.step`, as ``cuda.core`` gives it, by its name.
        stream: Gives the stream to launch on.
    """
    prepare = partial(_prepare, library, loaded)
    return Kernels(partial(_augment, prepare, stream), partial(_bind, prepare, stream))


def _prepare(library: Any, loaded: Mapping[str, Any], kernel: step.StepKernel, values: Sequence[Argument]) -> _Queue:
    """A kernel's call for a batch on a stream."""
    config = LaunchConfig(blocks=(0, 1, 1), threads=(kernel.threads, 1, 1), shared_bytes=kernel.shared_bytes)
    call = prepare_launch(library, loaded[kernel.name], config, values, None, None)

    def queue(batch: int, stream: int) -> None:
        config.blocks[0], config.stream = kernel.blocks(batch), stream
        call()

    return queue


def _pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream


def _augment(
    prepare: _Prepare,
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
    values: list[Argument] = [*map(_pointer, drawn), ctypes.c_int(padding), *map(_pointer, (scale, shift, made))]
    prepare(step.AUGMENT, values)(len(order), stream(images.device))
    return made


def _bind(prepare: _Prepare, stream: StreamOf, memory: Memory) -> Launch:
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
    calls = [prepare(kernel, values) for kernel, values in zip(step.KERNELS, arguments, strict=True)]

    def launch(of_images: torch.Tensor, of_labels: torch.Tensor, to: torch.Tensor, _keep: object = tensors) -> None:
        images.value, labels.value, logits.value = of_images.data_ptr(), of_labels.data_ptr(), to.data_ptr()
        batch.value = len(of_labels)
        here = stream(to.device)
        for call in calls:
            call(batch.value, here)

    return launch
