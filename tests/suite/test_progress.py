"""What pytest shows while cases run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from lenet.suite.bridge import Entry, Session
from lenet.suite.progress import Progress
from lenet.vocabulary import Mode

PARAMETERS = {
    "backend_name": "pytorch",
    "mode": Mode.FORWARD,
    "precision": "fp32",
    "batch_size": 100,
    "host_memory": "pinned",
    "input_type": "float32",
}


class Reporter:
    """As much of pytest's reporter as the progress uses."""

    def __init__(self, *, isatty: bool, width: int = 80) -> None:
        self.isatty = isatty
        self._tw = SimpleNamespace(fullwidth=width)
        self.lines: list[str] = []

    def rewrite(self, line: str, *, erase: bool) -> None:
        assert erase
        self.lines.append(line)

    def write(self, text: str) -> None:
        assert text == "\r"

    def write_line(self, line: str) -> None:
        self.lines.append(line)


def item(nodeid: str, **changed: Any) -> Any:
    params = PARAMETERS | changed
    return SimpleNamespace(nodeid=nodeid, name=nodeid, callspec=SimpleNamespace(params=params))


def report(nodeid: str, when: str = "call", outcome: str = "passed") -> Any:
    return SimpleNamespace(nodeid=nodeid, when=when, skipped=outcome == "skipped", failed=outcome == "failed")


def shown(reporter: Reporter) -> list[str]:
    entries = [Entry("a", "a", {}, {"unstable": ["x"]}, 0.0079, {}), Entry("b", "b", {}, {"unstable": []}, 0.001, {})]
    session = cast("Session", SimpleNamespace(entries=lambda: entries))
    memory = {"mode": Mode.END_TO_END, "input_type": "uint8"}
    other = SimpleNamespace(nodeid="d", name="test_build[pytorch]")
    items = [item("a"), item("b", **memory), item("c", batch_size=1), other]
    progress = Progress(cast("pytest.TerminalReporter", reporter), items, session)
    outcomes = {"a": "passed", "b": "passed", "c": "skipped", "d": "failed"}
    for nodeid, outcome in outcomes.items():
        progress.pytest_runtest_logstart(nodeid)
        progress.pytest_runtest_logreport(report(nodeid, "setup"))
        progress.pytest_runtest_logreport(report(nodeid, outcome=outcome))
    progress.pytest_sessionfinish()
    return reporter.lines


def test_without_a_terminal_each_finished_case_is_a_line() -> None:
    assert shown(Reporter(isatty=False)) == [
        "[1/4] pytorch forward fp32 100: 7.90 ms !",
        "[2/4] pytorch e2e pinned fp32 100 uint8: 1.00 ms",
        "[4/4] build pytorch: failed",
    ]


@pytest.mark.parametrize("width", [40, 80])
def test_on_a_terminal_one_line_tells_the_case_and_the_latest_result(width: int) -> None:
    lines = shown(Reporter(isatty=True, width=width))
    assert lines == [
        text[: width - 1]
        for text in (
            "[1/4] pytorch forward fp32 100",
            "[2/4] pytorch e2e pinned fp32 100 uint8; pytorch forward fp32 100: 7.90 ms !",
            "[3/4] pytorch forward fp32 1; pytorch e2e pinned fp32 100 uint8: 1.00 ms",
            "[4/4] build pytorch; pytorch e2e pinned fp32 100 uint8: 1.00 ms",
            "",
        )
    ]
