"""What a runner keeps for the buffers of images that it has met: graphs, bindings, views, each bound to an address."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import torch

__all__ = ["MOST_BUFFERS", "BufferCache"]

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
