"""A step of training in four CUDA kernels of our own (``lenet/kernels/train.cu``), for a GPU that trains alone.

The weights and the momentum of all parameters lie in one tensor each, of which the model's parameters and the optimizer's
buffers are views. So checkpoints and tests see what the kernels write.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from lenet.architecture import CLASSES
from lenet.errors import BackendError
from lenet.kernels import step as step_source
from lenet.kernels.compiler import compile_source, cuda_core
from lenet.models.pytorch_lenet import LeNet
from lenet.training.ranks import Ranks
from lenet.training.steps import Forward, Step

__all__ = ["FusedStep", "Launch", "Memory", "load"]


@dataclass(frozen=True, slots=True)
class Memory:
    """What the kernels work on.

    Attributes:
        weights: float32, all parameters, one behind the other.
        momentum: float32, of the same length: the velocity of each.
        rate: float32 (), the learning rate.
        scratch: float32 (batch size, `lenet.kernels.step.SCRATCH`).
        keep: SGD's momentum.
        decay: Its weight decay.
    """

    weights: torch.Tensor
    momentum: torch.Tensor
    rate: torch.Tensor
    scratch: torch.Tensor
    keep: float
    decay: float


Launch: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]
"""Takes a step: float32 images (n, 3, 32, 32) and int64 labels (n,), both contiguous, and float32 logits (n, 10) to write.
"""


class FusedStep(Step):
    """The same step as `Step`'s but for rounding, in four launches.

    Args:
        model: As for `Step`. Its parameters become views of one tensor.
        optimizer: As for `Step`. Its learning rate is a tensor, and its momentum buffers become views too.
        batch_size: The most images in a batch.
        load_kernels: Gives the launch for the memory that it works on.
        forward: As for `Step`; for evaluation alone.
    """

    def __init__(
        self,
        model: LeNet,
        optimizer: torch.optim.SGD,
        batch_size: int,
        load_kernels: Callable[[Memory], Launch],
        forward: Forward | None = None,
    ) -> None:
        super().__init__(model, optimizer, Ranks(), forward)
        (group,) = optimizer.param_groups
        buffers = self.state()[len(self.parameters) :]
        weights = _join(self.parameters)
        momentum = _join(buffers) if buffers else torch.zeros_like(weights)
        scratch = torch.empty(batch_size, step_source.SCRATCH, device=self.device)
        self._launch = load_kernels(
            Memory(weights, momentum, group["lr"], scratch, group["momentum"], group["weight_decay"])
        )

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Take one step, with images and labels as for `Step`."""
        logits = torch.empty(len(labels), CLASSES, device=self.device)
        self._launch(images.contiguous(), labels, logits)
        self._seen.append((logits, labels))


def _join(tensors: list[torch.Tensor]) -> torch.Tensor:
    """A tensor of all elements, one tensor behind the other; these become views of it."""
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.data = part.view(tensor.shape)
    return flat


def load(device: torch.device) -> Callable[[Memory], Launch]:
    """Compile the kernels for a GPU, and load them.

    Raises:
        BackendError: There is no compiler or no ``cuda.core``, or one of them failed.
    """
    major, minor = torch.cuda.get_device_capability(device)
    core = cuda_core()
    cubin = compile_source(step_source.source(), step_source.MACROS, f"sm_{major}{minor}").cubin
    with torch.cuda.device(device):
        torch.cuda.current_stream()  # PyTorch's context is the one to load into
        core.Device(device.index or 0).set_current()
        code = core.ObjectCode.from_cubin(cubin)
        kernels = [code.get_kernel(kernel.name) for kernel in step_source.KERNELS]
    return lambda memory: _launch(kernels, memory)


def _launch(kernels: list[Any], memory: Memory) -> Launch:
    """The launch through the driver's API, with all of its arguments made beforehand but those of the batch."""
    driver = ctypes.CDLL("libcuda.so.1")
    images, labels, logits, batch = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_int()
    weights, momentum, rate, scratch = (
        ctypes.c_void_p(tensor.data_ptr()) for tensor in (memory.weights, memory.momentum, memory.rate, memory.scratch)
    )
    keep, decay = ctypes.c_float(memory.keep), ctypes.c_float(memory.decay)
    values = (
        (images, weights, scratch, batch),
        (labels, weights, scratch, logits, batch),
        (images, weights, scratch, batch),
        (weights, momentum, rate, keep, decay, scratch, batch),
    )
    calls = [
        (
            kernel,
            ctypes.c_void_p(int(loaded.handle if hasattr(loaded, "handle") else loaded._handle)),  # noqa: SLF001 - before cuda.core 1.0
            (ctypes.c_void_p * len(these))(*(ctypes.addressof(value) for value in these)),
        )
        for kernel, loaded, these in zip(step_source.KERNELS, kernels, values, strict=True)
    ]

    def launch(batch_images: torch.Tensor, batch_labels: torch.Tensor, to: torch.Tensor, _keep: object = (kernels, memory, values)) -> None:
        images.value, labels.value, logits.value = batch_images.data_ptr(), batch_labels.data_ptr(), to.data_ptr()
        batch.value = len(batch_labels)
        stream = ctypes.c_void_p(torch.cuda.current_stream(to.device).cuda_stream)
        for kernel, handle, arguments in calls:
            blocks = kernel.blocks(batch.value)
            status = driver.cuLaunchKernel(
                handle, blocks, 1, 1, kernel.threads, 1, 1, kernel.shared_bytes, stream, arguments, None
            )
            if status:
                raise BackendError(
                    f"the driver refuses to launch {kernel.name}",
                    found=f"error {status}",
                    wanted="a launch",
                    hint="an earlier error of this process's CUDA work shows here as well",
                )

    return launch
