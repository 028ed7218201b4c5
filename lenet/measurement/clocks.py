"""The two clocks, and the rule that chooses one. The rule knows the mode and the device, never the backend.

===================  ===============================================  =================================================
mode                 on a GPU                                         on a CPU
===================  ===============================================  =================================================
forward              `DeviceClock`: CUDA events around a call whose   `WallClock` around the call
                     work is queued before the stream starts it.
                     They read device time, without the host's.
end to end           `WallClock` from the batch on the host until     no row: nothing is copied, so it would repeat
                     the runner's stream is synchronised              forward
===================  ===============================================  =================================================
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Final

import torch

from lenet.measurement.held_start import HeldStart, sm_clock_hz, timing_event
from lenet.measurement.recorder import Round
from lenet.measurement.statistics import median
from lenet.vocabulary import Mode

__all__ = ["BURST", "Clock", "DeviceClock", "WallClock", "choose"]

CHUNK_SECONDS: Final = 0.01
"""Rounds run for about this long before the clock returns, so that the looks in between cost little."""

BURST: Final = 10
"""Most rounds that a device clock times by the wall before it holds them back; most rounds between two pauses."""

TARE_ROUNDS: Final = 25
"""Empty calls whose median is a clock's tare. They take about 30 ms a row."""

EVENT_RESOLUTION: Final = 0.5e-6
"""Seconds between two events that CUDA tells apart (``cudaEventElapsedTime`` in the CUDA runtime's reference). No round
reads less."""


class WallClock:
    """Times a call by the host's clock, until its stream is synchronised.

    Args:
        call: What to time.
        stream: The runner's CUDA stream; None on a CPU.

    Attributes:
        by_device: Whether its rounds have a device time, which the row is then about.
        tare: What it reads for an empty call, in seconds.
    """

    by_device: Final = False
    tare: Final = 0.0

    def __init__(self, call: Callable[[], object], stream: torch.cuda.Stream | None) -> None:
        self._call = call
        self._stream = stream

    def run(self, most: int) -> list[Round]:
        """Run rounds for about `CHUNK_SECONDS`: at least one, and at most so many."""
        times = _repeated(lambda: _by_the_wall_clock(self._call, self._stream), most)
        return [Round(None, wall, launch, launch_bound=False) for wall, launch in times]


class DeviceClock:
    """Times a call by CUDA events, and by the wall clock as well.

    Each round makes the call twice. The first call starts from an idle stream, and the wall clock times it with its
    launch. The second is held back until it is queued, and events time it. The difference is what the host adds. A few
    first calls run one after the other, as end-to-end rounds do, and then the second ones: after a hold the host's
    caches are cold.

    Two events with nothing between them are about a microsecond apart. This tare is measured first, and taken off each
    device time. The times then agree with a profiler's: see ``docs/results/timer-h100.md``.

    Args:
        call: What to time. It queues its work on the stream.
        stream: The runner's CUDA stream, otherwise idle.
        cold_cache: Empty the L2 cache before each call.

    Attributes:
        by_device: Whether its rounds have a device time, which the row is then about.
        tare: What it reads for an empty call, in seconds.
    """

    by_device: Final = True

    def __init__(self, call: Callable[[], object], stream: torch.cuda.Stream, *, cold_cache: bool = False) -> None:
        self._call = call
        self._stream = stream
        self._start, self._end = timing_event(), timing_event()
        self._held_start = HeldStart(stream, cold_cache=cold_cache)
        self.tare = median([self._held(lambda: None)[0] for _ in range(TARE_ROUNDS)])

    def run(self, most: int) -> list[Round]:
        """Run rounds for about `CHUNK_SECONDS`: at least one, at most so many, and at most `BURST`."""
        times = _repeated(self._from_idle, min(most, BURST))
        self._held_start.fit(median([launch for _, launch in times]))
        rounds = []
        for wall, launch in times:
            read, launch_bound = self._held(self._call)
            rounds.append(Round(max(read - self.tare, EVENT_RESOLUTION), wall, launch, launch_bound))
        return rounds

    def _from_idle(self) -> tuple[float, float]:
        self._held_start.idle()
        return _by_the_wall_clock(self._call, self._stream)

    def _held(self, call: Callable[[], object]) -> tuple[float, bool]:
        """Seconds between the events around a call, and whether the device began before all was queued."""
        self._held_start()
        self._start.record(self._stream)
        call()
        self._end.record(self._stream)
        # If the device has passed the start already, the hold ended before all work was queued.
        launch_bound = self._start.query()
        self._end.synchronize()
        return self._start.elapsed_time(self._end) / 1e3, launch_bound


Clock = WallClock | DeviceClock


def choose(
    call: Callable[[], object], mode: Mode, stream: torch.cuda.Stream | None, *, cold_cache: bool = False
) -> Clock:
    """The clock for a call. A GPU is awake when this returns.

    Args:
        call: What to time. It queues its work on the stream.
        mode: What a round covers.
        stream: The runner's CUDA stream, otherwise idle; None on a CPU.
        cold_cache: Empty the L2 cache before each call.

    Raises:
        ValueError: A cold cache was asked for, and the rule chooses the wall clock.
    """
    if mode is Mode.FORWARD and stream is not None:
        return DeviceClock(call, stream, cold_cache=cold_cache)
    if cold_cache:
        where = "on a CPU" if stream is None else "on a GPU"
        raise ValueError(f"a cold cache can be had for forward passes on a GPU, not for {mode} {where}")
    if stream is not None:
        sm_clock_hz(stream)
    return WallClock(call, stream)


def _repeated(one: Callable[[], tuple[float, float]], most: int) -> list[tuple[float, float]]:
    deadline = perf_counter() + CHUNK_SECONDS
    times = [one()]
    while len(times) < most and perf_counter() < deadline:
        times.append(one())
    return times


def _by_the_wall_clock(call: Callable[[], object], stream: torch.cuda.Stream | None) -> tuple[float, float]:
    """Seconds of a call until its stream is synchronised, and until it has returned."""
    began = perf_counter()
    call()
    queued = perf_counter()
    if stream is not None:
        stream.synchronize()
    return perf_counter() - began, queued - began
