"""Streams and events for machines without a GPU: one kind that runs work late and in any order, one that keeps time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lenet.measurement import ring

Choose = Callable[[int], int]
"""Draws a number below another."""


class LateCuda:
    """Work is queued, and runs when the host waits. What runs next is drawn, as far as the waits of streams allow.

    A stream that is held back runs when no other can.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, choose: Choose) -> None:
        self.choose = choose
        self.streams: list[LateStream] = []
        self.current: LateStream | None = None
        self.steps = 0
        monkeypatch.setattr(torch.cuda, "Stream", lambda _: LateStream(self))
        monkeypatch.setattr(torch.cuda, "Event", lambda **_: LateEvent(self))
        monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: setattr(self, "current", stream))
        self.held: list[float] = []
        monkeypatch.setattr(ring, "hold", self._hold)

    def _hold(self, stream: LateStream, seconds: float) -> None:
        self.held.append(seconds)
        stream.put(lambda: None, lambda: not self.others(stream))

    def others(self, but: LateStream) -> list[LateStream]:
        """The other streams that can go on."""
        return [one for one in self.streams if one is not but and one.work and one.work[0][1]()]

    def until(self, done: Callable[[], bool]) -> None:
        """Run work until the host need not wait any longer."""
        while not done():
            ready = [one for one in self.streams if one.work and one.work[0][1]()]
            run, _ = ready[self.choose(len(ready))].work.popleft()
            run()
            self.steps += 1

    def runner(self, network: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        """A runner whose every pass writes to the same logits, as `fused` does."""
        stream, logits = LateStream(self), LateTensor(self)
        self.current = stream

        def forward(images: LateTensor) -> LateTensor:
            stream.put(lambda: logits.fill(network(images.value)))
            return logits

        return SimpleNamespace(stream=stream, spec=SimpleNamespace(device=None), forward=forward)


class LateStream:
    """A queue of work, each with what must be true before it runs."""

    def __init__(self, cuda: LateCuda) -> None:
        self.cuda = cuda
        self.work: deque[tuple[Callable[[], object], Callable[[], bool]]] = deque()
        cuda.streams.append(self)

    def put(self, work: Callable[[], object], ready: Callable[[], bool] = lambda: True) -> None:
        self.work.append((work, ready))

    def wait_event(self, event: LateEvent) -> None:
        wanted = event.recorded
        self.put(lambda: None, lambda: event.reached >= wanted)

    def synchronize(self) -> None:
        self.cuda.until(lambda: not self.work)


class LateEvent:
    """An event that counts how often it was recorded, and how often the device passed it."""

    def __init__(self, cuda: LateCuda) -> None:
        self.cuda = cuda
        self.recorded = self.reached = self.step = 0

    def record(self, stream: LateStream) -> None:
        self.recorded += 1
        stream.put(self._pass)

    def _pass(self) -> None:
        self.reached += 1
        self.step = self.cuda.steps

    def synchronize(self) -> None:
        self.cuda.until(lambda: self.reached == self.recorded)


class LateTensor:
    """Memory on the device, which holds zeros at first."""

    def __init__(self, cuda: LateCuda, *shape: int) -> None:
        self.cuda = cuda
        self.value = torch.zeros(shape, dtype=torch.uint8)

    def fill(self, value: torch.Tensor) -> None:
        self.value = value.clone()

    def copy_(self, source: torch.Tensor, *, non_blocking: bool) -> None:
        assert non_blocking
        self._queued(lambda: self.fill(source))

    def clone(self) -> LateTensor:
        other = LateTensor(self.cuda)
        self._queued(lambda: other.fill(self.value))
        return other

    def cpu(self) -> torch.Tensor:
        return self.value

    def _queued(self, work: Callable[[], object]) -> None:
        assert self.cuda.current is not None
        self.cuda.current.put(work)


class TimedCuda:
    """Streams that take known times, in seconds; queueing takes the host none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, copy: float, compute: float) -> None:
        self.now = 100.0
        self.current: TimedStream | None = None
        monkeypatch.setattr(torch.cuda, "Stream", lambda _: TimedStream(self))
        monkeypatch.setattr(torch.cuda, "Event", lambda **_: TimedEvent(self))
        monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: setattr(self, "current", stream))
        monkeypatch.setattr(ring, "perf_counter", lambda: self.now)
        stream = TimedStream(self)

        def forward(_images: object) -> None:
            stream.take(compute)

        def copy_(_source: object, *, non_blocking: bool) -> None:
            assert non_blocking
            assert self.current is not None
            self.current.take(copy)

        self.runner: Any = SimpleNamespace(stream=stream, spec=SimpleNamespace(device=None), forward=forward)
        self.images: Any = SimpleNamespace(copy_=copy_)


class TimedStream:
    """When a stream is done with all that was queued."""

    def __init__(self, cuda: TimedCuda) -> None:
        self.cuda = cuda
        self.idle_at = 0.0

    def take(self, seconds: float) -> None:
        self.idle_at = max(self.idle_at, self.cuda.now) + seconds

    def wait_event(self, event: TimedEvent) -> None:
        self.idle_at = max(self.idle_at, event.time)

    def synchronize(self) -> None:
        self.cuda.now = max(self.cuda.now, self.idle_at)


class TimedEvent:
    """When a stream passes it; an event that was not recorded is passed."""

    def __init__(self, cuda: TimedCuda) -> None:
        self.cuda = cuda
        self.time = 0.0

    def record(self, stream: TimedStream) -> None:
        stream.take(0)
        self.time = stream.idle_at

    def synchronize(self) -> None:
        self.cuda.now = max(self.cuda.now, self.time)

    def elapsed_time(self, end: TimedEvent) -> float:
        assert end.time <= self.cuda.now, "the end was not waited for"
        return 1e3 * (end.time - self.time)
