"""What a runner prepares for each buffer of images (a graph, a binding, a view), kept by the buffer's address."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

import torch

from lenet.backends.base import Runner

__all__ = ["MOST_BUFFERS", "BindingRunner", "Bound", "BufferCache", "GraphRunner"]

T = TypeVar("T")

Key: TypeAlias = tuple[int, int]
"""A buffer: its address and its batch size. The rest of its shape is the same for all."""

MOST_BUFFERS: Final = 16
"""Buffers that a cache keeps, the latest used: a benchmark uses one, and each holds its images."""


class BufferCache(Generic[T]):
    """A value for each buffer of images; the latest used are kept.

    Tensors that share memory and batch size share an entry. An entry keeps its images' memory, so that no other tensor
    is given it while something is bound to it. The cache holds no reference to its runner.

    Args:
        most: Entries that are kept.
    """

    def __init__(self, most: int = MOST_BUFFERS) -> None:
        self._most = most
        self._entries: OrderedDict[Key, tuple[T, torch.Tensor]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    @property
    def full(self) -> bool:
        """Whether the next new entry drops the oldest."""
        return len(self._entries) == self._most

    def get(self, key: Key) -> T | None:
        """The value of a buffer, which is then the latest used; None where there is none."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def add(self, key: Key, value: T, images: torch.Tensor) -> T | None:
        """Keep a value for a new buffer, and drop the oldest entry of a full cache.

        Args:
            key: The buffer's.
            value: What is bound to it.
            images: The buffer. Its memory lives as long as the entry.

        Returns:
            The value of the entry that was dropped, or None.
        """
        dropped = self._entries.popitem(last=False)[1][0] if self.full else None
        # A tensor of its own: the caller may point `images` at other memory.
        self._entries[key] = value, images.detach()
        return dropped


class Bound(NamedTuple):
    """A pass that is bound to a buffer of images.

    Neither attribute may refer to the runner: a cycle would keep its memory until Python's collector runs.

    Attributes:
        bare: The library call that queues it, as `Runner.bare` has it.
        logits: What it fills; None where the library call returns them.
    """

    bare: Callable[[], object]
    logits: torch.Tensor | None = None


class BindingRunner(Runner):
    """A runner whose passes are bound to buffers of images; it can be mixed with another runner."""

    @cached_property
    def _passes(self) -> BufferCache[Bound]:
        return BufferCache()

    @abstractmethod
    def _bind(self, images: torch.Tensor) -> Bound:
        """A pass for a buffer that is met for the first time."""

    def _run(self, bound: Bound) -> torch.Tensor:
        """Queue a bound pass, and return its logits."""
        bound.bare()
        assert bound.logits is not None
        return bound.logits

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        key = images.data_ptr(), images.shape[0]
        bound = self._passes.get(key)
        if bound is None:
            bound = self._add(key, images)
        return self._run(bound)

    def _add(self, key: Key, images: torch.Tensor) -> Bound:
        """Bind a pass to a new buffer. Where that fails, no entry is added and none is dropped."""
        bound = self._bind(images)
        if self._passes.full:
            self.synchronize()  # queued passes may still use the entry that is dropped
        dropped = self._passes.add(key, bound, images)
        if dropped is not None:
            self._release(dropped)
        return bound

    def _release(self, bound: Bound) -> None:
        """Let the library forget a pass that the cache has dropped."""

    def _is_pinned(self, images: torch.Tensor) -> bool:
        # Memory that a pass is bound to was pinned then: the driver need not be asked at each call.
        return (images.data_ptr(), images.shape[0]) in self._passes or super()._is_pinned(images)

    def _bare(self, images: torch.Tensor) -> Callable[[], object]:
        bound = self._passes.get((images.data_ptr(), images.shape[0]))
        assert bound is not None  # by the pass before
        return bound.bare


class GraphRunner(BindingRunner):
    """A runner that replays a CUDA graph for each buffer. A replay runs on the current stream."""

    def _run(self, bound: Bound) -> torch.Tensor:
        with self.on_stream():
            return super()._run(bound)
