"""A step of stochastic gradient descent, launched operator by operator or replayed as one CUDA graph."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final

import torch
from torch.nn.functional import cross_entropy

from lenet.architecture import INPUT_SHAPE
from lenet.models.pytorch_lenet import LeNet
from lenet.ranks import Ranks

__all__ = ["GraphStep", "Step", "exact_float32", "step_for"]

_EAGER_STEPS: Final = 3
"""Steps before a capture, in which cuDNN, cuBLAS and NCCL set themselves up (PyTorch's CUDA graph notes)."""


def exact_float32() -> AbstractContextManager[None]:
    """Keep TF32 out of cuDNN's convolutions, where PyTorch allows it by default, and take its deterministic kernels.

    PyTorch's matrix products use no TF32 unless they are told to. The choice of kernels is by cuDNN's heuristics and
    not by timing, which would choose anew in every process.
    """
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    return flags


class Step:
    """One step on this rank's part of a batch. Loss and hits are summed on the device, so that no step is waited for.

    Args:
        model: Its weights are changed in place.
        optimizer: Of the model's parameters.
        ranks: The processes whose gradients are averaged.
    """

    def __init__(self, model: LeNet, optimizer: torch.optim.SGD, ranks: Ranks) -> None:
        self.model = model
        self.optimizer = optimizer
        self.ranks = ranks
        self.parameters = list(model.parameters())
        self.device = self.parameters[0].device
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self._hits = torch.zeros((), dtype=torch.int64, device=self.device)

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Go one step.

        Args:
            images: float32 (n, 3, 32, 32), normalised, on the model's device.
            labels: int64 (n,), likewise.
        """
        self.optimizer.zero_grad(set_to_none=True)
        logits = self.model(images)
        loss = cross_entropy(logits, labels)
        loss.backward()
        self.ranks.average([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        self.optimizer.step()
        self._loss_sum.add_(loss.detach(), alpha=len(labels))
        self._hits += (logits.detach().argmax(1) == labels).sum()

    def begin_epoch(self, learning_rate: float) -> None:
        """Set the learning rate, and begin the sums anew."""
        self.model.train()
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(learning_rate)
            else:
                group["lr"] = learning_rate
        self._loss_sum.zero_()
        self._hits.zero_()

    def end_epoch(self) -> tuple[float, int]:
        """Wait for the device; the sum of the losses in nats and the number of hits, over all ranks' images."""
        sums = torch.stack([self._loss_sum, self._hits.double()])
        self.ranks.add(sums)
        self.ranks.wait(self.device)
        loss_sum, hits = sums.tolist()
        return loss_sum, int(hits)

    def state(self) -> list[torch.Tensor]:
        """Every tensor that a step changes, for a capture to put back as it was."""
        buffers = []
        for parameter in self.parameters:
            if self.optimizer.param_groups[0]["momentum"]:
                # Else the first step would make them, and would be another step than those after it. From zero, both
                # give the same.
                state = self.optimizer.state[parameter]
                buffers.append(state.setdefault("momentum_buffer", torch.zeros_like(parameter)))
        return [*self.parameters, *buffers, self._loss_sum, self._hits]


class GraphStep(Step):
    """The same step, captured once for full batches and then replayed: a launch a step in the place of about sixty.

    The graph reads its batch from a fixed place, into which each batch is copied. An epoch's last batch, where it is
    shorter, is launched operator by operator.

    Args:
        model: As for `Step`, on CUDA.
        optimizer: Likewise, with its learning rate in a tensor on the GPU, which the graph reads at each replay.
        ranks: As for `Step`.
        batch_size: This rank's part of a full batch.
    """

    def __init__(self, model: LeNet, optimizer: torch.optim.SGD, ranks: Ranks, batch_size: int) -> None:
        super().__init__(model, optimizer, ranks)
        self._images = torch.zeros((batch_size, *INPUT_SHAPE), device=self.device)
        self._labels = torch.zeros(batch_size, dtype=torch.int64, device=self.device)
        self._graph = torch.cuda.CUDAGraph()
        self._capture()

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Go one step; images and labels as for `Step`."""
        if len(labels) != len(self._labels):
            super().__call__(images, labels)
            return
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._graph.replay()

    def _capture(self) -> None:
        state = self.state()
        before = [tensor.detach().clone() for tensor in state]
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(_EAGER_STEPS):
                super().__call__(self._images, self._labels)
        # NCCL's own threads ask about events meanwhile, which only a capture of this thread alone allows.
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            super().__call__(self._images, self._labels)
        torch.cuda.current_stream(self.device).wait_stream(stream)
        with torch.no_grad():
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)


def step_for(model: LeNet, optimizer: torch.optim.SGD, batch_size: int, ranks: Ranks) -> Step:
    """The step for a model where it is: a graph on CUDA, else launched.

    Args:
        model: Its weights are changed in place.
        optimizer: Of the model's parameters.
        batch_size: Images a step over all ranks.
        ranks: The processes that share it.
    """
    if next(model.parameters()).device.type == "cuda":
        return GraphStep(model, optimizer, ranks, batch_size // ranks.size)
    return Step(model, optimizer, ranks)
