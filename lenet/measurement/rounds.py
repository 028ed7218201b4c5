"""Runs a call again and again, and keeps the time of each round.

`measure`, and `measure_sustained` for many batches in flight, join the parts: `clocks` or `sustained` times the rounds,
`protocol` says how many there are, `recorder` keeps them, and the host policy here decides what happens between two
chunks of rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Final, NamedTuple

import torch

from lenet.devices import no_garbage_collection
from lenet.measurement import clocks
from lenet.measurement.clocks import BURST, Clock
from lenet.measurement.held_start import sm_clock_hz
from lenet.measurement.host_state import HostWatch, IdleHostWatch
from lenet.measurement.protocol import Adaptive, Protocol, Stop
from lenet.measurement.recorder import Recorder, Round, Samples
from lenet.measurement.sustained import Pipeline, SustainedClock
from lenet.vocabulary import Mode

__all__ = ["measure", "measure_sustained"]

PAUSE: Final = 0.01
"""Seconds between bursts of rounds that are spread over time."""

LONGEST_IDLE: Final = 0.02
"""Seconds without work after which a GPU is woken."""

_UNWATCHED: Final = IdleHostWatch()


def measure(
    call: Callable[[], object],
    *,
    mode: Mode,
    stream: torch.cuda.Stream | None,
    protocol: Protocol,
    cold_cache: bool = False,
    throttling: Callable[[], tuple[str, ...]] | None = None,
    host: HostWatch = _UNWATCHED,
) -> Samples:
    """Run a call again and again, and time each round by the clock that `lenet.measurement.clocks` chooses.

    Garbage collection is off while rounds run. What throttles the GPU and what slows the host is looked at before the
    first round and after each chunk of about 10 ms. If a look finds the GPU throttled, the chunks on both sides of it
    are discarded. If it finds the host slowed, so are their wall times.

    Args:
        call: What to time. It queues its work on the stream; for `Mode.END_TO_END` it begins by copying the batch.
        mode: What a round covers, which decides the clock.
        stream: The runner's CUDA stream, otherwise idle; None on a CPU.
        protocol: How many rounds to run.
        cold_cache: Empty the L2 cache before each call. Only for `Mode.FORWARD` on a GPU.
        throttling: Returns what throttles the GPU now, as `lenet.measurement.gpu_state.GpuSampler.throttling` does.
        host: Watches the CPU that makes the calls, and moves to another one when it is slowed.

    Raises:
        ValueError: A cold cache was asked for, and this row cannot have one.
    """
    with no_garbage_collection(), host.on_a_quiet_cpu():
        clock = clocks.choose(call, mode, stream, cold_cache=cold_cache)
        _warm_up(clock, protocol.warmups)
        span = _span(protocol, clock)
        between = _BetweenChunks(host, stream, throttling or tuple, spread=span > 0)
        return _run(clock, protocol, between, span)


def measure_sustained(
    pipeline: Pipeline,
    *,
    stream: torch.cuda.Stream | None,
    protocol: Protocol,
    throttling: Callable[[], tuple[str, ...]] | None = None,
    host: HostWatch = _UNWATCHED,
) -> Samples:
    """Keep a pipeline busy for at least a second. A round is a window, and its time the mean of the window's batches.

    Rounds are discarded as by `measure`. The pipeline runs empty at each look, and is full again before the next
    window.

    Args:
        pipeline: What to keep busy.
        stream: The runner's CUDA stream; None on a CPU.
        protocol: How many windows to run.
        throttling: As for `measure`.
        host: As for `measure`.
    """
    with no_garbage_collection(), host.on_a_quiet_cpu():
        if stream is not None:
            sm_clock_hz(stream)  # wakes the GPU
        clock = SustainedClock(pipeline, protocol)
        clock.warm_up()
        return _run(clock, protocol, _BetweenChunks(host, stream, throttling or tuple, spread=False), 0.0)


def _run(clock: Clock | SustainedClock, protocol: Protocol, between: _BetweenChunks, span: float) -> Samples:
    """Run rounds until the protocol says to stop.

    Args:
        clock: Times the rounds.
        protocol: Says when to stop.
        between: What happens between two chunks.
        span: Seconds over which to spread rounds; 0 runs them one after the other.
    """
    recorder = Recorder(by_device=clock.by_device)
    began = perf_counter()
    before = between.look()
    chunk: list[Round] = []
    while True:
        elapsed = perf_counter() - began - between.waited
        stopped = protocol.stop(recorder.valid, len(recorder.rounds), elapsed)
        if stopped and not (stopped is Stop.PRECISE and elapsed < span):
            return recorder.samples(stopped, clock.tare)
        most = protocol.rounds - len(recorder.valid)
        if span and len(chunk) > 1:
            clock.run(1)  # not kept: the pause left caches cold, and a short round takes up to three times as long
        chunk = clock.run(min(most, BURST) if span else most)
        after = between.look()
        # What either look saw may have begun or ended anywhere in between.
        harm = {*before.throttling, *after.throttling}
        recorder.keep(chunk, throttling=harm, slowed=before.slowed or after.slowed)
        before = between.settle(after)


def _warm_up(clock: Clock, rounds: int) -> None:
    while rounds > 0:
        rounds -= len(clock.run(rounds))


def _span(protocol: Protocol, clock: Clock) -> float:
    """The seconds over which to spread rounds; 0 runs them one after the other."""
    if clock.by_device or not isinstance(protocol, Adaptive):
        return 0.0
    return min(protocol.span, protocol.time_limit)


class _Look(NamedTuple):
    throttling: tuple[str, ...]
    slowed: bool


class _BetweenChunks:
    """What happens between two chunks of rounds: a look, a pause, a move to another CPU.

    Args:
        host: Watches the CPU that makes the calls.
        stream: The runner's CUDA stream; None on a CPU.
        throttling: Returns what throttles the GPU now.
        spread: Whether to pause, so that rounds are spread over time.

    Attributes:
        waited: Seconds spent on looks at the host and on moves, which do not count as the row's time.
    """

    def __init__(
        self,
        host: HostWatch,
        stream: torch.cuda.Stream | None,
        throttling: Callable[[], tuple[str, ...]],
        *,
        spread: bool,
    ) -> None:
        self._host = host
        self._stream = stream
        self._throttling = throttling
        self._spread = spread
        self.waited = 0.0

    def look(self) -> _Look:
        """What disturbs rounds now. The host may make it wait, as the gate's does for the other side."""
        throttling, began = self._throttling(), perf_counter()
        slowed = self._host.is_slowed()
        self.waited += perf_counter() - began
        return _Look(throttling, slowed)

    def settle(self, seen: _Look) -> _Look:
        """Pause, and leave a CPU that is slowed; wake a GPU that this left idle for long.

        Args:
            seen: By the look after the last chunk.

        Returns:
            What counts as seen before the next chunk.
        """
        idle_since = perf_counter()
        if self._spread:
            self._host.pass_time(PAUSE)
        if not seen.slowed:
            return seen
        leaving = perf_counter()
        slowed = not self._host.move() and self._host.is_slowed()
        if self._stream is not None and perf_counter() - idle_since > LONGEST_IDLE:
            sm_clock_hz(self._stream)  # wakes the GPU
        self.waited += perf_counter() - leaving
        return seen._replace(slowed=slowed)
