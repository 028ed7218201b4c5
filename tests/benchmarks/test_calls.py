"""What the suite's parts do, without a GPU: end to end needs none to be told apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from lenet.backends.base import BatchRange, BuildSpec, Runner
from lenet.data.synthetic import synthetic
from lenet.measurement.memory import PeakMemory
from lenet.measurement.protocol import Adaptive, Coursework, Stop
from lenet.measurement.recorder import Samples
from lenet.parity import Bounds, Closeness, Comparison
from lenet.results import Case
from lenet.suite import builds
from lenet.suite.builds import Builds, Built
from lenet.suite.facts import FINER, UNDERCUT, row_facts
from lenet.suite.images import Splits, first_images
from lenet.suite.one_batch import call_of
from lenet.suite.options import protocol_of
from lenet.vocabulary import InputType, Mode, Precision
from tests.report.documents import LIMITS

SPEC = BuildSpec(torch.device("cpu"), Precision.FP32, BatchRange.exactly(2), InputType.UINT8)


class _Noting(Runner):
    """Gives back the images that it gets."""

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


@pytest.mark.parametrize(
    ("mode", "memory", "gets_the_hosts", "copies"),
    [
        (Mode.FORWARD, "pinned", False, False),
        (Mode.END_TO_END, "pinned", False, True),
        (Mode.END_TO_END, "pageable", False, True),
        (Mode.END_TO_END, "zero-copy", True, False),
    ],
)
def test_only_zero_copy_hands_over_the_host_s_memory(
    mode: Mode, memory: str, *, gets_the_hosts: bool, copies: bool
) -> None:
    images, host = torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.ones(2, 3, 32, 32, dtype=torch.uint8)
    case = replace(
        CASE, mode=mode, host_memory=memory if mode is Mode.END_TO_END else None, batch_size=2, input="uint8"
    )
    batches: Any = SimpleNamespace(on_host=lambda *asked: host if asked == (2, InputType.UINT8, memory) else None)
    call, source = call_of(_Noting(SPEC, None), images, case, batches)
    assert source is (images if mode is Mode.FORWARD else host)
    assert call() is (host if gets_the_hosts else images)
    assert bool(images.all()) == copies


def test_the_images_are_the_test_images(noise_directory: Path) -> None:
    found = Splits(noise_directory, accept_unknown=True).load("test")
    assert found.labels[:3].tolist() == [9, 8, 7], "the training images' are 0, 1, 2"
    assert len(Splits(None, accept_unknown=False).load("test")) == len(found) == 10_000


def test_a_batch_is_of_the_first_images_and_repeats_them_where_it_is_larger() -> None:
    split = synthetic(3)
    assert torch.equal(first_images(split, 2), split.images[:2])
    assert torch.equal(first_images(split, 7), split.images[[0, 1, 2, 0, 1, 2, 0]])


class _Building:
    """A backend that says whether the runner before was closed when it built."""

    name: ClassVar[str] = "building"

    def __init__(self) -> None:
        self.built: list[Runner] = []

    @property
    def builds(self) -> int:
        return len(self.built)

    def build(self, _arrays: Any, _spec: BuildSpec) -> Runner:
        assert not any(vars(runner) for runner in self.built)
        self.built.append(_Noting(SPEC, None))
        return self.built[-1]


def test_a_runner_s_rows_share_one_buffer_which_holds_no_row_s_images_when_the_next_begins() -> None:
    built = Built(_Noting(SPEC, None), 0)
    batch = torch.ones(2, 3, 32, 32, dtype=torch.uint8)

    first = built.buffer(batch)
    assert not first.any()
    first.copy_(batch)
    assert built.buffer(batch) is first
    assert not first.any()


def test_one_runner_is_open_and_the_one_before_is_closed_when_the_next_is_built() -> None:
    backend: Any = _Building()
    builds = Builds({})
    other = BuildSpec(torch.device("cpu"), Precision.FP32, BatchRange.exactly(3), InputType.UINT8)

    assert builds(backend, SPEC) is builds(backend, SPEC)
    builds(backend, other)
    builds(backend, SPEC)
    assert backend.builds == 3
    builds.close()
    assert not any(vars(runner) for runner in backend.built)


def test_a_row_takes_its_runner_and_its_batch_and_nothing_that_was_there_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Workspaces of earlier runners are none of it: a build can free them."""
    backend: Any = _Building()
    kept = {"workspaces": 33_000_000}
    monkeypatch.setattr(builds, "free_workspaces", lambda _: kept.clear())
    monkeypatch.setattr(builds, "allocated", lambda _: 1_000_000 * (1 + backend.builds) + sum(kept.values()))
    built = Builds({})(backend, SPEC)
    batch = built.buffer(torch.ones(2, 3, 32, 32, dtype=torch.uint8))
    peak = PeakMemory(allocated=1_000_000 + 50_000 + batch.nbytes, outside=700)

    assert built.taken(peak, zero_copy=False) == 50_700 + batch.nbytes
    assert built.taken(peak, zero_copy=True) == 50_700, "the batch on the device is of other rows"
    assert Built(built.runner, 1_000_000).taken(peak, zero_copy=True) == 50_700 + batch.nbytes, "it was never made"


CASE = Case(
    "pytorch", Mode.FORWARD, "fp32", "fp32", 1000, "a GPU", "images", None, cold_cache=False, protocol="adaptive"
)
STEADY = np.array([5.0 + 0.001 * (number % 7) for number in range(100)], dtype=np.float64)
"""Seconds, far above any floor."""


def sampled(*, of_a_gpu: bool, **bad: int) -> Samples:
    """A hundred rounds, of which the last so many are bad, and ten times as long by the clock that sees it."""
    bound, throttled, slowed = (
        np.arange(100) >= 100 - bad.get(name, 0) for name in ("launch_bound", "throttled", "slowed")
    )
    return Samples(
        device=STEADY * np.where(bound | throttled, 10.0, 1.0) if of_a_gpu else None,
        wall=(1.0 + of_a_gpu) * STEADY * np.where(throttled | slowed, 10.0, 1.0),
        launch=0.1 * STEADY,
        launch_bound=bound,
        throttled=throttled,
        throttling=("sw_power_cap",),
        slowed=slowed,
        stopped=Stop.ROUNDS,
        tare=1e-6 if of_a_gpu else 0.0,
    )


RIGHT = Comparison(max_abs_delta=1e-6, max_share=0.1, top1_agreement=1.0, flips=0, images=32)


def facts(samples: Samples, case: Case = CASE, compared: Comparison = RIGHT) -> dict[str, Any]:
    return row_facts(case, samples, _Noting(SPEC, None), LIMITS, compared)


def test_a_row_stores_just_these_facts() -> None:
    """Files of earlier runs have the same names."""
    found = facts(sampled(of_a_gpu=True), compared=replace(RIGHT, closeness=None))
    times = {"summary", "tare", "wall_median", "launch_median", "launch_bound_share", "stopped"}
    rates = {"images_per_second", "us_per_image", "floor", "times_floor"}
    doubts = {"throttled", "throttling", "slowed", "unstable"}
    logits = {"max_abs_delta", "share_of_tolerance", "closeness"}
    assert set(found) == {"case", "weights", "facts"} | times | rates | doubts | logits
    assert (found["max_abs_delta"], found["share_of_tolerance"], found["closeness"]) == (1e-6, 0.1, None)
    assert (found["throttled"], found["slowed"], found["stopped"]) == (0, 0, Stop.ROUNDS)


def test_a_row_of_a_gpu_tells_the_device_s_time_and_the_wall_s_beside_it() -> None:
    found = facts(sampled(of_a_gpu=True, launch_bound=5, throttled=3, slowed=2))
    assert found["summary"]["rounds"] == 95
    assert found["summary"]["median"] == pytest.approx(5.003)
    assert found["wall_median"] == pytest.approx(10.006)
    assert (found["tare"], found["launch_bound_share"], found["throttled"], found["slowed"]) == (1e-6, 0.05, 3, 2)
    assert found["launch_median"] == pytest.approx(0.5003)
    assert found["images_per_second"] == pytest.approx(1000 / 5.003)
    assert found["us_per_image"] == pytest.approx(5003)
    assert found["times_floor"] == pytest.approx(5.003 / found["floor"]["seconds"])
    assert not found["unstable"]


def test_a_row_below_its_floor_has_none() -> None:
    found = facts(replace(sampled(of_a_gpu=True), device=1e-12 * STEADY))
    assert (found["floor"], found["times_floor"]) == (None, None)


def test_advice_is_of_the_row_s_protocol() -> None:
    scattered = replace(sampled(of_a_gpu=False), wall=np.linspace(1, 9, 100))
    for protocol, advice in (("coursework", "--rounds"), ("adaptive", "--time-limit")):
        assert any(advice in why for why in facts(scattered, replace(CASE, protocol=protocol))["unstable"])


def test_a_row_by_the_wall_clock_has_neither_a_tare_nor_a_wall_time_beside_it() -> None:
    found = facts(sampled(of_a_gpu=False, throttled=3, slowed=5))
    assert (found["tare"], found["wall_median"], found["summary"]["rounds"]) == (None, None, 95)
    assert not found["unstable"]


@pytest.mark.parametrize(
    ("samples", "unstable"),
    [
        (sampled(of_a_gpu=True, launch_bound=21), "in 21 of 100 rounds the device began before"),
        (sampled(of_a_gpu=True, throttled=21), "21 of 100 rounds were throttled"),
        (sampled(of_a_gpu=False, throttled=21), "21 of 100 rounds were throttled"),
        (sampled(of_a_gpu=False, slowed=21), "the host's CPU was slowed down by others in 21 of 100 rounds"),
        (sampled(of_a_gpu=True, slowed=21), None),
        (replace(sampled(of_a_gpu=True), device=1e-12 * STEADY), UNDERCUT),
    ],
    ids=["launch-bound", "throttled", "throttled by the wall clock", "slowed", "slowed by the device's", "too fast"],
)
def test_a_row_says_what_disturbed_its_own_clock(samples: Samples, unstable: str | None) -> None:
    found = facts(samples)["unstable"]
    assert len(found) == (unstable is not None)
    assert unstable is None or found[0].startswith(unstable)


@pytest.mark.parametrize("finer", [False, True])
def test_a_row_whose_logits_lack_its_precision_s_rounding_says_so(*, finer: bool) -> None:
    near = Closeness("exact", rms=0.0, largest=0.0, bounds=Bounds(0.35, 3.0), finer=finer)
    found = facts(sampled(of_a_gpu=True), replace(CASE, precision="tf32"), replace(RIGHT, closeness=near))
    assert found["unstable"] == ([FINER.format("tf32")] if finer else [])
    assert found["closeness"]["finer"] is finer


@pytest.mark.parametrize(
    ("options", "protocol"),
    [
        ({"--protocol": "coursework", "--warmups": 5}, Coursework(warmups=5, rounds=100)),
        ({"--protocol": "coursework", "--warmups": 0, "--rounds": 7}, Coursework(warmups=0, rounds=7)),
        ({"--protocol": "adaptive", "--warmups": 5}, Adaptive(warmups=5, time_limit=10.0)),
        ({"--protocol": "adaptive", "--warmups": 0, "--time-limit": 2.5}, Adaptive(warmups=0, time_limit=2.5)),
    ],
)
def test_the_options_choose_the_protocol(options: dict[str, Any], protocol: Coursework | Adaptive) -> None:
    config: Any = SimpleNamespace(getoption=options.get)
    assert protocol_of(config) == protocol
