from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
import torch

from lenet import parity, weights
from lenet.backends import load
from lenet.backends.base import BatchRange, BuildSpec
from lenet.comparison import check_in_flight, reference_of
from lenet.data.synthetic import synthetic
from lenet.measurement import parallel
from lenet.measurement.parallel import ParallelRunners, numbers_of_runners, threads
from lenet.vocabulary import InputType, Precision
from lenet.weights import Arrays

SPEC = BuildSpec(torch.device("cpu"), Precision.FP32, BatchRange.exactly(2), InputType.UINT8)
BATCH = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)


class Fake:
    """A runner whose pass does something else."""

    def __init__(self, forward: Callable[[torch.Tensor], Any]) -> None:
        self.forward = forward
        self.closed = False

    def close(self) -> None:
        self.closed = True


def side_by_side(*forwards: Callable[[torch.Tensor], Any], share: int = 1) -> ParallelRunners:
    runners: Any = [Fake(one) for one in forwards]
    return ParallelRunners(runners, BATCH, share)


@pytest.mark.parametrize(
    ("cores", "numbers"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])]
)
def test_the_numbers_that_are_tried_are_within_the_cores(cores: int, numbers: list[int]) -> None:
    assert numbers_of_runners(cores) == numbers


@pytest.mark.parametrize("runners", [1, 2, 4])
def test_the_rates_of_runners_add_up(monkeypatch: pytest.MonkeyPatch, runners: int) -> None:
    """Each thread has a clock of its own, on which a pass takes 4 ms."""
    own = threading.local()
    monkeypatch.setattr(parallel, "perf_counter", lambda: getattr(own, "now", 100.0))

    def forward(_images: torch.Tensor) -> None:
        own.now = getattr(own, "now", 100.0) + 0.004

    pool = side_by_side(*[forward] * runners)
    for one in pool.windows(5, 0.01):
        assert one.wall == pytest.approx(0.004 / runners)
        assert one.latencies == pytest.approx([0.004] * len(one.latencies))
        assert len(one.latencies) in range(2 * runners, 3 * runners + 1)
    pool.close()
    pool = side_by_side(*[forward] * runners)
    shorter_than_a_pass = pool.windows(2, 0.001)
    assert [one.wall for one in shorter_than_a_pass] == pytest.approx([0.004 / runners] * 2)
    assert all(one.latencies for one in shorter_than_a_pass)
    pool.close()


@pytest.mark.parametrize("runners", [1, 2])
def test_work_counts_every_batch(runners: int) -> None:
    passes: list[torch.Tensor] = []
    pool = side_by_side(*[passes.append] * runners)
    assert pool.work(1e-3) == len(passes) > runners
    pool.close()


def test_a_runner_that_fails_ends_the_others_and_its_error_is_told() -> None:
    calls = iter(range(100))

    def fails_later(_images: torch.Tensor) -> None:
        if next(calls) == 3:
            raise RuntimeError("no more")

    def fails_at_once(_images: torch.Tensor) -> None:
        raise RuntimeError("not at all")

    for forward, said in ((fails_later, "no more"), (fails_at_once, "not at all")):
        pool = side_by_side(lambda _: None, forward)
        with pytest.raises(RuntimeError, match=said):
            pool.windows(1, 1000.0)
        pool.close()


def test_each_runner_has_its_share_of_the_threads_and_torch_its_own_again() -> None:
    seen = []
    with threads(3):
        pool = side_by_side(
            *[lambda _: seen.append((torch.get_num_threads(), torch.is_inference_mode_enabled()))] * 2, share=2
        )
        pool.windows(1, 1e-3)
        pool.close()
        assert torch.get_num_threads() == 3
        assert set(seen) == {(2, True)}
    assert torch.get_num_threads() == 1, "as the tests have it"
    with pytest.raises(KeyError), threads(2):
        raise KeyError
    assert torch.get_num_threads() == 1


@pytest.fixture
def pair(arrays: Arrays) -> Iterator[Callable[[Arrays], ParallelRunners]]:
    opened: list[ParallelRunners] = []

    def build(second: Arrays) -> ParallelRunners:
        runners = [load("pytorch").build(one, SPEC) for one in (arrays, second)]
        opened.append(ParallelRunners(runners, BATCH, 1))
        return opened[-1]

    yield build
    for one in opened:
        one.close()


def test_every_runner_is_checked(arrays: Arrays, pair: Callable[[Arrays], ParallelRunners]) -> None:
    reference = reference_of(arrays, synthetic(32).images, InputType.UINT8)
    check_in_flight(pair(arrays), reference, 2, "fp32")
    wrong = {**arrays, "fc3.bias": arrays["fc3.bias"] + 1}
    with pytest.raises(parity.ParityError, match="with 2 batches in flight") as caught:
        check_in_flight(pair(wrong), reference, 2, "fp32")
    assert caught.value.found.startswith("batch 2 of 4: ")


def test_a_quantised_network_is_compared_with_its_own_logits() -> None:
    arrays = weights.load().arrays  # whose scales are shipped
    reference = reference_of(arrays, synthetic(32).images, InputType.UINT8)
    runner = load("pytorch").build(arrays, replace(SPEC, precision=Precision.INT8))
    with closing(ParallelRunners([runner], BATCH, 1)) as pool:
        check_in_flight(pool, reference, 2, "int8")
        with pytest.raises(parity.ParityError, match="in flight"):
            check_in_flight(pool, reference, 2, "fp32")


def test_closing_closes_the_runners(pair: Callable[[Arrays], ParallelRunners], arrays: Arrays) -> None:
    pool = pair(arrays)
    runners = list(pool._runners)
    pool.close()
    pool.close()
    assert not any(vars(one) for one in runners)
