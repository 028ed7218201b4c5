from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenet.suite.replay import Replay
from tests import preloaded


@given(st.lists(st.floats(1e-9, 1e3), max_size=50))
def test_each_round_takes_just_what_was_measured(seconds: list[float]) -> None:
    timer = Replay(seconds)

    assert [-timer() + timer() for _ in seconds] == seconds


def test_more_rounds_than_samples_are_refused() -> None:
    timer = Replay([0.5])
    timer.load([0.25])
    assert [timer(), timer()] == [0.0, 0.25]

    with pytest.raises(ValueError, match="no more samples"):
        timer()


SUITE = """
import pytest
from lenet.suite.replay import Replay

SECONDS = [0.0013, 0.0011, 0.0017]

@pytest.mark.benchmark(timer=Replay(SECONDS))
def test_replayed(benchmark):
    benchmark.pedantic(lambda: None, rounds=len(SECONDS))
"""


@pytest.mark.programs
def test_pytest_benchmark_saves_what_the_timer_tells(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    options = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "--rootdir", str(tmp_path))
    saving = ("--benchmark-json", str(tmp_path / "saved.json"), str(tmp_path))
    outcome = preloaded.run("-m", "pytest", *options, *saving, cwd=Path(__file__).parents[2], env=os.environ)
    assert outcome.returncode == 0, outcome.stdout

    (row,) = json.loads((tmp_path / "saved.json").read_text())["benchmarks"]
    assert row["stats"]["data"] == [0.0013, 0.0011, 0.0017]
    assert row["options"]["timer"] == "Replay"
