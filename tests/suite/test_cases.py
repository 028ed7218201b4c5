"""Which cases run where backends are named, and what their speed-ups are told against."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lenet import results
from lenet.report.tables import rows_sheets, speed_sheets
from lenet.results import Measurement
from lenet.suite import baseline, cases, summary
from lenet.suite.run import RUN, Run
from tests.report import documents

FACTS: dict[str, Any] = {"cpu": {"model": "X", "usable": 1}}


def item(path: Path, *fixtures: str) -> pytest.Item:
    found = SimpleNamespace(path=path, fixturenames=fixtures, add_marker=lambda _: None, name=path.name)
    return cast("pytest.Item", found)


def chosen(tmp_path: Path, *arguments: str, backends: tuple[str, ...] = ()) -> list[str]:
    """The files whose case runs."""
    items = [
        item(tmp_path / "benchmarks" / "test_inference.py", "backend_name", "mode"),
        item(tmp_path / "benchmarks" / "test_training.py", "store"),
        item(tmp_path / "canary" / "test_canary.py"),
    ]
    left_out: list[pytest.Item] = []

    def deselect(items: list[pytest.Item]) -> None:
        left_out.extend(items)

    config = SimpleNamespace(
        args=arguments,
        invocation_params=SimpleNamespace(dir=tmp_path),
        getoption=lambda name: list(backends) if name == "--backend" else None,
        hook=SimpleNamespace(pytest_deselected=deselect),
        stash={RUN: Run(FACTS)},
    )
    cases.choose_and_sort(cast("pytest.Config", config), items)
    assert len(items) + len(left_out) == 3
    assert config.stash[RUN].cases == config.stash[RUN].of_backends == 1
    return [one.path.name for one in items]


def test_a_named_backend_runs_alone(tmp_path: Path) -> None:
    everything = ["test_inference.py", "test_training.py", "test_canary.py"]
    assert chosen(tmp_path, "benchmarks") == everything
    assert chosen(tmp_path, "benchmarks", backends=("pytorch",)) == ["test_inference.py"]
    assert chosen(tmp_path, backends=("pytorch", "fused")) == ["test_inference.py"]


def test_a_file_that_is_named_runs_all_the_same(tmp_path: Path) -> None:
    """As the gate names its canary."""
    canary = str(tmp_path / "canary" / "test_canary.py")
    assert chosen(tmp_path, "benchmarks", canary, backends=("pytorch",)) == ["test_inference.py", "test_canary.py"]
    one_case = "benchmarks/test_training.py::test_epoch"
    assert chosen(tmp_path, one_case, backends=("pytorch",)) == ["test_inference.py", "test_training.py"]


def saved(storage: Path, number: int, *names: str, fingerprint: str = "f1") -> Measurement:
    folder = storage / "cpu-x"
    folder.mkdir(exist_ok=True)
    file = folder / f"{number:04d}_x.json"
    return results.load(documents.measurement(file, backends=names, number=number, fingerprint=fingerprint))


def run_here() -> Run:
    run = Run(FACTS)
    run.kind, run.fingerprint = "cpu-x", "f1"
    return run


def test_the_newest_run_of_this_machine_with_pytorch_is_what_speed_ups_are_told_against(tmp_path: Path) -> None:
    older = saved(tmp_path, 1, "pytorch")
    rows = saved(tmp_path, 2, "tripy").rows
    assert baseline.saved_pytorch(run_here(), rows, tmp_path) == older
    newer = saved(tmp_path, 3, "pytorch", "tripy")
    assert baseline.saved_pytorch(run_here(), rows, tmp_path) == newer
    saved(tmp_path, 4, "pytorch", fingerprint="of another machine")
    (tmp_path / "cpu-x" / "0005_x.json").write_text("cut sh")
    assert baseline.saved_pytorch(run_here(), rows, tmp_path) == newer
    assert baseline.saved_pytorch(run_here(), newer.rows, tmp_path) is None, "this run has its own"
    assert baseline.saved_pytorch(run_here(), rows, tmp_path / "empty") is None


def test_the_tables_say_which_run_a_speed_up_is_over(tmp_path: Path) -> None:
    run, other = run_here(), saved(tmp_path, 1, "pytorch")
    rows = list(saved(tmp_path, 2, "tripy").rows)
    (missing,) = summary._speedups(run, rows)
    assert missing.startswith("A row without a speed-up: pytorch was not measured under its conditions")
    assert "--backend=pytorch" in missing
    _, rates = rows_sheets(rows)
    assert {line[3] for line in rates.lines} == {"-"}
    run.pytorch = other
    assert list(summary._speedups(run, rows)) == [
        f"Speed-ups are over pytorch as saved in {other.path} ({other.date})."
    ]
    _, rates = rows_sheets(rows, others=other.rows)
    assert len(rates.lines) == len(rows)
    assert all(line[3].endswith("x") for line in rates.lines)
    (sheet,) = speed_sheets(rows, others=other.rows)
    assert sheet.lines[0][3] != "-"
    assert len(sheet.lines) == 1, "the saved run's rows are not this run's"
    assert list(summary._speedups(run, list(other.rows))) == [], "PyTorch's own rows need no other"
