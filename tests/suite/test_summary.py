"""What is printed at the end of a run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lenet.errors import OutputError
from lenet.results import FAILED, Matching, NotRun
from lenet.suite import summary
from lenet.suite.bridge import Entry, Session
from lenet.suite.run import Compared, Run
from lenet.vocabulary import Mode
from tests.report import documents

FACTS: dict[str, Any] = {"cpu": {"model": "X", "usable": 1}}


def printed(run: Run, *entries: Entry, verbose: bool = False) -> str:
    """The text under the heading of the suite."""
    headings: list[str] = []
    texts: list[str] = []
    reporter = SimpleNamespace(_tw=SimpleNamespace(fullwidth=200), section=headings.append, write=texts.append)
    session = SimpleNamespace(entries=lambda: list(entries))
    summary.print_summary(cast("pytest.TerminalReporter", reporter), run, cast("Session", session), verbose=verbose)
    assert headings == ["LeNet"]
    return "".join(texts)


def test_what_is_to_be_said_of_a_run_is_printed_as_it_stands() -> None:
    """What looks like the markup of a library for terminals is text."""
    run = Run(FACTS)
    run.partial, run.verdict = True, "No inference row was measured: the run has failed."
    run.not_run = {"x": NotRun("tripy-forward", "no [bold]GPU")}
    run.unsaved = [OutputError("cannot write [red]a.json", found="no room", wanted="room", hint="free some")]
    copy = Entry("test_transfer[pinned]", "", {}, {"bytes": 12, "note": "[red]x", "nothing": None}, 0.0125, {})
    text = printed(run, copy)
    assert "test_transfer[pinned]: 12.50 ms (bytes 12, note [red]x)\n" in text
    assert "Did not run: tripy: no [bold]GPU\n" in text
    assert "Not run:\n  tripy-forward: no [bold]GPU\n" in printed(run, verbose=True)
    assert "The run was interrupted: rows are missing.\n" in text
    assert "No inference row was measured: the run has failed.\n" in text
    assert "Not saved: cannot write [red]a.json\n" in text


def test_rows_are_printed_with_their_doubts_and_the_machine_s_limits(tmp_path: Path) -> None:
    found = json.loads(documents.measurement(tmp_path / "a.json").read_text())["benchmarks"]
    found[0]["extra_info"]["unstable"] = ["the [red]median is not known"]
    run = Run(FACTS)
    run.limits = documents.LIMITS
    entries = [Entry("test_inference", "", {}, one["extra_info"], 0.0, one) for one in found]
    text = printed(run, *entries, verbose=True)
    assert "Limits, measured: fp32 2" in text
    assert "! pytorch forward fp32 1000: the [red]median is not known\n" in text
    assert "Published by the coursework" in text
    assert "test_inference: " not in text, "rows stand in the tables"


@pytest.mark.parametrize(("mode", "told"), [(Mode.FORWARD, True), (Mode.THROUGHPUT, False)])
def test_a_missing_ratio_is_told_where_a_table_has_ratios(tmp_path: Path, mode: Mode, *, told: bool) -> None:
    file = documents.measurement(tmp_path / "a.json", backends=["openvino"], modes=[mode])
    found = json.loads(file.read_text())["benchmarks"]
    text = printed(Run(FACTS), *(Entry("test_inference", "", {}, one["extra_info"], 0.0, one) for one in found))
    assert "openvino" in text
    assert ("Add --backend=pytorch" in text) == told


def test_why_a_run_failed_is_told_in_a_few_words() -> None:
    run = Run(FACTS)
    assert summary.failure(run) is None
    run.not_run = {"a": NotRun("a", f"{FAILED}wrong logits"), "b": NotRun("b", "needs a GPU")}
    assert summary.failure(run) == "cases that failed: 1"
    run.regressed = {"c": "it grew"}
    run.compared = [Compared("c", "row c", "median", 1.0, 2.0, distinct=True, unstable=False)] * 3
    run.matching = Matching({}, {}, (), ())
    run.unsaved = [OutputError("a", found="b", wanted="c", hint="d")]
    assert summary.failure(run) == (
        "1 of 3 rows are slower than the baseline; nothing in the baseline measured the same; cases that failed: 1; "
        "the run could not be saved"
    )
    run.verdict = "No row was measured."
    assert str(summary.failure(run)).startswith("No row was measured; 1 of 3")
    run.matching = Matching({"c": "c"}, {}, (), ())
    assert "nothing in the baseline" not in str(summary.failure(run))


def test_what_the_summary_tells_is_hidden_from_pytest_s_lists() -> None:
    run = Run(FACTS)
    run.not_run = {"a": NotRun("a", "needs a GPU")}
    reports = [SimpleNamespace(nodeid=name) for name in ("a", "b", "")]
    stats: dict[str, list[Any]] = {"skipped": reports[:2], "warnings": reports}
    summary.hide_what_is_told(stats, run)
    assert ([one.nodeid for one in stats["skipped"]], [one.nodeid for one in stats["warnings"]]) == (["b"], [""])
    assert run.notes == ["Warnings of libraries: 2; -v shows them."]
    summary.hide_what_is_told(stats, run)
    assert len(run.notes) == 1, "none is hidden now"


def test_where_a_run_is_saved_is_told_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run(FACTS)
    for folder, option in (
        (".benchmarks/local", ""),
        ("a b/local", " --storage 'a b'"),
        ("/elsewhere", " --storage /elsewhere"),
    ):
        shown = f"{folder}/cpu-x/1.json"
        run.saved = tmp_path / shown
        text = printed(run)
        assert text.count(f"lenet results{option} --details`\n") == text.count(f"lenet report{option}`\n") == 1
        assert f"Saved: {shown}\nNext, every figure: `" in printed(run)
