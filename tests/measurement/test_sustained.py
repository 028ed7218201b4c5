from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lenet.measurement.protocol import Adaptive, Coursework, Stop
from lenet.measurement.recorder import Round
from lenet.measurement.rounds import measure_sustained
from lenet.measurement.sustained import SUSTAINED, WINDOW, Held, SustainedClock


class Noted:
    """A pipeline that notes what windows it was asked for; each batch takes a hundredth of a second."""

    chunk: ClassVar[float] = 0.05

    def __init__(self) -> None:
        self.asked: list[tuple[int, float]] = []

    @property
    def depth(self) -> int:
        return 2

    @property
    def held(self) -> Sequence[Held | None]:
        return ()

    def windows(self, count: int, seconds: float) -> list[Round]:
        self.asked.append((count, seconds))
        batches = max(round(seconds / 0.01), 1)
        latency = 0.001 * len(self.asked)
        return [Round(None, 0.01, 0.002, launch_bound=False, latencies=[latency] * batches) for _ in range(count)]

    def work(self, seconds: float) -> int:
        raise NotImplementedError

    def lap(self) -> None: ...

    def logits(self, batches: Sequence[torch.Tensor], held: Held | None = None) -> list[torch.Tensor]:
        del held
        return list(batches)

    def close(self) -> None: ...


@given(st.integers(1, 1000), st.integers(0, 5))
def test_a_row_lasts_a_second_whatever_the_number_of_its_rounds(rounds: int, warmups: int) -> None:
    pipeline = Noted()
    samples = measure_sustained(pipeline, stream=None, protocol=Coursework(warmups, rounds))
    assert samples.stopped is Stop.ROUNDS
    assert samples.seconds.tolist() == [0.01] * rounds
    warm, timed = (pipeline.asked[:1], pipeline.asked[1:]) if warmups else ([], pipeline.asked)
    assert warm == [(warmups, WINDOW)] * len(warm)
    assert sum(count for count, _ in timed) == rounds
    assert sum(count * seconds for count, seconds in timed) >= SUSTAINED - 1e-9
    assert all(seconds >= WINDOW for _, seconds in timed)


def test_an_adaptive_row_lasts_a_second_too() -> None:
    samples = measure_sustained(Noted(), stream=None, protocol=Adaptive(warmups=0))
    assert samples.stopped is Stop.PRECISE
    assert sum(len(one) for one in samples.latencies) * 0.01 >= SUSTAINED - 1e-9


def test_the_pipeline_runs_empty_only_as_often_as_its_chunk_says() -> None:
    pipeline = Noted()
    assert len(SustainedClock(pipeline, Coursework(rounds=100)).run(100)) == 5
    assert len(SustainedClock(pipeline, Coursework(rounds=100)).run(2)) == 2
    assert len(SustainedClock(pipeline, Coursework(rounds=2)).run(2)) == 1
    assert [seconds for _, seconds in pipeline.asked] == [0.01, 0.01, 0.5]


def test_latencies_are_of_the_windows_that_are_kept() -> None:
    looks = iter([(), (), ("sw_power_cap",), (), *[()] * 100])
    samples = measure_sustained(
        Noted(), stream=None, protocol=Coursework(0, 20), throttling=lambda: tuple[str, ...](next(looks))
    )
    assert samples.throttled.tolist() == [False, *[True] * 2, *[False] * 19]
    assert sorted(set(samples.latency.tolist())) == pytest.approx([0.001 * n for n in (1, *range(4, 23))])
    assert samples.latency.size == 5 * 20
    assert samples.seconds.size == 20
