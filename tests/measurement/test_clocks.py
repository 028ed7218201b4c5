from __future__ import annotations

import gc
import itertools
import json
import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lenet.measurement import clocks
from lenet.measurement.clocks import (
    TARE_ROUNDS,
    Adaptive,
    Coursework,
    EventClock,
    HeldStart,
    Protocol,
    Replay,
    Samples,
    Stop,
    launch_problem,
    measure,
)
from lenet.measurement.host_state import NoHostWatch
from lenet.measurement.modes import Mode
from tests import preloaded
from tests.measurement.fakes import FakeEvent, FakeGpu, fake_h100

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

FEW = Coursework(warmups=2, rounds=4)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    fake_h100(monkeypatch)
    return FakeGpu(monkeypatch)


def forward(gpu: FakeGpu, call: Callable[[], object], *, cold_cache: bool = False) -> Samples:
    return measure(call, mode=Mode.FORWARD, stream=gpu.stream, protocol=FEW, cold_cache=cold_cache)


class TestTheRule:
    def test_forward_on_a_gpu_is_timed_by_events_on_the_runners_stream(self, gpu: FakeGpu) -> None:
        samples = forward(gpu, lambda: gpu.run(1e-3))

        assert samples.device == pytest.approx([1e-3] * 4)
        assert samples.seconds == pytest.approx(samples.device)
        assert not samples.launch_bound.any()

    def test_the_wall_time_of_a_forward_call_is_kept_beside_with_its_launch(self, gpu: FakeGpu) -> None:
        samples = forward(gpu, lambda: gpu.run(1e-6, times=40))

        assert samples.wall == pytest.approx([201e-6] * 4)
        assert samples.launch == pytest.approx([200e-6] * 4)

    def test_each_round_is_a_call_from_an_idle_stream_and_one_that_is_held_back(self, gpu: FakeGpu) -> None:
        forward(gpu, lambda: gpu.run(1e-3))

        from_idle = ["synchronize", "kernel", "synchronize"]
        held = ["synchronize", "hold", "record", "kernel", "record"]
        rounds = [line for count in (FEW.warmups, FEW.rounds) for line in from_idle * count + held * count]
        empty = ["synchronize", "hold", "record", "record"] * TARE_ROUNDS
        assert gpu.log == ["hold", "record", "hold", "record", *empty, *rounds]

    def test_what_the_events_read_for_nothing_is_taken_off(self, gpu: FakeGpu) -> None:
        gpu.recording = 1.25e-6

        samples = forward(gpu, lambda: gpu.run(30e-6))

        assert samples.tare == pytest.approx(1.25e-6)
        assert samples.device == pytest.approx([30e-6] * 4)
        assert measure(lambda: None, mode=Mode.END_TO_END, stream=gpu.stream, protocol=FEW).tare == 0

    def test_the_tare_is_the_middle_of_many_empty_calls(self, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first may be slow, and some are, above and below."""
        empty = itertools.chain([9e-6, 0.5e-6, *[8e-6] * 4, *[0.5e-6] * 4], itertools.repeat(1.25e-6))
        starts = itertools.count()
        record = FakeEvent.record

        def recorded(event: FakeEvent, stream: object) -> None:
            # The second event of each pair; the first pair finds the clock rate.
            if (number := next(starts)) >= 2 and number % 2:
                gpu.recording = next(empty)
            record(event, stream)
            gpu.recording = 0.0

        monkeypatch.setattr(FakeEvent, "record", recorded)

        samples = forward(gpu, lambda: gpu.run(30e-6))

        assert samples.tare == pytest.approx(1.25e-6)
        assert samples.device == pytest.approx([30e-6] * 4)

    def test_an_empty_call_reads_what_events_resolve_and_not_nothing(self, gpu: FakeGpu) -> None:
        gpu.recording = 1.25e-6

        assert forward(gpu, lambda: None).seconds == pytest.approx([0.5e-6] * 4)

    def test_a_look_is_taken_after_a_few_held_calls(self, gpu: FakeGpu) -> None:
        looks = []

        def look() -> tuple[str, ...]:
            looks.append(gpu.now)
            return ()

        protocol = Coursework(warmups=0, rounds=95)
        measure(lambda: gpu.run(1e-6), mode=Mode.FORWARD, stream=gpu.stream, protocol=protocol, throttling=look)

        assert len(looks) == 1 + 10
        assert max(later - earlier for earlier, later in pairwise(looks)) < 12e-3

    def test_device_time_is_free_of_launch_time(self, gpu: FakeGpu) -> None:
        samples = forward(gpu, lambda: gpu.run(1e-6, times=40))

        assert samples.device == pytest.approx([40e-6] * 4)
        assert not samples.launch_bound.any()
        assert launch_problem(samples) is None

    def test_the_hold_grows_with_what_there_is_to_launch(self, gpu: FakeGpu) -> None:
        samples = forward(gpu, lambda: gpu.run(1e-6, times=800))

        assert samples.launch == pytest.approx([4e-3] * 4)
        assert samples.device == pytest.approx([800e-6] * 4)
        assert not samples.launch_bound.any()

    @pytest.mark.parametrize(
        ("launch", "held"), [(0.0, 1e-3), (0.24e-3, 1e-3), (0.3e-3, 1.2e-3), (20e-3, 80e-3), (26e-3, 0.1), (10.0, 0.1)]
    )
    def test_a_stream_is_held_back_for_four_launches_within_bounds(
        self, gpu: FakeGpu, launch: float, held: float
    ) -> None:
        start = HeldStart(gpu.stream)
        start.fit(launch)
        start()

        assert gpu.idle_at - gpu.now == pytest.approx(held, rel=1e-6)

    def test_one_interrupted_launch_lengthens_no_hold(self, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = itertools.count()
        holds: list[float] = []
        fit = HeldStart.fit

        def fitted(start: HeldStart, launch: float) -> None:
            fit(start, launch)
            holds.append(start._hold)

        def call() -> None:
            gpu.now += 2e-3 if next(calls) == 1 else 0.5e-3
            gpu.run(30e-6)

        monkeypatch.setattr(HeldStart, "fit", fitted)
        measure(call, mode=Mode.FORWARD, stream=gpu.stream, protocol=Coursework(warmups=0, rounds=5))

        assert holds == pytest.approx([4 * 0.505e-3])

    def test_a_stream_is_held_back_for_a_millisecond_before_anything_is_known(self, gpu: FakeGpu) -> None:
        HeldStart(gpu.stream)()

        assert gpu.idle_at - gpu.now == pytest.approx(1e-3, rel=1e-6)

    def test_a_call_that_waits_for_the_device_is_said_to_be_launch_bound(self, gpu: FakeGpu) -> None:
        def call() -> None:
            gpu.run(1e-6)
            gpu.stream.synchronize()
            gpu.run(1e-6)

        began = gpu.now
        samples = forward(gpu, call)

        assert samples.launch_bound.all()
        assert samples.stopped is Stop.DISCARDED
        assert "in 8 of 8 rounds the device began before all was queued" in str(launch_problem(samples))
        # It is held back for as long as it takes by itself, not for longer and longer.
        held = TARE_ROUNDS + FEW.warmups + 8
        assert gpu.log.count("hold") == 2 + held
        assert gpu.now - began < 22e-3 + held * 1.2e-3

    def test_a_round_that_holds_the_host_s_time_is_discarded(self, gpu: FakeGpu) -> None:
        calls = iter(range(100))

        def call() -> None:
            if next(calls) == FEW.warmups * 2 + FEW.rounds:  # the first that is held back
                gpu.stream.synchronize()
                gpu.now += 1e-3
            gpu.run(30e-6)

        samples = forward(gpu, call)

        assert samples.launch_bound.sum() == 1
        assert samples.device is not None
        assert samples.device.size > samples.seconds.size >= 4
        assert samples.seconds == pytest.approx(30e-6)

    def test_end_to_end_is_wall_time_until_the_stream_is_synchronised(self, gpu: FakeGpu) -> None:
        def copy_and_run() -> None:
            gpu.run(2e-3)
            gpu.run(1e-3)

        samples = measure(copy_and_run, mode=Mode.END_TO_END, stream=gpu.stream, protocol=FEW)

        assert samples.device is None
        assert samples.seconds == pytest.approx([3.005e-3] * 4)
        assert samples.launch == pytest.approx([10e-6] * 4)

    def test_forward_on_a_cpu_is_wall_time(self, gpu: FakeGpu) -> None:
        def work() -> None:
            gpu.now += 0.25

        samples = measure(work, mode=Mode.FORWARD, stream=None, protocol=FEW)

        assert samples.device is None
        assert samples.seconds == pytest.approx([0.25] * 4)
        assert gpu.log == []

    def test_the_rule_knows_no_backend(self, gpu: FakeGpu) -> None:
        one_kernel = forward(gpu, lambda: gpu.run(90e-6))
        three_kernels = forward(gpu, lambda: gpu.run(30e-6, times=3))

        assert one_kernel.seconds == pytest.approx(three_kernels.seconds)


class TestAColdCache:
    def test_each_call_begins_with_an_emptied_cache(self, gpu: FakeGpu) -> None:
        forward(gpu, lambda: gpu.run(1e-3), cold_cache=True)

        cleared = ["zero 52428800 bytes", "synchronize"]
        from_idle = [*cleared, "kernel", "synchronize"]
        held = [*cleared, "hold", "record", "kernel", "record"]
        rounds = [line for count in (FEW.warmups, FEW.rounds) for line in from_idle * count + held * count]
        empty = [*cleared, "hold", "record", "record"] * TARE_ROUNDS
        assert gpu.log == ["hold", "record", "hold", "record", *empty, *rounds]

    def test_neither_clock_holds_the_emptying(self, gpu: FakeGpu) -> None:
        samples = forward(gpu, lambda: gpu.run(1e-3), cold_cache=True)

        assert samples.device == pytest.approx([1e-3] * 4)
        assert samples.wall == pytest.approx([1.005e-3] * 4)

    @pytest.mark.parametrize(("mode", "on_gpu"), [(Mode.END_TO_END, True), (Mode.FORWARD, False)])
    def test_there_is_none_without_events(self, gpu: FakeGpu, mode: Mode, *, on_gpu: bool) -> None:
        stream = gpu.stream if on_gpu else None

        with pytest.raises(ValueError, match=f"not for {mode} on a {'GPU' if on_gpu else 'CPU'}"):
            measure(lambda: None, mode=mode, stream=stream, protocol=FEW, cold_cache=True)


def timed(gpu: FakeGpu, seconds: Iterator[float]) -> Callable[[], None]:
    """A call on a CPU that takes the next of these times."""

    def call() -> None:
        gpu.now += next(seconds)

    return call


def endless(*seconds: float) -> Iterator[float]:
    while True:
        yield from seconds


class TestProtocols:
    def test_the_coursework_runs_5_warmups_and_100_rounds(self, gpu: FakeGpu) -> None:
        seconds = [*[9.0] * 5, *np.linspace(0.001, 0.002, 100)]

        samples = measure(timed(gpu, iter(seconds)), mode=Mode.FORWARD, stream=None, protocol=Coursework())

        assert samples.seconds == pytest.approx(seconds[5:])
        assert samples.stopped is Stop.ROUNDS

    def test_no_rounds_at_all_are_empty_arrays_of_the_same_types(self) -> None:
        protocol = Coursework(rounds=0)
        samples = measure(lambda: None, mode=Mode.FORWARD, stream=None, protocol=protocol)

        for times in (samples.wall, samples.launch):
            assert (times.dtype.name, times.shape) == ("float64", (0,))
        for marks in (samples.launch_bound, samples.throttled, samples.slowed):
            assert (marks.dtype.name, marks.shape) == ("bool", (0,))
        assert samples.seconds.size == 0

    def test_adaptive_stops_when_the_median_is_known(self, gpu: FakeGpu) -> None:
        call = timed(gpu, endless(0.100, 0.101))

        samples = measure(call, mode=Mode.FORWARD, stream=None, protocol=Adaptive(minimum_rounds=20))

        assert samples.seconds.size == 20
        assert samples.stopped is Stop.PRECISE

    def test_adaptive_stops_when_the_time_is_up(self, gpu: FakeGpu) -> None:
        call = timed(gpu, endless(0.125, 0.25))

        samples = measure(call, mode=Mode.FORWARD, stream=None, protocol=Adaptive(minimum_rounds=20, time_limit=9.0))

        assert samples.seconds.size == 48
        assert samples.stopped is Stop.TIME

    def test_adaptive_stops_at_its_most_rounds(self, gpu: FakeGpu) -> None:
        call = timed(gpu, (0.001 + 0.001 * (0.618 * number % 1) for number in itertools.count()))
        protocol = Adaptive(minimum_rounds=20, rounds=333)

        samples = measure(call, mode=Mode.FORWARD, stream=None, protocol=protocol)

        assert samples.seconds.size == 333
        assert samples.stopped is Stop.ROUNDS

    def test_adaptive_spreads_short_rounds_over_time_where_the_wall_clock_counts(self, gpu: FakeGpu) -> None:
        class Host(NoHostWatch):
            def pass_time(self, seconds: float) -> None:
                gpu.now += seconds

        def seconds_of(mode: Mode, protocol: Protocol) -> tuple[Samples, float]:
            began = gpu.now
            samples = measure(lambda: gpu.run(20e-6), mode=mode, stream=gpu.stream, protocol=protocol, host=Host())
            return samples, gpu.now - began

        spread, seconds = seconds_of(Mode.END_TO_END, Adaptive(span=0.3))

        assert 0.3 < seconds < 0.35
        assert 250 < spread.wall.size < 350
        assert spread.stopped is Stop.PRECISE
        assert seconds_of(Mode.END_TO_END, Adaptive(span=0.3, time_limit=0.1))[1] < 0.15
        assert seconds_of(Mode.END_TO_END, Coursework())[1] < 0.03
        assert seconds_of(Mode.FORWARD, Adaptive(span=0.3))[0].wall.size == Adaptive().minimum_rounds

    def test_adaptive_spreads_rounds_for_as_long_as_it_takes(self, gpu: FakeGpu) -> None:
        """A row that stays noisy would otherwise keep tens of thousands of rounds, each like the one before."""

        class Host(NoHostWatch):
            def pass_time(self, seconds: float) -> None:
                gpu.now += seconds

        call = timed(gpu, endless(20e-6, 40e-6))
        protocol = Adaptive(time_limit=2.0)
        samples = measure(call, mode=Mode.END_TO_END, stream=None, protocol=protocol, host=Host())

        assert samples.stopped is Stop.TIME
        assert 1_500 < samples.wall.size <= 2_000

    @pytest.mark.parametrize(("seconds", "kept"), [(20e-6, 20e-6), (0.02, 0.06)])
    def test_the_short_round_after_a_pause_which_is_a_cold_one_is_not_kept(
        self, gpu: FakeGpu, seconds: float, kept: float
    ) -> None:
        cold = False

        class Host(NoHostWatch):
            def pass_time(self, seconds: float) -> None:
                nonlocal cold
                gpu.now += seconds
                cold = True

        def call() -> None:
            nonlocal cold
            gpu.now += 3 * seconds if cold else seconds
            cold = False

        protocol = Adaptive(time_limit=1.0)
        samples = measure(call, mode=Mode.FORWARD, stream=None, protocol=protocol, host=Host())

        assert samples.wall[1:] == pytest.approx([kept] * (len(samples.wall) - 1))

    def test_of_the_rounds_after_a_pause_one_is_not_kept(self, gpu: FakeGpu) -> None:
        calls, pauses = itertools.count(), itertools.count()

        class Host(NoHostWatch):
            def pass_time(self, seconds: float) -> None:
                gpu.now += seconds
                next(pauses)

        def call() -> None:
            gpu.now += 20e-6
            next(calls)

        protocol = Adaptive(warmups=0)
        samples = measure(call, mode=Mode.FORWARD, stream=None, protocol=protocol, host=Host())

        # Nothing was paused for before the first burst, and nothing is run after the last pause.
        assert next(calls) == samples.wall.size + next(pauses) - 1
        assert samples.stopped is Stop.PRECISE

    def test_adaptive_gives_up_where_most_rounds_are_discarded(self, gpu: FakeGpu) -> None:
        def measured(looks: list[bool]) -> Samples:
            call = timed(gpu, endless(0.005))
            protocol = Adaptive(warmups=0, span=0.3)
            return measure(call, mode=Mode.END_TO_END, stream=None, protocol=protocol, host=FakeHost(looks))

        busy = measured([True] * 1000)
        assert busy.stopped is Stop.DISCARDED
        assert 4 * Adaptive().minimum_rounds <= busy.wall.size < 4 * Adaptive().minimum_rounds + 3
        assert measured([True] * 20 + [False] * 1000).stopped is Stop.PRECISE

    def test_waiting_for_a_quiet_cpu_is_not_the_row_s_time(self, gpu: FakeGpu) -> None:
        class Host(FakeHost):
            def move(self) -> bool:
                gpu.now += 3.0
                return super().move()

        protocol = Adaptive(minimum_rounds=20, time_limit=9.0)
        host = Host([False, True, False, True])
        samples = measure(
            timed(gpu, endless(0.125, 0.25)), mode=Mode.FORWARD, stream=None, protocol=protocol, host=host
        )

        assert (host.moves, samples.wall.size) == (2, 48)

    def test_a_slow_call_is_looked_at_after_every_round(self, gpu: FakeGpu) -> None:
        call = timed(gpu, endless(3.0))

        samples = measure(call, mode=Mode.FORWARD, stream=None, protocol=Adaptive(time_limit=4.0))

        assert samples.seconds.size == 2


STEADY, NOISY = [1.0] * 50, [1.0, 2.0] * 25


class TestStopping:
    """At each bound, and just before it."""

    @pytest.mark.parametrize(
        ("valid", "attempts", "stop"),
        [
            (99, 99, None),
            (100, 100, Stop.ROUNDS),
            (0, 199, None),
            (0, 200, Stop.DISCARDED),
            (99, 200, Stop.DISCARDED),
            (100, 200, Stop.ROUNDS),
        ],
    )
    def test_the_coursework(self, valid: int, attempts: int, stop: Stop | None) -> None:
        assert Coursework().stop([1.0] * valid, attempts, 1e9) is stop

    @pytest.mark.parametrize(
        ("valid", "attempts", "elapsed", "stop"),
        [
            (STEADY[1:], 49, 0.0, None),
            (STEADY, 50, 0.0, Stop.PRECISE),
            (STEADY, 1000, 20.0, Stop.PRECISE),
            (NOISY, 50, 9.9, None),
            (NOISY, 50, 10.0, Stop.TIME),
            ([], 199, 0.3, None),
            ([], 200, 0.29, None),
            ([], 200, 0.3, Stop.DISCARDED),
            (NOISY * 2, 200, 0.3, None),
            (NOISY * 2, 201, 0.3, Stop.DISCARDED),
            (NOISY * 2, 201, 10.0, Stop.DISCARDED),
            (NOISY * 199, 9_950, 0.0, None),
            (NOISY * 200, 10_000, 0.0, Stop.ROUNDS),
        ],
    )
    def test_adaptive(self, valid: list[float], attempts: int, elapsed: float, stop: Stop | None) -> None:
        assert Adaptive().stop(valid, attempts, elapsed) is stop

    @pytest.mark.parametrize(("confidence", "stop"), [(0.95, Stop.PRECISE), (0.99, None)])
    def test_adaptive_is_as_confident_as_it_is_told(self, confidence: float, stop: Stop | None) -> None:
        """Of 50 rounds the interval ends at the 18th and the 33rd at 95 %, at the 16th and the 35th at 99 %."""
        ordered = [1.0] * 17 + [1.02] * 16 + [1.1] * 17
        valid = [value for pair in zip(ordered[25:], ordered[:25], strict=True) for value in pair]

        assert Adaptive(precision=0.0, confidence=confidence).stop(valid, 50, 0.0) is stop

    @pytest.mark.parametrize(("half", "stop"), [(0.0099, Stop.PRECISE), (0.0101, None)])
    def test_adaptive_wants_the_median_to_a_percent(self, half: float, stop: Stop | None) -> None:
        assert Adaptive().stop([1 - half, 1 + half] * 25, 50, 0.0) is stop

    def test_no_rounds_are_never_precise(self) -> None:
        assert Adaptive(minimum_rounds=0).stop([], 0, 0.0) is None


class TestThrottling:
    def measured(self, gpu: FakeGpu, looks: list[tuple[str, ...]], protocol: Coursework) -> Samples:
        readings = iter(looks)
        # A round longer than a chunk, so that there is a look after each.
        call = timed(gpu, iter([0.1 * index for index in range(1, 1000)]))
        return measure(
            call,
            mode=Mode.FORWARD,
            stream=None,
            protocol=protocol,
            throttling=lambda: next(readings, looks[-1]),
        )

    def test_throttled_rounds_are_left_out_counted_and_run_again(self, gpu: FakeGpu) -> None:
        looks = [(), (), ("sw_power_cap",), (), ()]

        samples = self.measured(gpu, looks, Coursework(warmups=0, rounds=3))

        # The rounds on both sides of the look that saw it.
        assert samples.throttled.tolist() == [False, True, True, False, False]
        assert samples.seconds == pytest.approx([0.1, 0.4, 0.5])
        assert samples.throttling == ("sw_power_cap",)
        assert samples.stopped is Stop.ROUNDS

    def test_throttling_before_the_first_round_counts(self, gpu: FakeGpu) -> None:
        samples = self.measured(gpu, [("hw_slowdown",), ()], Coursework(warmups=0, rounds=2))

        assert samples.throttled.tolist() == [True, False, False]

    def test_rounds_that_are_always_throttled_come_to_an_end_and_show_something(self, gpu: FakeGpu) -> None:
        samples = self.measured(gpu, [("sw_power_cap",)], Coursework(warmups=0, rounds=5))

        assert samples.throttled.tolist() == [True] * 10
        assert samples.seconds.size == 10
        assert samples.stopped is Stop.DISCARDED

    def test_short_rounds_share_a_look(self, gpu: FakeGpu) -> None:
        looks = []

        def look() -> tuple[str, ...]:
            looks.append(gpu.now)
            return ()

        call = timed(gpu, endless(0.001))
        measure(call, mode=Mode.FORWARD, stream=None, protocol=Coursework(rounds=100), throttling=look)

        # One before and about one each 10 ms of the 100 ms.
        assert 10 <= len(looks) <= 12


class FakeHost(NoHostWatch):
    """A host whose state is told look by look; it cannot move."""

    def __init__(self, looks: list[bool]) -> None:
        self.looks = iter(looks)
        self.moves = 0

    def is_slowed(self) -> bool:
        return next(self.looks, False)

    def move(self) -> bool:
        self.moves += 1
        return True


class TestASlowedHost:
    def test_slowed_rounds_are_left_out_of_wall_times_and_run_again_elsewhere(self, gpu: FakeGpu) -> None:
        host = FakeHost([False, True, False, False])
        call = timed(gpu, iter([0.5, 0.2, 0.3, 0.4]))
        protocol = Coursework(warmups=0, rounds=2)

        samples = measure(call, mode=Mode.FORWARD, stream=None, protocol=protocol, host=host)

        assert samples.slowed.tolist() == [True, False, False]
        assert samples.seconds == pytest.approx([0.2, 0.3])
        assert host.moves == 1

    def test_device_times_are_kept_for_the_host_has_no_part_in_them(self, gpu: FakeGpu) -> None:
        seconds = endless(0.1, 0.2)  # the wall clock's call, the held one
        protocol = Coursework(warmups=0, rounds=3)
        host = FakeHost([False, True, False, True])

        samples = measure(
            lambda: gpu.run(next(seconds)), mode=Mode.FORWARD, stream=gpu.stream, protocol=protocol, host=host
        )

        assert samples.slowed.tolist() == [True, False, True]
        assert samples.seconds == pytest.approx([0.2] * 3)
        # The GPU is woken before the first round; a held call holds it as well.
        assert gpu.log.count("hold") == 2 + TARE_ROUNDS + 3
        assert samples.wall_seconds == pytest.approx([0.1], abs=1e-4)

    @pytest.mark.parametrize(("seconds", "woken"), [(0.01, 0), (0.1, 2)])
    def test_a_gpu_that_had_nothing_to_do_while_the_host_waited_is_woken(
        self, gpu: FakeGpu, seconds: float, woken: int
    ) -> None:
        class Host(FakeHost):
            def move(self) -> bool:
                gpu.now += seconds
                return super().move()

        protocol = Coursework(warmups=0, rounds=3)
        host = Host([False, True, False, True])
        measure(lambda: gpu.run(0.1), mode=Mode.END_TO_END, stream=gpu.stream, protocol=protocol, host=host)

        assert host.moves == 2
        assert gpu.log.count("hold") == 2 * (1 + woken)

    @pytest.mark.parametrize(("moving", "woken"), [(0.005, 0), (0.015, 1)])
    def test_a_pause_beside_a_move_leaves_the_gpu_idle_as_well(self, gpu: FakeGpu, moving: float, woken: int) -> None:
        class Host(FakeHost):
            def move(self) -> bool:
                gpu.now += moving
                return super().move()

            def pass_time(self, seconds: float) -> None:
                gpu.now += seconds

        protocol = Adaptive(warmups=0)
        host = Host([False, True])
        measure(lambda: gpu.run(1e-3), mode=Mode.END_TO_END, stream=gpu.stream, protocol=protocol, host=host)

        assert host.moves == 1
        assert gpu.log.count("hold") == 2 * (1 + woken)

    @pytest.mark.parametrize(
        ("looks", "slowed"),
        [
            ([False, True, False, False, False], [True, False, False]),
            ([False, True, True, False, False, False], [True, True, False, False]),
            ([True, False, False, False], [True, False, False]),
        ],
        ids=["quiet again", "still slowed", "before the first round"],
    )
    def test_where_no_other_cpu_is_quiet_the_next_rounds_are_judged_by_a_new_look(
        self, gpu: FakeGpu, looks: list[bool], slowed: list[bool]
    ) -> None:
        class Host(FakeHost):
            def move(self) -> bool:
                return False

        protocol = Coursework(warmups=0, rounds=2)
        passing = Host(looks)
        samples = measure(timed(gpu, endless(0.1)), mode=Mode.FORWARD, stream=None, protocol=protocol, host=passing)

        assert samples.slowed.tolist() == slowed

    def test_a_host_that_is_always_slowed_comes_to_an_end_and_shows_something(self, gpu: FakeGpu) -> None:
        samples = measure(
            timed(gpu, endless(0.1)),
            mode=Mode.FORWARD,
            stream=None,
            protocol=Coursework(warmups=0, rounds=5),
            host=FakeHost([True] * 100),
        )

        assert samples.slowed.tolist() == [True] * 10
        assert samples.seconds.size == 10
        assert samples.stopped is Stop.DISCARDED


class TestGarbageCollection:
    def test_it_is_off_while_rounds_run(self) -> None:
        seen = []
        measure(lambda: seen.append(gc.isenabled()), mode=Mode.FORWARD, stream=None, protocol=FEW)

        assert not any(seen)
        assert gc.isenabled()

    def test_it_is_on_again_after_a_failure(self) -> None:
        def fail() -> None:
            raise RuntimeError("out of memory")

        with pytest.raises(RuntimeError, match="out of memory"):
            measure(fail, mode=Mode.FORWARD, stream=None, protocol=FEW)
        assert gc.isenabled()


class TestEventClock:
    def test_readings_subtract_to_seconds_of_device_time(self, gpu: FakeGpu) -> None:
        clock = EventClock(gpu.stream)

        start = clock()
        gpu.run(0.002)
        end = clock()

        assert end - start == pytest.approx(0.002005)

    @given(durations=st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=10))
    def test_adjacent_times_add_up(self, durations: list[float]) -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            gpu = FakeGpu(monkeypatch)
            clock = EventClock(gpu.stream)
            moments = [clock()]
            for seconds in durations:
                gpu.run(seconds)
                moments.append(clock())

            parts = [later - earlier for earlier, later in pairwise(moments)]
            assert sum(parts) == pytest.approx(moments[-1] - moments[0])
            assert moments[0] - moments[0] == 0

    def test_a_clock_that_is_read_forever_makes_no_more_events(self, gpu: FakeGpu) -> None:
        clock = EventClock(gpu.stream)

        for _ in range(10 * EventClock.EVENTS):
            start = clock()
            gpu.run(0.001)
            assert clock() - start == pytest.approx(0.001005)

    def test_a_moment_whose_event_was_used_again_is_refused(self, gpu: FakeGpu) -> None:
        clock = EventClock(gpu.stream)
        first = clock()
        last = [clock() for _ in range(EventClock.EVENTS - 1)][-1]
        assert last - first == 0

        clock()
        with pytest.raises(ValueError, match="the moment is gone"):
            _ = last - first


class TestReplay:
    @given(st.lists(st.floats(1e-9, 1e3), max_size=50))
    def test_each_round_takes_just_what_was_measured(self, seconds: list[float]) -> None:
        timer = Replay(seconds)

        assert [-timer() + timer() for _ in seconds] == seconds

    def test_more_rounds_than_samples_are_refused(self) -> None:
        timer = Replay([0.5])
        timer.load([0.25])
        assert [timer(), timer()] == [0.0, 0.25]

        with pytest.raises(ValueError, match="no more samples"):
            timer()


SUITE = """
import pytest
from lenet.measurement.clocks import EventClock, Replay
from tests import preloaded
from tests.measurement.fakes import FakeGpu

SECONDS = [0.0013, 0.0011, 0.0017]
GPU = FakeGpu(pytest.MonkeyPatch())

@pytest.mark.benchmark(timer=Replay(SECONDS))
def test_replayed(benchmark):
    benchmark.pedantic(lambda: None, rounds=len(SECONDS))

@pytest.mark.benchmark(timer=EventClock(GPU.stream))
def test_events(benchmark):
    benchmark.pedantic(GPU.run, args=(0.004,), rounds=2, warmup_rounds=1)
"""


def test_pytest_benchmark_saves_what_the_timers_tell(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    options = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "--rootdir", str(tmp_path))
    saving = ("--benchmark-json", str(tmp_path / "saved.json"), str(tmp_path))
    outcome = preloaded.run("-m", "pytest", *options, *saving, cwd=Path(__file__).parents[2], env=os.environ)
    assert outcome.returncode == 0, outcome.stdout

    rows = json.loads((tmp_path / "saved.json").read_text())["benchmarks"]
    replayed, events = (row["stats"]["data"] for row in rows)
    assert replayed == [0.0013, 0.0011, 0.0017]
    assert events == pytest.approx([0.004005, 0.004005])
    assert [row["options"]["timer"] for row in rows] == ["Replay", "EventClock"]


@needs_gpu
class TestARealGpu:
    """What the fakes stand for."""

    @pytest.fixture
    def stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream()

    def spin(self, stream: torch.cuda.Stream, seconds: float) -> Callable[[], None]:
        cycles = int(seconds * clocks.sm_clock_hz(stream))

        def call() -> None:
            with torch.cuda.stream(stream):
                torch.cuda._sleep(cycles)

        return call

    def test_a_kernel_of_known_length_is_timed_right(self, stream: torch.cuda.Stream) -> None:
        call = self.spin(stream, 2e-3)
        samples = measure(call, mode=Mode.FORWARD, stream=stream, protocol=Coursework())

        assert np.median(samples.seconds) == pytest.approx(2e-3, rel=0.01)
        assert np.median(samples.wall) > np.median(samples.seconds)
        assert not samples.launch_bound.any()

    def test_many_short_launches_are_timed_without_the_host(self, stream: torch.cuda.Stream) -> None:
        value = torch.zeros(1, device="cuda")

        def call() -> None:
            with torch.cuda.stream(stream):
                for _ in range(100):
                    value.add_(1)

        samples = measure(call, mode=Mode.FORWARD, stream=stream, protocol=Coursework())

        assert samples.launch_bound.mean() < 0.05
        assert np.median(samples.seconds) < np.median(samples.launch)

    def test_a_cold_cache_makes_reads_slower(self, stream: torch.cuda.Stream) -> None:
        values = torch.zeros(1 << 22, device="cuda")

        def call() -> None:
            with torch.cuda.stream(stream):
                values.sum()

        warm, cold = (
            measure(call, mode=Mode.FORWARD, stream=stream, protocol=Coursework(), cold_cache=cold_cache)
            for cold_cache in (False, True)
        )

        assert np.median(cold.seconds) > np.median(warm.seconds)

    def test_an_empty_round_costs_a_few_microseconds(self, stream: torch.cuda.Stream) -> None:
        samples = measure(lambda: None, mode=Mode.FORWARD, stream=stream, protocol=Coursework(rounds=1000))

        assert 0 < samples.tare < 5e-6
        assert np.median(samples.seconds) < 1e-6

    def test_the_sm_clock_is_plausible(self, stream: torch.cuda.Stream) -> None:
        assert 3e8 < clocks.sm_clock_hz(stream) < 4e9
