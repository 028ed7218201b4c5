"""A turn in a worker: its rounds, its CPU, and where the sides alternate."""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lenet.gate import trees
from lenet.gate.rounds import rounds_needed
from lenet.measurement.host_state import IdleHostWatch
from lenet.measurement.protocol import Coursework
from lenet.measurement.statistics import summarize
from lenet.suite.instruments import Instruments


@pytest.mark.parametrize(("spread", "rounds"), [(0.0, 10), (0.01, 22), (0.03, 195), (0.1, 2158)])
def test_a_noisy_row_of_a_gpu_gets_more_rounds(spread: float, rounds: int) -> None:
    """Of a sample whose quartiles are so far apart, as a share of the median."""
    half = spread / 2
    sample = [1 - half] * 25 + [1.0] * 50 + [1 + half] * 25
    assert rounds_needed(replace(summarize(sample), iqr=spread), on_a_cpu=False) == rounds


@pytest.mark.parametrize(("seconds", "rounds"), [(1e-3, 50), (1e-4, 500), (0.5, 10)])
def test_a_turn_on_a_cpu_lasts_for_some_alternations(seconds: float, rounds: int) -> None:
    assert rounds_needed(summarize([seconds] * 20), on_a_cpu=True) == rounds


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The workers' plugin. What it says can be read from `said`, and it hears the lines of `told`."""
    (hear, told), (said, say) = os.pipe(), os.pipe()
    monkeypatch.setenv("LENET_GATE_HEAR", str(hear))
    monkeypatch.setenv("LENET_GATE_SAY", str(say))
    monkeypatch.setattr("gc.disable", lambda: None)  # else this process would collect nothing from here on
    names = runpy.run_path(str(Path(trees.__file__).with_name("turns.py")))
    yield {**names, "said": said, "told": told}
    names["_hear"].close()
    for one in (told, said, say):
        os.close(one)


@pytest.mark.parametrize(
    ("device", "mode", "rounds"), [("cuda", "forward", 100), ("cpu", "forward", 1200), ("cpu", "throughput", 100)]
)
def test_a_turn_gives_the_suite_s_instruments_its_rounds_and_host(
    plugin: dict[str, Any], device: str, mode: str, rounds: int
) -> None:
    """A CPU's forward turn lasts a fixed time. Elsewhere the suite's rounds are the most."""
    parts = {"protocol": Coursework(), "host": IdleHostWatch()}
    instruments: Any = Instruments(sampler=None, energy=None, **parts)  # type: ignore[arg-type]
    given = {**parts, "instruments": instruments, "device": SimpleNamespace(type=device)}
    given["case"] = SimpleNamespace(mode=mode)
    item = SimpleNamespace(funcargs=given, stash={plugin["_TURN"]: {"rounds": 1200, "cpu": 0}})
    next(plugin["pytest_pyfunc_call"](item))
    found = given["instruments"]
    assert (found.protocol.rounds, type(found.host)) == (rounds, plugin["_GivenHost"])


@pytest.mark.parametrize(
    ("mode", "threads", "on_a_gpu", "says"),
    [
        ("forward", 1, False, {"within": True, "alone": False}),
        ("forward", 2, False, "the end"),
        ("throughput", 1, False, {"within": True, "alone": True}),
        ("end_to_end", 2, True, {"within": True, "alone": False}),
        ("forward", 1, True, "the end"),
        ("throughput", 1, True, "the end"),
    ],
)
def test_the_sides_alternate_where_the_time_is_one_thread_s(
    plugin: dict[str, Any], monkeypatch: pytest.MonkeyPatch, mode: str, threads: int, says: object, *, on_a_gpu: bool
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: on_a_gpu)
    os.write(plugin["told"], b"{}\n")
    assert not plugin["_GivenHost"](None, mode).is_slowed()
    os.write(plugin["_say"], b'"the end"\n')
    assert json.loads(os.read(plugin["said"], 100).splitlines()[0]) == says


@pytest.mark.parametrize(
    ("mode", "threads", "on_a_gpu", "pinned"),
    [
        ("forward", 1, False, True),
        ("forward", 2, False, False),
        ("throughput", 1, False, False),
        ("throughput", 2, True, True),
    ],
)
def test_a_thread_that_computes_alone_is_kept_on_the_drawn_cpu(
    plugin: dict[str, Any], monkeypatch: pytest.MonkeyPatch, mode: str, threads: int, *, on_a_gpu: bool, pinned: bool
) -> None:
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: on_a_gpu)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    allowed = os.sched_getaffinity(0)
    one = max(allowed)
    with plugin["_GivenHost"](one, mode).on_a_quiet_cpu():
        assert os.sched_getaffinity(0) == ({one} if pinned else allowed)
    assert os.sched_getaffinity(0) == allowed


def test_the_canary_alternates_after_each_chunk(plugin: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1.0, 1.0, 1.001, 1.005, 1.005, 1.006])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    looks: list[bool] = []
    before_a_round = plugin["_Chunks"](SimpleNamespace(is_slowed=lambda: looks.append(True)))
    for count in (1, 1, 2, 2):
        before_a_round()
        assert len(looks) == count
