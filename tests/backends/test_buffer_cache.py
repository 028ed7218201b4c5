from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lenet.architecture import INPUT_SHAPE
from lenet.backends.base import BatchRange, BuildSpec
from lenet.backends.buffer_cache import MOST_BUFFERS, BindingRunner, Bound, BufferCache
from lenet.errors import BackendError
from lenet.vocabulary import Precision

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


def test_the_stream_is_waited_for_while_what_is_dropped_still_lives() -> None:
    """A queued pass may read it until then."""
    images = torch.zeros(2)
    oldest = weakref.ref(images)
    alive: list[bool] = []
    cache = BufferCache(Log().make, lambda: alive.append(oldest() is not None), 1)
    cache(images)
    del images
    cache(torch.ones(2))
    assert alive == [True]
    assert oldest() is None


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


class Sums(BindingRunner):
    """Its "logits" are the sum of what lies at the address that a pass was bound to."""

    def __init__(self) -> None:
        super().__init__(BuildSpec(torch.device("cpu"), Precision.FP32, BatchRange(1, 2, 4)), None)
        self.bound: list[int] = []
        self.passes = 0
        self.binding_fails = self.passes_fail = False

    def _bind(self, images: torch.Tensor) -> Bound:
        if self.binding_fails:
            raise BackendError("no", found="it", wanted="yes", hint="none")
        self.bound.append(len(images))
        memory = torch.from_numpy(images.numpy())  # keeps its shape, whatever becomes of the tensor
        return Bound(lambda: self._sum(memory), memory.sum)

    def _sum(self, memory: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        if self.passes_fail:
            raise BackendError("no", found="it", wanted="yes", hint="none")
        return memory.sum()


@pytest.fixture
def sums() -> Sums:
    return Sums()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.ones(2, *INPUT_SHAPE)


IMAGE = 3 * 32 * 32


def test_a_tensor_is_bound_once_and_read_at_each_pass(sums: Sums, images: torch.Tensor) -> None:
    assert [sums.forward(images.add_(1)).item() for _ in range(3)] == [2 * IMAGE * value for value in (2, 3, 4)]
    assert sums.bound == [2]
    bare = sums.bare(images)
    assert bare is not None
    assert bare() == sums.forward(images)


def test_a_call_is_one_pass(sums: Sums, images: torch.Tensor) -> None:
    """Two would give the same logits and twice the time."""
    for _ in range(3):  # bound anew, remembered, remembered
        sums.forward(images)
    sums.forward(images.view(2, *INPUT_SHAPE))  # bound, but not remembered
    assert sums.passes == 4


def test_a_runner_keeps_what_it_bound_to_its_last_buffers(sums: Sums) -> None:
    buffers = [torch.ones(1, *INPUT_SHAPE) for _ in range(MOST_BUFFERS)]
    for _ in range(2):
        for buffer in buffers:
            sums.forward(buffer)
    assert MOST_BUFFERS >= 2
    assert sums.bound == [1] * MOST_BUFFERS


def test_a_captured_pass_is_replayed_on_the_runner_s_stream(sums: Sums, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    @contextmanager
    def on_stream() -> Iterator[None]:
        log.append("entered")
        yield
        log.append("left")

    monkeypatch.setattr(sums, "on_stream", on_stream)
    graph: Any = SimpleNamespace(replay=lambda: log.append("replayed"))
    sums._replaying(graph, torch.zeros(2, 10)).run()
    assert log == ["entered", "replayed", "left"]


def test_a_tensor_with_another_memory_or_batch_is_bound_anew(sums: Sums, images: torch.Tensor) -> None:
    sums.forward(images)
    images.set_(torch.full((2, *INPUT_SHAPE), 3.0))  # type: ignore[call-overload]
    assert sums.forward(images) == 6 * IMAGE
    images.resize_(1, *INPUT_SHAPE)
    assert sums.forward(images) == 3 * IMAGE
    assert sums.bound == [2, 2, 1]


@pytest.mark.parametrize("change", [lambda x: x.transpose_(2, 3), lambda x: x.unsqueeze_(0), lambda x: x.resize_(0, 3)])
def test_a_tensor_that_fitted_once_is_judged_again_where_it_has_changed(
    sums: Sums, images: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    sums.forward(images)
    change(images)
    with pytest.raises(BackendError, match="do not fit this runner"):
        sums.forward(images)


def test_a_captured_pass_is_its_replay_and_leaves_its_logits(sums: Sums) -> None:
    replays: list[int] = []
    graph: Any = SimpleNamespace(replay=lambda: replays.append(1))
    logits = torch.zeros(2, 10)
    bound = sums._replaying(graph, logits)
    assert bound.run() is logits
    assert replays == [1]
    assert bound.bare is graph.replay


@pytest.mark.parametrize("what", ["binding_fails", "passes_fail"])
def test_a_call_that_failed_leaves_nothing_behind(sums: Sums, images: torch.Tensor, what: str) -> None:
    """A library that was told half of another buffer must be told this one again."""
    sums.forward(images)
    setattr(sums, what, True)
    with pytest.raises(BackendError, match="no"):
        sums.forward(torch.ones(3, *INPUT_SHAPE))
    assert sums._images is None
    setattr(sums, what, False)
    assert sums.forward(images) == 2 * IMAGE


def test_images_are_kept_no_longer_than_until_a_call_with_others(sums: Sums) -> None:
    images = torch.ones(2, *INPUT_SHAPE)
    view = images.view(2, *INPUT_SHAPE)  # of the entry's memory, but no entry's
    sums.forward(images)
    sums.forward(view)
    there = weakref.ref(view)
    del view
    assert there() is not None
    sums.forward(images)
    assert there() is None
