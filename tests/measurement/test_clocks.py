from __future__ import annotations

import itertools
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch

from lenet.measurement.clocks import TARE_ROUNDS
from lenet.measurement.held_start import HeldStart, sm_clock_hz
from lenet.measurement.protocol import Coursework, Stop
from lenet.measurement.recorder import Samples, launch_problem
from lenet.measurement.rounds import measure
from lenet.vocabulary import Mode
from tests.measurement.fakes import FakeEvent, FakeGpu

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

FEW = Coursework(warmups=2, rounds=4)


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


@needs_gpu
class TestARealGpu:
    """What the fakes stand for."""

    @pytest.fixture
    def stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream()

    def spin(self, stream: torch.cuda.Stream, seconds: float) -> Callable[[], None]:
        cycles = int(seconds * sm_clock_hz(stream))

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
