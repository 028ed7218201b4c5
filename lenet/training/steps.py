"""A step of stochastic gradient descent: by operators, on several threads, as a CUDA graph, or by our own kernels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import Final, TypeAlias

import torch
from torch.nn.functional import cross_entropy

from lenet import devices
from lenet.architecture import CLASSES, INPUT_SHAPE
from lenet.errors import BackendError, OutputError
from lenet.kernels.step import SCRATCH
from lenet.models.pytorch_lenet import LeNet
from lenet.terminal import tell
from lenet.training import cpu_forward, gpu_forward, step_kernels
from lenet.training.batches import Augment, augment
from lenet.training.ranks import Ranks
from lenet.training.step_kernels import Kernels, Memory

__all__ = ["Forward", "FusedStep", "GraphStep", "Step", "ThreadedStep", "exact_float32", "step_for"]

Forward: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""Normalised float32 images (n, 3, 32, 32) -> logits (n, 10)."""

_MOST_PARTS: Final = 4
"""The most threads that share a batch. More would mostly wait for Python's lock, and have few images each."""

_EAGER_STEPS: Final = 3
"""Steps before a capture. In these cuBLAS, cuDNN and NCCL set themselves up (PyTorch's CUDA graph notes)."""


def exact_float32() -> AbstractContextManager[None]:
    """Switch off TF32 in cuDNN's convolutions, and choose deterministic kernels.

    PyTorch allows TF32 in convolutions by default; its matrix products do not use it unless told to. cuDNN's heuristics
    choose the kernels. Timing them instead would choose anew in every process.
    """
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    return flags


class Step:
    """One step on this rank's part of a batch. Logits stay on the device, so that nothing waits for a step.

    Args:
        model: The network. Its weights are changed in place.
        optimizer: The optimizer of the model's parameters.
        ranks: The processes whose gradients are averaged.
        forward: Computes the model's logits. The default is the model itself.
    """

    def __init__(self, model: LeNet, optimizer: torch.optim.SGD, ranks: Ranks, forward: Forward | None = None) -> None:
        self.model = model
        self.forward = forward or model
        self.optimizer = optimizer
        self.ranks = ranks
        self.augment: Augment = augment
        self.parameters = list(model.parameters())
        self.device = self.parameters[0].device
        self._seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._mark: torch.cuda.Event | None = None

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Take one step.

        Args:
            images: float32 (n, 3, 32, 32), normalised, on the model's device.
            labels: int64 (n,), on the same device.
        """
        self._seen.append((self._descend(images, labels), labels))

    def _descend(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        logits = self.forward(images)
        cross_entropy(logits, labels).backward()
        self.ranks.average([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        self.optimizer.step()
        return logits.detach()

    def look(self) -> None:
        """Check that the other ranks go on, by waiting for what was queued before the previous look.

        What was queued since may still run.

        Raises:
            RankError: Another rank has ended or is silent for longer than `lenet.training.ranks.PATIENCE`.
        """
        before, self._mark = self._mark, self.ranks.mark(self.device)
        self.ranks.wait(before)

    def begin_epoch(self, learning_rate: float) -> None:
        """Set the learning rate, and drop the logits of the previous epoch."""
        self.model.train()
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(learning_rate)
            else:
                group["lr"] = learning_rate
        self._seen.clear()

    def end_epoch(self) -> tuple[float, int]:
        """Wait for the device, and sum up the epoch.

        Returns:
            The sum of the losses in nats and the number of hits, over the images of all ranks.
        """
        logits, labels = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        loss = cross_entropy(logits.double(), labels, reduction="sum")
        sums = torch.stack([loss, (logits.argmax(1) == labels).sum().double()])
        self.ranks.add(sums)
        self.ranks.wait(self.ranks.mark(self.device))
        loss_sum, hits = sums.tolist()
        return loss_sum, int(hits)

    def state(self) -> list[torch.Tensor]:
        """Every tensor that a step changes, so that a capture can restore them."""
        buffers = []
        for parameter in self.parameters:
            if self.optimizer.param_groups[0]["momentum"]:
                # Made here, because the first step would make them, and so would differ from the captured one. From
                # buffers of zero, both give the same result.
                state = self.optimizer.state[parameter]
                buffers.append(state.setdefault("momentum_buffer", torch.zeros_like(parameter)))
        return [*self.parameters, *buffers]


class GraphStep(Step):
    """The same step, captured for full batches and replayed: one launch a step instead of about sixty.

    The graph reads its batch from a fixed buffer, to which each batch is copied. A shorter last batch runs operator by
    operator.

    Args:
        model: As for `Step`, on CUDA.
        optimizer: As for `Step`. Its learning rate is a tensor on the GPU, which each replay reads.
        ranks: As for `Step`.
        batch_size: Images in this rank's part of a full batch.
        forward: As for `Step`.
    """

    def __init__(
        self,
        model: LeNet,
        optimizer: torch.optim.SGD,
        ranks: Ranks,
        batch_size: int,
        forward: Forward | None = None,
    ) -> None:
        super().__init__(model, optimizer, ranks, forward)
        self._images = torch.zeros((batch_size, *INPUT_SHAPE), device=self.device)
        self._labels = torch.zeros(batch_size, dtype=torch.int64, device=self.device)
        self._graph = torch.cuda.CUDAGraph()
        self._capture()

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Take one step, with images and labels as for `Step`."""
        if len(labels) != len(self._labels):
            super().__call__(images, labels)
            return
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._graph.replay()
        self._seen.append((self._logits.clone(), labels))

    def _capture(self) -> None:
        state = self.state()
        before = [tensor.detach().clone() for tensor in state]
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(_EAGER_STEPS):
                self._descend(self._images, self._labels)
        with devices.capturing(self._graph, stream):  # NCCL's threads query events meanwhile
            self._logits = self._descend(self._images, self._labels)
        torch.cuda.current_stream(self.device).wait_stream(stream)
        with torch.no_grad():
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)


class FusedStep(Step):
    """The same step in four kernels of our own (`lenet.kernels.step`).

    They read and write one tensor of all weights and one of their momentum. The model's parameters and the optimizer's
    buffers become views of these. A fifth kernel augments the images.

    Args:
        model: As for `Step`.
        optimizer: As for `Step`. Its learning rate is a tensor on the model's device.
        batch_size: The most images in a batch.
        kernels: The kernels for the model's device.
        forward: As for `Step`, for evaluation alone.
    """

    def __init__(
        self,
        model: LeNet,
        optimizer: torch.optim.SGD,
        batch_size: int,
        kernels: Kernels,
        forward: Forward | None = None,
    ) -> None:
        super().__init__(model, optimizer, Ranks(), forward)
        (group,) = optimizer.param_groups
        buffers = self.state()[len(self.parameters) :]
        weights = _join(self.parameters)
        momentum = _join(buffers) if buffers else torch.zeros_like(weights)
        scratch = torch.empty(batch_size, SCRATCH, device=self.device)
        memory = Memory(weights, momentum, group["lr"], scratch, group["momentum"], group["weight_decay"])
        self.augment = kernels.augment
        self._launch = kernels.bind(memory)

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Take one step, with images and labels as for `Step`."""
        logits = torch.empty(len(labels), CLASSES, device=self.device)
        self._launch(images.contiguous(), labels, logits)
        self._seen.append((logits, labels))


def _join(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """A tensor of all elements, one tensor behind the other; these become views of it."""
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.data = part.view(tensor.shape)
    return flat


class ThreadedStep(Step):
    """The same step on several threads. Each takes its part of the batch through the whole network.

    These threads wait for each other once a step. OpenMP's threads wait in every operator, and spin. If another program
    holds a core, each such wait lasts until the system gives the core back.

    The caller prepares the next batch while the threads compute. The next step collects the result of this one.

    Args:
        model: As for `Step`, on a CPU.
        optimizer: As for `Step`.
        ranks: As for `Step`.
        parts: Number of threads.
        forward: Computes the logits of a model.
    """

    def __init__(
        self,
        model: LeNet,
        optimizer: torch.optim.SGD,
        ranks: Ranks,
        parts: int,
        forward: Callable[[LeNet, torch.Tensor], torch.Tensor],
    ) -> None:
        super().__init__(model, optimizer, ranks, partial(forward, model))
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(parts, initializer=torch.set_num_threads, initargs=(self._threads // parts,))
        self._of_model = forward
        self._twins = [_twin(model) for _ in range(parts)]
        self._queued: list[Future[torch.Tensor]] = []

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Take one step, with images and labels as for `Step`."""
        self._finish()
        parts = zip(images.chunk(len(self._twins)), labels.chunk(len(self._twins)), strict=True)
        self._labels = labels
        self._queued = [
            self._pool.submit(self._differentiate, twin, *part, len(labels))
            for twin, part in zip(self._twins, parts, strict=False)  # a short batch has fewer parts
        ]

    def _differentiate(self, twin: LeNet, images: torch.Tensor, labels: torch.Tensor, whole: int) -> torch.Tensor:
        twin.zero_grad(set_to_none=True)
        logits = self._of_model(twin, images)
        (cross_entropy(logits, labels, reduction="sum") / whole).backward()
        return logits.detach()

    def _finish(self) -> None:
        """Add up the gradients of the running step, in the order of its parts, and update the weights."""
        if not self._queued:
            return
        logits = torch.cat([part.result() for part in self._queued])
        used = self._twins[: len(self._queued)]
        self._queued = []
        for parameter, *parts in zip(self.parameters, *(twin.parameters() for twin in used), strict=True):
            first, *others = (part.grad for part in parts if part.grad is not None)
            for other in others:
                first.add_(other)  # in place, to keep the weights' memory layout: the fused SGD relies on it
            parameter.grad = first
        self.ranks.average([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        self.optimizer.step()
        self._seen.append((logits, self._labels))

    def begin_epoch(self, learning_rate: float) -> None:
        """As in `Step`. Until the epoch ends the caller's operators run on one thread, and the parts on the others."""
        super().begin_epoch(learning_rate)
        torch.set_num_threads(1)

    def end_epoch(self) -> tuple[float, int]:
        """As in `Step`."""
        self._finish()
        torch.set_num_threads(self._threads)
        return super().end_epoch()


def _twin(model: LeNet) -> LeNet:
    """A model that shares the weights' memory and has gradients of its own."""
    twin = copy.deepcopy(model)
    for own, shared in zip(twin.parameters(), model.parameters(), strict=True):
        own.data = shared.data
    return twin.train()


def step_for(model: LeNet, optimizer: torch.optim.SGD, batch_size: int, ranks: Ranks) -> Step:
    """The step for the device of a model.

    On CUDA it is four kernels of our own. Where these cannot be compiled, or other ranks share the batch, it is a graph
    with `gpu_forward`. On a CPU it uses `cpu_forward`, and up to `_MOST_PARTS` of PyTorch's threads share the batch.

    Args:
        model: The network. Its weights are changed in place.
        optimizer: The optimizer of the model's parameters.
        batch_size: Images a step over all ranks.
        ranks: The processes that share each batch.
    """
    device = next(model.parameters()).device
    if device.type == "cuda":
        forward = partial(gpu_forward.forward, model)
        kernels = None if ranks.joined else _load_kernels(device)
        if kernels:
            return FusedStep(model, optimizer, batch_size, kernels, forward)
        return GraphStep(model, optimizer, ranks, batch_size // ranks.size, forward)
    parts = min(torch.get_num_threads(), _MOST_PARTS)
    if parts == 1:
        return Step(model, optimizer, ranks, partial(cpu_forward.forward, model))
    return ThreadedStep(model, optimizer, ranks, parts, cpu_forward.forward)


def _load_kernels(device: torch.device) -> Kernels | None:
    """Our own kernels for a GPU; None where they cannot be compiled or loaded, with the reason printed."""
    try:
        return step_kernels.load(device)
    except (BackendError, OutputError) as error:
        tell(
            f"lenet: {error.summary} ({error.found}). PyTorch's operators train instead, more slowly: {error.hint}",
            err=True,
        )
        return None
