"""Which saved run a run is compared with, and what is said of the comparison."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lenet.errors import ResultsError
from lenet.report.tables import to_rich
from lenet.results import Matching
from lenet.suite import baseline
from lenet.suite import run as run_module
from lenet.suite.bridge import Compared, Entry, Session
from lenet.suite.run import Run
from tests.report import documents
from tests.report.tables.examples import render

FACTS: dict[str, Any] = {"cpu": {"model": "X", "usable": 1}}


def run_here() -> Run:
    run = Run(FACTS)
    run.kind, run.fingerprint = "cpu-x", "f1"
    return run


def option(storage: Path, compare: str | bool | list[str]) -> pytest.Config:
    asked = SimpleNamespace(benchmark_storage=f"file://{storage}", benchmark_compare=compare)
    return cast("pytest.Config", SimpleNamespace(option=asked))


def saved(storage: Path, name: str, *backends: str, **changed: Any) -> Path:
    folder = storage / "cpu-x"
    folder.mkdir(exist_ok=True)
    return documents.measurement(folder / name, backends=backends or ("pytorch",), **changed)


def test_the_file_that_was_asked_for_is_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = saved(tmp_path, "0001_a.json"), saved(tmp_path, "0002_b.json", number=1)
    damaged = tmp_path / "cpu-x" / "0003_c.json"
    damaged.write_text("cut sh")
    for asked, path in ((True, second), ("0001", first), (str(first), first)):
        config = option(tmp_path, asked)
        baseline.choose(config, run_here())
        assert config.option.benchmark_compare == str(path)
    told = capsys.readouterr().err
    assert told.startswith(f"lenet: passed over: {damaged} cannot be read")
    assert f"lenet: compares with the baseline of this machine: {second}\n" in told
    config = option(tmp_path, [])
    baseline.choose(config, run_here())
    assert config.option.benchmark_compare == [], "nothing was asked for"


@pytest.mark.parametrize(("name", "shown"), [("a\x1b[2J.json", "a\x1b[2J.json"), ("a\nb.json", "a b.json")])
def test_a_name_that_cannot_be_printed_is_refused(tmp_path: Path, name: str, shown: str) -> None:
    path = saved(tmp_path, name)
    with pytest.raises(ResultsError) as refused:
        baseline.choose(option(tmp_path, str(path)), run_here())
    assert refused.value.summary == "the name of the baseline cannot be printed"
    assert refused.value.found == str(path.parent / shown)
    assert refused.value.wanted == "a name without control characters"
    assert refused.value.hint == "rename the file"


def test_a_baseline_of_another_machine_is_refused_with_what_differs(tmp_path: Path) -> None:
    document = json.loads(saved(tmp_path, "0001_a.json").read_text())
    baseline.refuse_another_machine(run_here(), document)
    document["lenet"]["fingerprint"] = "f2"
    with pytest.raises(pytest.UsageError) as refused:
        baseline.refuse_another_machine(run_here(), document)
    text = str(refused.value)
    assert text.startswith(
        "the baseline is of another machine or clock\n  found:  f2\n  wanted: f1, this one\n  differs: "
    )
    assert "cpu.model: 'X', not 'a CPU'" in text
    assert text.endswith("\n  next:   record a baseline here with `nox -s baseline`")


class _Session:
    """As much of a run's session as a comparison reads."""

    def __init__(self, path: Path, compared: Compared | None, slower: dict[str, str]) -> None:
        found = json.loads(path.read_text())["benchmarks"]
        self.names = [f"benchmarks/test_inference.py::test_inference[{number}]" for number in range(len(found))]
        self._found = dict(zip(self.names, found, strict=True))
        self._compared, self._slower = compared, slower
        self.pairs: dict[str, str] | None = None

    def entries(self) -> list[Entry]:
        return [Entry(name, name, {}, {}, 0.0, found) for name, found in self._found.items()]

    def compared(self) -> Compared | None:
        return self._compared

    def rules(self) -> tuple[str, ...]:
        return ("the min grows by more than 5 %",)

    def ruled_field(self) -> str:
        return "min"

    def compare_alone(self, pairs: dict[str, str]) -> dict[str, str]:
        self.pairs = pairs
        return self._slower


def test_what_measured_the_same_is_compared_and_what_is_slower_is_noted(tmp_path: Path) -> None:
    ours = saved(tmp_path, "0001_a.json", "pytorch", "tripy")
    theirs = json.loads(saved(tmp_path, "0002_a.json", "tripy").read_text())["benchmarks"]
    compared = Compared(tmp_path, {f"old::{number}": one for number, one in enumerate(theirs)})
    name = "benchmarks/test_inference.py::test_inference[2]"
    session = _Session(ours, compared, {name: "median: 12 %"})
    run = run_here()
    baseline.compare(cast("Session", session), run)
    assert session.pairs == {session.names[2]: "old::0", session.names[3]: "old::1"}
    assert run.matching is not None
    assert run.matching.alike == session.pairs
    assert run.regressed == {"2": "median: 12 %"}
    assert [(one.name, one.label, one.field) for one in run.compared] == [
        ("2", "tripy forward fp32 1000", "min"),
        ("3", "tripy e2e pinned fp32 1000", "min"),
    ]
    for then, now, distinct in (((0.9, 1.1), (1.2, 1.3), True), ((0.9, 1.1), (1.0, 1.3), False)):
        for one, (low, high) in ((theirs[0], then), (session._found[session.names[2]], now)):
            one["extra_info"]["summary"] |= {"median_low": low, "median_high": high}
        again = run_here()
        baseline.compare(cast("Session", session), again)
        assert again.compared[0].distinct == distinct
    untouched = run_here()
    baseline.compare(cast("Session", _Session(ours, None, {})), untouched)
    assert untouched.matching is None


def test_each_part_of_a_comparison_is_told() -> None:
    run = run_here()
    assert list(baseline.told(run)) == []
    name = "benchmarks/test_inference.py::test_inference"
    run.matching = Matching(
        {f"{name}[a]": f"{name}[a]"}, {f"{name}[b]": "images"}, (f"{name}[c]",), (f"{name}[d]", f"{name}[e]")
    )
    run.regressed = {"a": "median: 12 %"}
    assert list(baseline.told(run)) == [
        "  not compared, under other conditions in the baseline (1): b: images",
        "  not in the baseline (1): c",
        "  only in the baseline (2): d, e",
    ]
    run.rules = ("the min grows by more than 5 %", "the median grows by more than 5 %")
    assert list(baseline.told(run))[-1] == "Slower than the baseline: a: median: 12 %", "the table has not which rule"
    run.matching = Matching({}, {}, (), ("gone",))
    assert next(iter(baseline.told(run))) == "  only in the baseline (1): gone"
    assert list(baseline.told(run))[-1] == "Nothing in the baseline measured the same: the comparison has failed."


def test_a_comparison_has_the_worst_row_first_and_the_rule_in_words() -> None:
    run = run_here()
    assert baseline.sheet(run) is None
    run.baseline = "0001_before.json"
    figures = {"a": (1.0, 0.8), "b": (1.0, 1.2), "c": (1.0, 1.5), "d": (0.0, 1.0)}
    run.compared = [
        run_module.Compared(name, f"row {name}", "median", then, now, distinct=name != "c", unstable=name == "b")
        for name, (then, now) in figures.items()
    ]
    told = baseline.sheet(run)
    assert told is not None
    assert told.caption == "No rule: see --benchmark-compare-fail."
    assert [(line[0], *line[3:]) for line in told.lines] == [
        ("row d", "+inf %", "slower"),
        ("row c", "+50.0 %", "no claim"),
        ("row b", "+20.0 % !", "no claim"),
        ("row a", "-20.0 %", "faster"),
    ]
    run.rules, run.regressed = ("the median grows by more than 30 %",), {"c": "it grew"}
    told = baseline.sheet(run)
    assert told is not None
    assert told.caption == "Fails if the median grows by more than 30 %."
    assert [line[-1] for line in told.lines] == ["passed", "FAILED", "passed", "passed"]
    assert all(len(line) <= 80 for line in render(to_rich(told)).splitlines())
