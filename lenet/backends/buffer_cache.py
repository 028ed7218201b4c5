"""What a runner keeps for the buffers of images that it has met: graphs, bindings, views, each bound to an address."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from typing import Final, Generic, NamedTuple, TypeVar

import torch

from lenet.backends.base import Runner

__all__ = ["MOST_BUFFERS", "BindingRunner", "Bound", "BufferCache"]

T = TypeVar("T")

MOST_BUFFERS: Final = 16
"""Buffers that a cache keeps, the latest used: a benchmark uses one, and each holds its images."""


class BufferCache(Generic[T]):
    """Something for each buffer of images, made when the buffer is first met; the latest used are kept.

    A buffer is an address and a batch size, so tensors that share memory share an entry. An entry holds its images, so
    that their memory is not given to another tensor while something is bound to it.

    Args:
        make: Makes an entry's value of its images.
        synchronize: Waits until the runner's stream is done: called before an entry is dropped, for passes that use it
            may be queued still.
        most: Entries that are kept.
    """

    def __init__(
        self, make: Callable[[torch.Tensor], T], synchronize: Callable[[], None], most: int = MOST_BUFFERS
    ) -> None:
        self._make = make
        self._synchronize = synchronize
        self._most = most
        self._entries: OrderedDict[tuple[int, int], tuple[T, torch.Tensor]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __call__(self, images: torch.Tensor) -> T:
        """The value of the images' buffer; whatever making it raises leaves no entry."""
        key = (images.data_ptr(), images.shape[0])
        entry = self._entries.get(key)
        if entry is None:
            entry = self._make(images), images
            if len(self._entries) == self._most:
                self._synchronize()
                self._entries.popitem(last=False)
            self._entries[key] = entry
        else:
            self._entries.move_to_end(key)
        return entry[0]


class Bound(NamedTuple):
    """A pass that is bound to a buffer of images.

    Attributes:
        run: Queues it, and returns its logits.
        bare: The library call that it comes down to, as `Runner.bare` has it.
    """

    run: Callable[[], torch.Tensor]
    bare: Callable[[], object]


class BindingRunner(Runner):
    """A runner whose passes are bound to buffers of images; it can be mixed with another runner."""

    @cached_property
    def _passes(self) -> BufferCache[Bound]:
        return BufferCache(self._bind, self.synchronize)

    @abstractmethod
    def _bind(self, images: torch.Tensor) -> Bound:
        """A pass for a buffer that is met for the first time."""

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        run = self._passes(images).run
        logits = run()
        self._remember(images, run)
        return logits

    def _bare(self, images: torch.Tensor) -> Callable[[], object]:
        return self._passes(images).bare

    def _replaying(self, graph: torch.cuda.CUDAGraph, logits: torch.Tensor) -> Bound:
        """The pass that a graph was captured of, and that leaves its logits there."""
        replay = graph.replay

        def run() -> torch.Tensor:
            with self.on_stream():
                replay()
            return logits

        return Bound(run, replay)
