"""Which cases run where backends are named, and what their speed-ups are told against."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lenet import results
from lenet.report.tables import rows_sheets, speed_sheets
from lenet.results import Measurement, NotRun
from lenet.suite import baseline, cases, summary
from lenet.suite.bridge import Session
from lenet.suite.run import RUN, Run
from lenet.vocabulary import ONE_BATCH_MODES, HostMemory, InputType, Precision
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


def test_a_forward_case_is_measured_beside_the_first_kind_of_memory_alone(tmp_path: Path) -> None:
    """It copies nothing, so a second kind would repeat it."""
    values = [(mode, memory) for mode in ONE_BATCH_MODES for memory in (HostMemory.PAGEABLE, HostMemory.PINNED)]
    items = [item(tmp_path / "test_inference.py", "backend_name", "mode") for _ in values]
    for one, (mode, memory) in zip(items, values, strict=True):
        one.callspec = SimpleNamespace(params={"mode": mode, "host_memory": memory})  # type: ignore[attr-defined]
    asked = {"--host-memory": [HostMemory.PAGEABLE, HostMemory.PINNED]}
    left_out: list[pytest.Item] = []

    def deselect(items: list[pytest.Item]) -> None:
        left_out.extend(items)

    hook = SimpleNamespace(pytest_deselected=deselect)
    config = SimpleNamespace(args=(), getoption=asked.get, hook=hook, stash={RUN: Run(FACTS)})
    cases.choose_and_sort(cast("pytest.Config", config), items)
    left = [cases._parameters(one) for one in items]
    assert [(one["mode"], one["host_memory"]) for one in left] == [values[0], values[2], values[3]]
    assert (config.stash[RUN].cases, config.stash[RUN].of_backends, len(left_out)) == (3, 3, 1)


def test_cases_that_share_a_runner_run_one_after_the_other(tmp_path: Path) -> None:
    values = list(product((1, 1000), (Precision.FP16, Precision.FP32), InputType))
    items = [item(tmp_path / "test_inference.py") for _ in values]
    for one, (size, precision, kind) in zip(items, values, strict=True):
        parameters = {"precision": precision, "batch_size": size, "input_type": kind}
        one.callspec = SimpleNamespace(params=parameters)  # type: ignore[attr-defined]
    types = [InputType.UINT8, InputType.FLOAT32]
    asked: dict[str, list[Any]] = {"--precision": [Precision.FP32, Precision.FP16], "--batch-size": [1000, 1]}
    asked["--input"] = types
    config = SimpleNamespace(args=(), getoption=asked.get, stash={RUN: Run(FACTS)})
    cases.choose_and_sort(cast("pytest.Config", config), items)
    left = [cases._parameters(one) for one in items]
    found = [(one["precision"], one["batch_size"], one["input_type"]) for one in left]
    assert found == list(product(asked["--precision"], asked["--batch-size"], types))


def test_only_what_a_case_asks_for_is_parametrized() -> None:
    given = []
    metafunc = SimpleNamespace(
        fixturenames=["mode", "store"],
        config=SimpleNamespace(getoption=lambda _: None),
        parametrize=lambda name, values, ids: given.append((name, values, ids)),
    )
    cases.parametrize(cast("pytest.Metafunc", metafunc))
    assert given == [("mode", list(ONE_BATCH_MODES), str)]


class _Forgotten:
    def __init__(self) -> None:
        self.names: list[str] = []

    def forget(self, name: str) -> None:
        self.names.append(name)


def outcome(run: Run, *reports: tuple[str, bool, bool, object]) -> list[str]:
    """What is forgotten of a case after these reports: when, skipped, failed, why."""
    one = SimpleNamespace(
        nodeid="x::test_inference[a]", name="test_inference[a]", config=SimpleNamespace(stash={RUN: run})
    )
    forgotten = _Forgotten()
    for when, skipped, failed, why in reports:
        report = SimpleNamespace(when=when, skipped=skipped, failed=failed, longrepr=why)
        cases.note_outcome(cast("pytest.Item", one), cast("pytest.TestReport", report), cast("Session", forgotten))
    return forgotten.names


def test_what_was_not_measured_is_noted_with_its_reason() -> None:
    passed = ("setup", False, False, None), ("call", False, False, None), ("teardown", False, False, None)
    run = run_here()
    assert outcome(run, *passed) == []
    assert run.not_run == {}
    assert outcome(run, ("setup", True, False, ("file", 1, "Skipped: no GPU"))) == []
    assert list(run.not_run.values()) == [NotRun("a", "no GPU")]
    crashed = SimpleNamespace(reprcrash=SimpleNamespace(message="Failed: wrong\nmore"))
    assert outcome(run, passed[0], ("call", False, True, crashed)) == ["test_inference[a]"]
    assert list(run.not_run.values()) == [NotRun("a", "failed: wrong")]
    assert outcome(run, *passed) == []
    assert run.not_run == {}, "the last attempt decides"
    assert outcome(run, ("call", True, False, "of a failure that was expected")) == []
    assert run.not_run == {}, "pytest tells no place of it, and so no reason"
    assert outcome(run, passed[0], passed[1], ("teardown", False, True, "")) == ["test_inference[a]"]
    assert list(run.not_run.values()) == [NotRun("a", "failed: no message")]


@pytest.mark.parametrize("allowed", ["benchmark_disable", "collectonly"])
def test_a_tracer_is_refused_where_something_is_timed(monkeypatch: pytest.MonkeyPatch, allowed: str) -> None:
    monkeypatch.setattr(cases, "instruments", lambda: ["a tracer"])
    option = SimpleNamespace(benchmark_disable=False, collectonly=False)
    config = SimpleNamespace(option=option)
    with pytest.raises(pytest.UsageError, match="would include a tracer: measure without, or with --benchmark-disable"):
        cases.refuse_company(cast("pytest.Config", config))
    setattr(option, allowed, True)
    cases.refuse_company(cast("pytest.Config", config))


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
    elsewhere = replace(rows[0], case=replace(rows[0].case, batch_size=7))
    assert baseline.saved_pytorch(run_here(), [elsewhere, *rows], tmp_path) == newer, "it has some of them"
    assert baseline.saved_pytorch(run_here(), newer.rows, tmp_path) is None, "this run has its own"
    assert baseline.saved_pytorch(run_here(), rows, tmp_path / "empty") is None


def test_the_tables_say_which_run_a_speed_up_is_over(tmp_path: Path) -> None:
    run, other = run_here(), saved(tmp_path, 1, "pytorch")
    rows = list(saved(tmp_path, 2, "tripy").rows)
    (missing,) = summary._speedups(run, rows)
    assert missing.startswith("A row without a ratio: pytorch was not measured under its conditions")
    assert "--backend=pytorch" in missing
    _, rates = rows_sheets(rows)
    assert {line[3] for line in rates.lines} == {"-"}
    run.pytorch = other
    assert list(summary._speedups(run, rows)) == [f"Ratios are to pytorch as saved in {other.path} ({other.moment})."]
    _, rates = rows_sheets(rows, others=other.rows)
    assert len(rates.lines) == len(rows)
    assert all(line[3].endswith("x") for line in rates.lines)
    (sheet,) = speed_sheets(rows, others=other.rows)
    assert sheet.lines[0][3] != "-"
    assert len(sheet.lines) == 1, "the saved run's rows are not this run's"
    assert list(summary._speedups(run, list(other.rows))) == [], "PyTorch's own rows need no other"
    elsewhere = replace(rows[0], case=replace(rows[0].case, batch_size=7))
    over, without = summary._speedups(run, [*rows, elsewhere])
    assert over.startswith("Ratios are to pytorch as saved in")
    assert without == missing
