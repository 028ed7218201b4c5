from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from lenet.measurement.clocks import TARE_ROUNDS
from lenet.measurement.host_state import IdleHostWatch
from lenet.measurement.protocol import Adaptive, Coursework, Protocol, Stop
from lenet.measurement.recorder import Samples
from lenet.measurement.rounds import measure
from lenet.vocabulary import Mode
from tests.measurement.fakes import FakeGpu

FEW = Coursework(warmups=2, rounds=4)


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
        class Host(IdleHostWatch):
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

        class Host(IdleHostWatch):
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

        class Host(IdleHostWatch):
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

        class Host(IdleHostWatch):
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

    def test_a_look_that_waits_is_not_the_row_s_time(self, gpu: FakeGpu) -> None:
        """As in the gate, where the other side runs its rounds meanwhile."""

        class Host(FakeHost):
            def is_slowed(self) -> bool:
                gpu.now += 3.0
                return False

        protocol = Adaptive(minimum_rounds=20, time_limit=9.0)
        samples = measure(
            timed(gpu, endless(0.125, 0.25)), mode=Mode.FORWARD, stream=None, protocol=protocol, host=Host([])
        )

        assert samples.wall.size == 48

    def test_a_slow_call_is_looked_at_after_every_round(self, gpu: FakeGpu) -> None:
        call = timed(gpu, endless(3.0))

        samples = measure(call, mode=Mode.FORWARD, stream=None, protocol=Adaptive(time_limit=4.0))

        assert samples.seconds.size == 2


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


class FakeHost(IdleHostWatch):
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
