"""The clock: one rule for all backends.

===================  ===============================================  =================================================
mode                 on a GPU                                         on a CPU
===================  ===============================================  =================================================
forward              CUDA events on the runner's stream, around a     ``perf_counter`` around the call
                     call that is queued before the stream may
                     begin it: device time, free of the host's
end to end           ``perf_counter`` from the host's batch until     the same as forward, for nothing is copied: not
                     the runner's stream is synchronised              worth a row
===================  ===============================================  =================================================

Each round of forward on a GPU makes the call twice: from an idle stream by the wall clock, launch included, and held
back, between events. What the host adds is the difference. A few rounds make the first call one after the other, as
end-to-end rounds do, and then the second: behind a hold the host's caches are cold.

Two events with nothing between them are a microsecond apart. What they read for an empty call, the clock's tare, is
found before a row and taken off its device times, which then agree with a profiler's: docs/results/timer-h100.md.

`measure` runs the rounds and keeps every sample. pytest-benchmark can show and save them through a `Replay` as its
timer; or it can run the rounds itself, with an `EventClock` or ``perf_counter`` as its timer and `HeldStart` as its
setup.

"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from time import perf_counter
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from lenet.devices import no_garbage_collection
from lenet.measurement.host_state import HostWatch, IdleHostWatch
from lenet.measurement.statistics import median, relative_half_width, too_many
from lenet.vocabulary import Mode

__all__ = [
    "Adaptive",
    "Coursework",
    "EventClock",
    "HeldStart",
    "Instant",
    "Protocol",
    "Replay",
    "Samples",
    "Stop",
    "launch_problem",
    "measure",
    "sm_clock_hz",
]

CHUNK_SECONDS: Final = 0.01
"""Rounds run for this long between two looks at the protocol and at throttling, so that looking costs them little."""

_UNWATCHED: Final = IdleHostWatch()

BURST: Final = 10
"""Rounds of forward on a GPU that are timed by the wall clock before they are held back; and rounds between two pauses
where rounds are spread over time."""

PAUSE: Final = 0.01
"""Seconds between bursts of rounds that are spread over time."""

HOLD_MARGIN: Final = 4.0
"""A stream is held back for this many times as long as the call took to queue just before."""

SHORTEST_HOLD: Final = 1e-3
"""Seconds; it costs little, and covers the noise of a short launch."""

LONGEST_HOLD: Final = 0.1
"""Seconds; a call that takes longer to queue, or waits for the device itself, is said to be launch-bound."""

CALIBRATION_CYCLES: Final = 2_000_000
"""About a millisecond: long enough that the ends of the interval do not matter."""

WAKING_CYCLES: Final = 40_000_000
"""About 20 ms: an idle GPU has slowed its clocks, and takes milliseconds to raise them again."""

LONGEST_IDLE: Final = 0.02
"""Seconds without work after which a GPU is woken."""


TARE_ROUNDS: Final = 25
"""Empty calls whose median is a clock's tare: some 30 ms a row."""

EVENT_RESOLUTION: Final = 0.5e-6
"""Seconds between two events that CUDA tells apart (``cudaEventElapsedTime`` in the CUDA runtime's reference): no round
reads less."""


class Stop(StrEnum):
    """Why no more rounds were run."""

    ROUNDS = "all rounds were run"
    PRECISE = "the median is known well enough"
    TIME = "the time was up"
    DISCARDED = "too many rounds were discarded"


@dataclass(frozen=True, slots=True)
class Coursework:
    """The protocol of the coursework: a fixed number of rounds.

    Attributes:
        warmups: Rounds that are run first and not kept.
        rounds: Rounds that are kept. Discarded ones are run again, until twice as many or more were run in all.
    """

    warmups: int = 5
    rounds: int = 100

    def stop(self, valid: Sequence[float], attempts: int, elapsed: float) -> Stop | None:
        """Why to stop now, if at all.

        Args:
            valid: Seconds of each round that was not discarded.
            attempts: The number of all rounds.
            elapsed: Seconds since the first.
        """
        del elapsed  # however long it takes
        if len(valid) >= self.rounds:
            return Stop.ROUNDS
        return Stop.DISCARDED if attempts >= 2 * self.rounds else None


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Rounds until the median is known well enough, or the time is up.

    The interval is looked at again and again, so it holds the median somewhat less often than its confidence says; it
    rules how long to measure, and is no evidence of a difference.

    Attributes:
        warmups: Rounds that are run first and not kept.
        precision: Half of the median's interval, as a share of the median, at which to stop.
        confidence: Of that interval.
        minimum_rounds: Valid rounds before the first look.
        rounds: Valid rounds at most.
        time_limit: Seconds at most, without warm-ups and waiting for a quiet CPU; a round that has begun is finished.
        span: Seconds at least of rounds that the wall clock times, which pauses spread: a shared host's speed changes
            from one tenth of a second to the next, and a hundred short rounds in a row see a few thousandths. The round
            after a pause is not kept where rounds are short. After as long, a row of which most rounds are discarded is
            given up.
    """

    warmups: int = 5
    precision: float = 0.01
    confidence: float = 0.95
    minimum_rounds: int = 50
    rounds: int = 10_000
    time_limit: float = 10.0
    span: float = 0.3

    def stop(self, valid: Sequence[float], attempts: int, elapsed: float) -> Stop | None:
        """Why to stop now, if at all.

        Args:
            valid: Seconds of each round that was not discarded.
            attempts: The number of all rounds.
            elapsed: Seconds since the first.
        """
        enough = len(valid) >= max(self.minimum_rounds, 1)
        if enough and relative_half_width(valid, self.confidence) <= self.precision:
            return Stop.PRECISE
        if attempts >= 4 * self.minimum_rounds and attempts > 2 * len(valid) and elapsed >= self.span:
            return Stop.DISCARDED
        if elapsed >= self.time_limit:
            return Stop.TIME
        return Stop.ROUNDS if len(valid) >= self.rounds else None


Protocol = Coursework | Adaptive


@dataclass(frozen=True, slots=True)
class Samples:
    """All rounds of a row, in the order in which they ran. Times are in seconds.

    Attributes:
        device: Between the CUDA events, less the tare, float64 (rounds,); None where the rule asks for no events.
        wall: From before the call until its result was synchronised, launch included, float64 (rounds,).
        launch: Until that call had returned and the device's work was queued, float64 (rounds,).
        launch_bound: Where the device began before all was queued, so that device time holds the host's, bool
            (rounds,): the call waits for the device itself, or the host was interrupted. Their device times are
            discarded. All False without events.
        throttled: Where the GPU was throttled, bool (rounds,).
        throttling: What throttled it.
        slowed: Where the host's CPU was slowed down by others, bool (rounds,): see `lenet.measurement.host_state`.
        stopped: Why no more rounds were run.
        tare: What the events read for an empty call, seconds; 0 without events.
    """

    device: NDArray[np.float64] | None
    wall: NDArray[np.float64]
    launch: NDArray[np.float64]
    launch_bound: NDArray[np.bool_]
    throttled: NDArray[np.bool_]
    throttling: tuple[str, ...]
    slowed: NDArray[np.bool_]
    stopped: Stop
    tare: float = 0.0

    @property
    def seconds(self) -> NDArray[np.float64]:
        """What the row is about: by the clock that the rule names, without discarded rounds.

        Where every round was discarded, all are given: the row is unstable, but it shows something.
        """
        return self.wall_seconds if self.device is None else _kept(self.device, self.throttled | self.launch_bound)

    @property
    def wall_seconds(self) -> NDArray[np.float64]:
        """Wall times without discarded rounds; all where every round was."""
        return _kept(self.wall, self.throttled | self.slowed)


def launch_problem(samples: Samples) -> str | None:
    """Why a forward row is unstable because of its launches, and what to do; None where it is not."""
    bound, rounds = int(samples.launch_bound.sum()), len(samples.launch_bound)
    if not too_many(bound, rounds):
        return None
    return (
        f"in {bound} of {rounds} rounds the device began before all was queued, so its time holds "
        "the host's: the call waits for the device by itself (look at the wall time), or the host is interrupted"
    )


def _kept(times: NDArray[np.float64], discarded: NDArray[np.bool_]) -> NDArray[np.float64]:
    return times if discarded.all() else times[~discarded]


class _Round(NamedTuple):
    device: float | None
    wall: float
    launch: float
    launch_bound: bool


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
    """Run a call again and again, and time each round by the rule of this module.

    Garbage collection is off while rounds run. What throttles the GPU and what slows the host are looked at before the
    first round and after every hundredth of a second of rounds. Rounds beside a look that found the GPU throttled are
    discarded; rounds beside one that found the host slowed are too where the wall clock counts.

    Args:
        call: What to time. It queues its work on the stream; for `Mode.END_TO_END` it begins by copying the batch.
        mode: What a round covers, and thereby which clock it is timed by.
        stream: The runner's CUDA stream, otherwise idle; None on a CPU.
        protocol: How many rounds.
        cold_cache: Empty the L2 cache before each call. `Mode.FORWARD` on a GPU alone.
        throttling: What throttles the GPU now, such as `lenet.measurement.gpu_state.GpuSampler.throttling`.
        host: Watches the CPU that the calls are made on, and moves to another where it is slowed.

    Raises:
        ValueError: A cold cache was asked for where it cannot be had.
    """
    _refuse_a_cold_cache(mode, stream, asked=cold_cache)
    by_device = mode is Mode.FORWARD and stream is not None
    look = throttling or tuple
    span = min(protocol.span, protocol.time_limit) if isinstance(protocol, Adaptive) and not by_device else 0.0
    chunk: list[_Round] = []
    rounds: list[_Round] = []
    valid: list[float] = []
    throttled: list[bool] = []
    slowed: list[bool] = []
    causes: set[str] = set()
    with no_garbage_collection(), host.on_a_quiet_cpu():
        run, tare = _rounds_of(call, mode, stream, cold_cache=cold_cache)
        warm = 0
        while warm < protocol.warmups:
            warm += len(run(protocol.warmups - warm))
        before, slow_before = look(), host.is_slowed()
        began, waited = perf_counter(), 0.0
        while True:
            elapsed = perf_counter() - began - waited
            stopped = protocol.stop(valid, len(rounds), elapsed)
            if stopped and not (stopped is Stop.PRECISE and elapsed < span):
                break
            most = protocol.rounds - len(valid)
            if span and len(chunk) > 1:
                run(1)  # not kept: the pause left caches cold, and a short round takes up to three times as long
            chunk = run(min(most, BURST) if span else most)
            # What is seen at either end may have begun or ended anywhere in between.
            after, slow_after = look(), host.is_slowed()
            harm, slow = {*before, *after}, slow_before or slow_after
            before, slow_before = after, slow_after
            idle_since = perf_counter()
            if span:
                host.pass_time(PAUSE)
            if slow_after:
                leaving = perf_counter()
                slow_before = not host.move() and host.is_slowed()
                if stream is not None and perf_counter() - idle_since > LONGEST_IDLE:
                    sm_clock_hz(stream)  # wakes the GPU
                waited += perf_counter() - leaving
            rounds += chunk
            throttled += [bool(harm)] * len(chunk)
            slowed += [slow] * len(chunk)
            causes |= harm
            if not harm and (by_device or not slow):
                valid += [one.wall if one.device is None else one.device for one in chunk if not one.launch_bound]
    return _samples(rounds, throttled, tuple(sorted(causes)), slowed, stopped, tare)


def _samples(
    rounds: list[_Round],
    throttled: list[bool],
    causes: tuple[str, ...],
    slowed: list[bool],
    stopped: Stop,
    tare: float,
) -> Samples:
    device, wall, launch, launch_bound = zip(*rounds, strict=True) if rounds else ((), (), (), ())
    return Samples(
        device=None if None in device else np.array(device, dtype=np.float64),
        wall=np.array(wall, dtype=np.float64),
        launch=np.array(launch, dtype=np.float64),
        launch_bound=np.array(launch_bound, dtype=np.bool_),
        throttled=np.array(throttled, dtype=np.bool_),
        throttling=causes,
        slowed=np.array(slowed, dtype=np.bool_),
        stopped=stopped,
        tare=tare,
    )


def _refuse_a_cold_cache(mode: Mode, stream: torch.cuda.Stream | None, *, asked: bool) -> None:
    if asked and (mode is not Mode.FORWARD or stream is None):
        where = "on a CPU" if stream is None else "on a GPU"
        raise ValueError(f"a cold cache can be had for forward passes on a GPU, not for {mode} {where}")


_Chunk: TypeAlias = Callable[[int], list[_Round]]
"""Runs rounds for about `CHUNK_SECONDS`: at least one, and at most so many."""


def _rounds_of(
    call: Callable[[], object], mode: Mode, stream: torch.cuda.Stream | None, *, cold_cache: bool
) -> tuple[_Chunk, float]:
    """What runs rounds, and its clock's tare; the GPU is awake when this returns."""
    if mode is Mode.FORWARD and stream is not None:
        return _held_rounds(call, stream, cold_cache=cold_cache)
    if stream is not None:
        sm_clock_hz(stream)

    def chunk(most: int) -> list[_Round]:
        times = _repeated(lambda: _by_the_wall_clock(call, stream), most)
        return [_Round(None, wall, launch, launch_bound=False) for wall, launch in times]

    return chunk, 0.0


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


def _held_rounds(call: Callable[[], object], stream: torch.cuda.Stream, *, cold_cache: bool) -> tuple[_Chunk, float]:
    start, end = _timing_event(), _timing_event()
    held_start = HeldStart(stream, cold_cache=cold_cache)

    def from_idle() -> tuple[float, float]:
        held_start.idle()
        return _by_the_wall_clock(call, stream)

    def held(call: Callable[[], object]) -> tuple[float, bool]:
        held_start()
        start.record(stream)
        call()
        end.record(stream)
        # If the device has passed the start already, the hold was over before everything was queued.
        launch_bound = start.query()
        end.synchronize()
        return start.elapsed_time(end) / 1e3, launch_bound

    tare = median([held(lambda: None)[0] for _ in range(TARE_ROUNDS)])

    def chunk(most: int) -> list[_Round]:
        times = _repeated(from_idle, min(most, BURST))
        held_start.fit(median([launch for _, launch in times]))
        rounds = []
        for wall, launch in times:
            read, launch_bound = held(call)
            rounds.append(_Round(max(read - tare, EVENT_RESOLUTION), wall, launch, launch_bound))
        return rounds

    return chunk, tare


class HeldStart:
    """Holds a GPU's stream back, so that what is launched next is queued, not started; and can empty its L2 cache.

    It is what nvbench does before a sample (NVIDIA/nvbench, ``nvbench/detail/measure_cold.cuh``): zero a buffer of the
    cache's size, synchronise, then block the stream; here by a kernel that spins for a while. Call it right before each
    round: it is fit to be pytest-benchmark's ``setup``.

    Args:
        stream: The stream to hold back.
        cold_cache: Whether to empty the cache.
    """

    def __init__(self, stream: torch.cuda.Stream, *, cold_cache: bool = False) -> None:
        self._stream = stream
        self._clock = sm_clock_hz(stream)
        self._hold = SHORTEST_HOLD
        self._buffer: torch.Tensor | None = None
        if cold_cache:
            size = torch.cuda.get_device_properties(stream.device).L2_cache_size
            with torch.cuda.stream(stream):
                self._buffer = torch.empty(size, dtype=torch.uint8, device=stream.device)

    def __call__(self) -> None:
        """Make the stream idle, and hold it back."""
        self.idle()
        with torch.cuda.stream(self._stream):
            _spin(int(self._hold * self._clock))

    def idle(self) -> None:
        """Empty the cache if that was asked for, and wait until the stream has nothing to do."""
        if self._buffer is not None:
            with torch.cuda.stream(self._stream):
                self._buffer.zero_()
        self._stream.synchronize()

    def fit(self, launch: float) -> None:
        """Hold for longer or shorter from now on, for calls that take so many seconds to queue."""
        self._hold = min(max(HOLD_MARGIN * launch, SHORTEST_HOLD), LONGEST_HOLD)


def sm_clock_hz(stream: torch.cuda.Stream) -> float:
    """The clock of the GPU's multiprocessors under load, in Hz: cycles of a spinning kernel over its time.

    It needs no NVML. It takes some 20 ms, and leaves the GPU awake.
    """
    start, end = _timing_event(), _timing_event()
    with torch.cuda.stream(stream):
        _spin(WAKING_CYCLES)
        start.record(stream)
        _spin(CALIBRATION_CYCLES)
        end.record(stream)
    end.synchronize()
    seconds: float = start.elapsed_time(end) / 1e3
    return CALIBRATION_CYCLES / seconds


def _spin(cycles: int) -> None:
    """Queue a kernel on the current stream that does nothing for so many cycles of the SM clock."""
    torch.cuda._sleep(cycles)  # noqa: SLF001 - PyTorch times its own streams with it


def _timing_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)


class Instant:
    """A moment on a stream. The difference of two is the device's time between them, in seconds."""

    __slots__ = ("_clock", "_event", "_ordinal")

    def __init__(self, clock: EventClock, event: torch.cuda.Event, ordinal: int) -> None:
        self._clock = clock
        self._event = event
        self._ordinal = ordinal

    def __sub__(self, earlier: Instant) -> float:
        """Seconds since an earlier moment; waits until the device has passed this one.

        Raises:
            ValueError: The clock has since been read so often that an event of the two stands for another moment.
        """
        self._event_now().synchronize()
        seconds: float = earlier._event_now().elapsed_time(self._event) / 1e3
        return seconds

    def _event_now(self) -> torch.cuda.Event:
        if self._clock.readings - self._ordinal >= EventClock.EVENTS:
            raise ValueError(f"the moment is gone: its clock was read {EventClock.EVENTS} times since")
        return self._event


class EventClock:
    """A timer for pytest-benchmark that tells the device's time: ``timer=EventClock(runner.stream)``.

    pytest-benchmark reads its timer before and after a call and subtracts the readings; these subtract to seconds, the
    clock's tare among them. The events are few and used in turn, since creating one costs more than recording one. (Its
    timer for `Mode.END_TO_END` is ``perf_counter``, around a call that ends by synchronising the runner.)

    Args:
        stream: The runner's stream.

    Attributes:
        readings: How often it was read.
    """

    EVENTS: Final = 32

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.readings = 0
        self._stream = stream
        self._events = [_timing_event() for _ in range(self.EVENTS)]

    def __repr__(self) -> str:
        return "EventClock"

    def __call__(self) -> Instant:
        """Record an event now, after all that is queued on the stream."""
        event = self._events[self.readings % self.EVENTS]
        self.readings += 1
        event.record(self._stream)
        return Instant(self, event, self.readings)


class Replay:
    """A timer for pytest-benchmark under which its rounds take what was measured before.

    It hands pytest-benchmark samples that it could not have taken, such as those of `measure` without the throttled
    rounds: ``benchmark.pedantic(lambda: None, rounds=len(seconds))``, with this as the timer, saves just these seconds.

    Args:
        seconds: The samples, in order; more may be loaded later.
    """

    def __init__(self, seconds: Sequence[float] | NDArray[np.float64] = ()) -> None:
        self._readings: Iterator[float] = iter(())
        self.load(seconds)

    def load(self, seconds: Sequence[float] | NDArray[np.float64]) -> None:
        """Replay these samples from now on."""
        # Each round is read as (0, s), so that the difference is s to the last bit.
        self._readings = iter([reading for one in seconds for reading in (0.0, float(one))])

    def __repr__(self) -> str:
        return "Replay"

    def __call__(self) -> float:
        """The next reading.

        Raises:
            ValueError: All samples were replayed.
        """
        reading = next(self._readings, None)
        if reading is None:
            raise ValueError(
                "there are no more samples to replay: ask pytest-benchmark for as many rounds as there are"
            )
        return reading
