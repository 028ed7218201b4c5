from __future__ import annotations

import pytest

from lenet.measurement.protocol import Stop
from lenet.measurement.recorder import Recorder, Round

QUICK = [Round(1e-6, 3e-6, 2e-6, launch_bound=False), Round(2e-6, 4e-6, 3e-6, launch_bound=True)]
BY_THE_WALL = [Round(None, 0.25, 0.125, launch_bound=False), Round(None, 0.5, 0.125, launch_bound=False)]


def test_no_rounds_at_all_are_empty_arrays_of_the_same_types() -> None:
    samples = Recorder(by_device=False).samples(Stop.ROUNDS, 0.0)

    for times in (samples.wall, samples.launch):
        assert (times.dtype.name, times.shape) == ("float64", (0,))
    for marks in (samples.launch_bound, samples.throttled, samples.slowed):
        assert (marks.dtype.name, marks.shape) == ("bool", (0,))
    assert samples.seconds.size == 0


def test_every_round_is_kept_in_order_with_what_disturbed_it() -> None:
    recorder = Recorder(by_device=True)
    recorder.keep(QUICK, throttling=(), slowed=False)
    recorder.keep(QUICK[:1], throttling=("sw_power_cap", "hw_slowdown"), slowed=False)
    recorder.keep(QUICK[:1], throttling=(), slowed=True)
    samples = recorder.samples(Stop.TIME, 1e-7)

    assert samples.device is not None
    assert samples.device.tolist() == [1e-6, 2e-6, 1e-6, 1e-6]
    assert samples.wall.tolist() == [3e-6, 4e-6, 3e-6, 3e-6]
    assert samples.launch.tolist() == [2e-6, 3e-6, 2e-6, 2e-6]
    assert samples.launch_bound.tolist() == [False, True, False, False]
    assert samples.throttled.tolist() == [False, False, True, False]
    assert samples.slowed.tolist() == [False, False, False, True]
    assert samples.throttling == ("hw_slowdown", "sw_power_cap")
    assert (samples.stopped, samples.tare) == (Stop.TIME, 1e-7)


@pytest.mark.parametrize(
    ("throttling", "slowed", "valid"),
    [((), False, [0.25, 0.5]), ((), True, []), (("sw_power_cap",), False, []), (("sw_power_cap",), True, [])],
)
def test_a_wall_time_is_valid_where_neither_the_gpu_nor_the_host_was_disturbed(
    throttling: tuple[str, ...], *, slowed: bool, valid: list[float]
) -> None:
    recorder = Recorder(by_device=False)
    recorder.keep(BY_THE_WALL, throttling=throttling, slowed=slowed)

    assert recorder.valid == valid


@pytest.mark.parametrize(
    ("throttling", "slowed", "valid"),
    [((), False, [1e-6]), ((), True, [1e-6]), (("sw_power_cap",), False, [])],
)
def test_a_device_time_is_valid_on_a_slowed_host_and_invalid_where_the_launch_bound_it(
    throttling: tuple[str, ...], *, slowed: bool, valid: list[float]
) -> None:
    recorder = Recorder(by_device=True)
    recorder.keep(QUICK, throttling=throttling, slowed=slowed)

    assert recorder.valid == valid


def test_what_a_row_shows_is_what_was_valid_or_all_where_nothing_was() -> None:
    recorder = Recorder(by_device=False)
    recorder.keep(BY_THE_WALL, throttling=(), slowed=True)
    assert recorder.samples(Stop.DISCARDED, 0.0).seconds.tolist() == [0.25, 0.5]

    recorder.keep(BY_THE_WALL[:1], throttling=(), slowed=False)
    assert recorder.samples(Stop.DISCARDED, 0.0).seconds.tolist() == recorder.valid == [0.25]
