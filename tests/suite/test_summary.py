"""What is printed at the end of a run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lenet.errors import OutputError
from lenet.results import NotRun
from lenet.suite import summary
from lenet.suite.bridge import Entry, Session
from lenet.suite.run import Run
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
