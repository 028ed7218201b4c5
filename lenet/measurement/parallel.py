"""Batches through a CPU, with several in flight: runners side by side, each with a thread and a share of the cores.

All runners begin together, after one batch that is not timed. A window's number of batches is read off the curve of
each runner's finished batches, with straight lines between them. So a window may cut a batch. Runners go on until all
have passed the last window's end: none has more of the cores than its share before that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter
from typing import ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from lenet.backends.base import Runner
from lenet.measurement.recorder import Round
from lenet.measurement.sustained import Held

__all__ = ["ParallelRunners", "numbers_of_runners", "threads"]

T = TypeVar("T")


def numbers_of_runners(cores: int) -> list[int]:
    """The numbers of runners to try on so many cores: the powers of two, and one for each core."""
    powers = [2**power for power in range(cores.bit_length())]
    return sorted({*(number for number in powers if number <= cores), cores})


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use so many threads, and runners that are built meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class ParallelRunners:
    """A pipeline on a CPU.

    Args:
        runners: The runners, each built for ``share`` threads. They are closed with this.
        batch: (batch, 3, 32, 32) of the runners' input type. Each runner gets a copy.
        share: Threads of each runner.
    """

    chunk: ClassVar[float] = 0.5

    def __init__(self, runners: Sequence[Runner], batch: torch.Tensor, share: int) -> None:
        self._runners = runners
        self._images = [batch.clone() for _ in runners]
        self._threads = torch.get_num_threads()
        # In torch the number of threads is the calling thread's own.
        self._pool = ThreadPoolExecutor(len(runners), initializer=torch.set_num_threads, initargs=(share,))

    @property
    def depth(self) -> int:
        """The number of batches in flight: one for each runner."""
        return len(self._runners)

    @property
    def held(self) -> Sequence[Held | None]:
        """Nothing: a runner's own thread fills its images."""
        return (None,)

    def windows(self, count: int, seconds: float) -> list[Round]:
        """Run so many windows, each of at least so many seconds, and of at least one batch of each runner."""
        race, finished = self._race(count, seconds)
        edges = race.began + race.window * np.arange(count + 1)
        curves = [np.concatenate([[race.began], times]) for times in finished]
        done = np.sum([np.interp(edges, curve, np.arange(len(curve))) for curve in curves], axis=0)
        walls = race.window / np.diff(done)
        latencies: list[list[float]] = [[] for _ in range(count)]
        for curve in curves:
            for place, latency in zip(np.searchsorted(edges, curve[1:]) - 1, np.diff(curve), strict=True):
                if place < count:
                    latencies[place].append(float(latency))
        return [
            Round(None, wall, wall, launch_bound=False, latencies=own)
            for wall, own in zip(walls.tolist(), latencies, strict=True)
        ]

    def work(self, seconds: float) -> int:
        """Run for at least so many seconds, and then run empty. Returns the number of batches."""
        _, finished = self._race(1, seconds)
        return self.depth + sum(map(len, finished))  # each runner runs a batch before the race begins

    def _race(self, count: int, seconds: float) -> tuple[_Race, list[NDArray[np.float64]]]:
        """A race that is over, and when each batch of each runner was finished."""
        race = _Race(self.depth, count, seconds)
        return race, self._together(lambda place: race.run(self._runners[place], self._images[place]))

    def lap(self) -> None:
        """Run a batch on each runner."""
        self.logits(self._images)

    def logits(self, batches: Sequence[torch.Tensor], held: Held | None = None) -> list[torch.Tensor]:
        """Run other batches, each on the next runner.

        Args:
            batches: Each (batch, 3, 32, 32) on the CPU, of the runners' input type.
            held: None.

        Returns:
            The logits (batch, 10) of each.
        """
        assert held is None

        @torch.inference_mode()
        def run(place: int) -> list[torch.Tensor]:
            found = []
            for batch in batches[place :: self.depth]:
                self._images[place].copy_(batch)
                found.append(self._runners[place].forward(self._images[place]).clone())
            return found

        own = self._together(run)
        return [own[place % self.depth][place // self.depth] for place in range(len(batches))]

    def close(self) -> None:
        """End the threads, and close the runners."""
        self._pool.shutdown()
        torch.set_num_threads(self._threads)  # the number of threads that are still to come
        for runner in self._runners:
            runner.close()

    def _together(self, run: Callable[[int], T]) -> list[T]:
        """What a function gives for each runner, each in a thread. An error in one ends the others."""
        futures = [self._pool.submit(run, place) for place in range(self.depth)]
        errors = [error for future in futures if (error := future.exception()) is not None]
        for error in sorted(errors, key=lambda one: isinstance(one, threading.BrokenBarrierError)):
            raise error
        return [future.result() for future in futures]


class _Race:
    """Runners that begin together and end together.

    Args:
        runners: Their number.
        count: Windows to run.
        seconds: The shortest window.

    Attributes:
        began: When the first window began, by `time.perf_counter`.
        window: Seconds of a window.
    """

    def __init__(self, runners: int, count: int, seconds: float) -> None:
        self.began = 0.0
        self.window = seconds
        self._count = count
        self._running = runners
        self._lock = threading.Lock()
        self._line = threading.Barrier(runners, action=self._start)
        self._first: list[float] = []

    def _start(self) -> None:
        self.window = max(self.window, *self._first)
        self.began = perf_counter()

    @torch.inference_mode()
    def run(self, runner: Runner, images: torch.Tensor) -> NDArray[np.float64]:
        """When each batch of a runner was finished, by `time.perf_counter`."""
        try:
            began = perf_counter()
            runner.forward(images)
            self._first.append(perf_counter() - began)
            self._line.wait()
            end = self.began + self._count * self.window
            finished: list[float] = []
            passed = False
            while self._running > 0:
                runner.forward(images)
                finished.append(perf_counter())
                if not passed and finished[-1] >= end:
                    passed = True
                    self._leave(1)
        except BaseException:
            self._leave(self._running)
            self._line.abort()
            raise
        return np.array(finished)

    def _leave(self, runners: int) -> None:
        with self._lock:
            self._running -= runners
