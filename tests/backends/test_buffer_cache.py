from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lenet.architecture import INPUT_SHAPE
from lenet.backends.base import BatchRange, BuildSpec
from lenet.backends.buffer_cache import MOST_BUFFERS, BindingRunner, Bound, BufferCache, GraphRunner
from lenet.errors import BackendError
from lenet.vocabulary import Precision

MOST = 3


Key = tuple[int, int]


def key_of(images: torch.Tensor) -> Key:
    return images.data_ptr(), len(images)


@given(st.lists(st.integers(0, 6)))
def test_the_latest_used_are_kept(uses: list[int]) -> None:
    """Against a list that has the latest at its end."""
    buffers = [torch.full((2,), number) for number in range(7)]
    cache: BufferCache[int] = BufferCache(MOST)
    kept: list[int] = []
    for number in uses:
        key = key_of(buffers[number])
        assert cache.get(key) == (number if number in kept else None)
        assert cache.full == (len(kept) == MOST)
        if number not in kept:
            cache.add(key, number, buffers[number])
        kept = [*(other for other in kept if other != number), number][-MOST:]
        assert len(cache) == len(kept)
        assert [key_of(buffer) in cache for buffer in buffers] == [number in kept for number in range(7)]


def test_tensors_of_one_memory_share_an_entry_unless_the_batch_differs() -> None:
    cache: BufferCache[str] = BufferCache(MOST)
    buffer = torch.zeros(4)
    cache.add(key_of(buffer), "four", buffer)
    assert cache.get(key_of(buffer.view(4))) == "four"
    assert cache.get(key_of(buffer[:2])) is None


@pytest.mark.parametrize("moved", [False, True])
def test_memory_lives_as_long_as_its_entry(moved: bool) -> None:
    """Else another tensor could be given the memory that a graph reads; also where the caller's tensor moves away."""
    cache: BufferCache[int] = BufferCache(MOST)
    alive, tensors = [], []
    for number in range(MOST + 1):
        memory = np.full(2, number, np.float32)
        alive.append(weakref.ref(memory))
        images = torch.from_numpy(memory)
        cache.add(key_of(images), number, images)
        if moved:
            tensors.append(images.set_(torch.zeros(2)))  # type: ignore[call-overload]
        del images, memory
    assert [reference() is not None for reference in alive] == [False, True, True, True]


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
        logits = torch.empty(())
        return Bound(partial(torch.sum, memory, dim=(0, 1, 2, 3), out=logits), logits)

    def _run(self, bound: Bound) -> torch.Tensor:
        self.passes += 1
        if self.passes_fail:
            raise BackendError("no", found="it", wanted="yes", hint="none")
        return super()._run(bound)


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
    for _ in range(3):  # bound, then found bound
        sums.forward(images)
    sums.forward(images.view(2, *INPUT_SHAPE))
    assert sums.passes == 4


def test_a_runner_keeps_what_it_bound_to_its_last_buffers(sums: Sums) -> None:
    buffers = [torch.ones(1, *INPUT_SHAPE) for _ in range(MOST_BUFFERS)]
    for _ in range(2):
        for buffer in buffers:
            sums.forward(buffer)
    assert MOST_BUFFERS >= 2
    assert sums.bound == [1] * MOST_BUFFERS


def test_the_stream_is_waited_for_while_what_is_dropped_still_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queued pass may read it until then."""
    sums = Sums()
    memory = np.ones((1, *INPUT_SHAPE), np.float32)
    oldest = weakref.ref(memory)
    sums.forward(torch.from_numpy(memory))
    del memory
    alive: list[bool] = []
    monkeypatch.setattr(sums, "synchronize", lambda: alive.append(oldest() is not None))
    buffers = [torch.ones(1, *INPUT_SHAPE) for _ in range(MOST_BUFFERS)]
    for buffer in buffers[:-1]:
        sums.forward(buffer)
    assert alive == []
    sums.forward(buffers[-1])
    assert alive == [True]
    assert oldest() is None


def test_what_cannot_be_bound_leaves_no_entry_and_drops_none(sums: Sums) -> None:
    buffers = [torch.ones(1, *INPUT_SHAPE) for _ in range(MOST_BUFFERS)]
    for buffer in buffers:
        sums.forward(buffer)
    sums.binding_fails = True
    for _ in range(2):
        with pytest.raises(BackendError, match="no"):
            sums.forward(torch.ones(1, *INPUT_SHAPE))
    for buffer in buffers:
        sums.forward(buffer)


class Graphs(GraphRunner):
    """Its graph is given."""

    def __init__(self, bound: Bound) -> None:
        super().__init__(BuildSpec(torch.device("cpu"), Precision.FP32, BatchRange(1, 2, 4)), None)
        self._bound = bound

    def _bind(self, images: torch.Tensor) -> Bound:
        del images
        return self._bound


def test_a_graph_is_replayed_on_the_runner_s_stream(images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    @contextmanager
    def on_stream() -> Iterator[None]:
        log.append("entered")
        yield
        log.append("left")

    logits = torch.zeros(2, 10)
    graphs = Graphs(Bound(lambda: log.append("replayed"), logits))
    monkeypatch.setattr(graphs, "on_stream", on_stream)
    assert graphs.forward(images) is logits
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


@pytest.mark.parametrize("what", ["binding_fails", "passes_fail"])
def test_a_call_that_failed_leaves_nothing_behind(sums: Sums, images: torch.Tensor, what: str) -> None:
    """A library that was told half of another buffer must be told this one again."""
    sums.forward(images)
    setattr(sums, what, True)
    with pytest.raises(BackendError, match="no"):
        sums.forward(torch.ones(3, *INPUT_SHAPE))
    setattr(sums, what, False)
    assert sums.forward(images) == 2 * IMAGE
