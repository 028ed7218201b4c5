from __future__ import annotations

import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lenet.backends.buffer_cache import BufferCache

MOST = 3


class Log:
    """What a cache did, in order: ``made`` of the first element of the images, or ``waited``."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def make(self, images: torch.Tensor) -> tuple[int, int]:
        self.calls.append(int(images[0]))
        return int(images[0]), len(images)

    def wait(self) -> None:
        self.calls.append("waited")


@given(st.lists(st.integers(0, 6)))
def test_the_latest_used_are_kept_and_nothing_is_made_twice_meanwhile(uses: list[int]) -> None:
    """Against a list that has the latest at its end."""
    buffers = [torch.full((2,), number) for number in range(7)]
    log, kept = Log(), list[int]()
    cache = BufferCache(log.make, log.wait, MOST)
    for number in uses:
        expected: list[object] = []
        if number not in kept:
            expected = [number, *(["waited"] if len(kept) == MOST else [])]
        kept = [*(other for other in kept if other != number), number][-MOST:]
        assert cache(buffers[number]) == (number, 2)
        assert log.calls == expected
        log.calls.clear()
        assert len(cache) == len(kept)


def test_tensors_of_one_memory_share_an_entry_unless_the_batch_differs() -> None:
    log, buffer = Log(), torch.zeros(4)
    cache = BufferCache(log.make, log.wait, MOST)
    assert cache(buffer) is cache(buffer.view(4)) is cache(buffer)
    assert cache(buffer[:2]) == (0, 2)
    assert log.calls == [0, 0]


def test_images_live_as_long_as_their_entry() -> None:
    """Else another tensor could be given the memory that a graph reads."""
    log = Log()
    cache = BufferCache(log.make, log.wait, MOST)
    alive = []
    for number in range(MOST + 1):
        images = torch.full((2,), number)
        alive.append(weakref.ref(images))
        cache(images)
        del images
    assert [reference() is not None for reference in alive] == [False, True, True, True]


def test_what_cannot_be_made_leaves_no_entry_and_drops_none() -> None:
    log = Log()
    cache = BufferCache(log.make, log.wait, 1)
    kept = torch.zeros(2)
    cache(kept)
    log.calls.clear()
    for _ in range(2):
        with pytest.raises(IndexError):
            cache(torch.zeros(0))
    cache(kept)
    assert log.calls == []
