"""What pytest shows while the cases run: one updating line, or a short line for each case without a terminal.

With ``-v`` and ``-q`` pytest shows its own lines.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeAlias

import pytest

from lenet.report.rounding import significant
from lenet.report.tables import MARK
from lenet.results import short_name
from lenet.suite.bridge import Session
from lenet.terminal import visible
from lenet.vocabulary import InputType, Mode, threads_words

__all__ = ["Progress"]

Status: TypeAlias = tuple[str, str, Any]
"""A report's category, letter and word."""


class Progress:
    """A plugin of pytest that shows the case under way and the latest result.

    Args:
        reporter: pytest's reporter.
        items: All cases of the run.
        session: Their benchmarks.
    """

    def __init__(self, reporter: pytest.TerminalReporter, items: Sequence[pytest.Item], session: Session) -> None:
        self._reporter = reporter
        self._session = session
        self._places = {item.nodeid: place for place, item in enumerate(items, 1)}
        self._names = {item.nodeid: _name(item) for item in items}
        self._result = ""
        # The lines below take the place of pytest's dots.
        reporter.showfspath = False
        reporter._show_progress_info = False  # noqa: SLF001 - no public one

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self) -> Generator[None, Status, Status]:
        """Keep pytest from writing a letter for each case."""
        category, _, _ = yield
        return category, "", ""

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Show the case under way, where the line can be replaced."""
        if self._reporter.isatty:
            before = f"; {self._result}" if self._result else ""
            self._replace(f"[{self._places[nodeid]}/{len(self._places)}] {self._names[nodeid]}{before}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Show a result. A case that cannot run here is shown at the end, with the others of its reason."""
        if report.skipped or (report.when != "call" and not report.failed):
            return
        name, place = self._names[report.nodeid], self._places[report.nodeid]
        self._result = f"{name}: {'failed' if report.failed else _result(self._session, report.nodeid)}"
        if not self._reporter.isatty:
            self._reporter.write_line(f"[{place}/{len(self._places)}] {self._result}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Remove the updating line."""
        if self._reporter.isatty:
            self._replace("")
            self._reporter.write("\r")

    def _replace(self, text: str) -> None:
        width = self._reporter._tw.fullwidth - 1  # noqa: SLF001 - no public one
        self._reporter.rewrite(visible(text)[:width], erase=True)


def _name(item: pytest.Item) -> str:
    """A case in a few words, as `lenet.report.tables.row_name` names its row."""
    found: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    if "mode" not in found:
        return short_name(item.name)
    names = {Mode.FORWARD: "forward", Mode.END_TO_END: f"e2e {found['host_memory']}", Mode.THROUGHPUT: "throughput"}
    mode = names[found["mode"]]
    kind = " uint8" if found["input_type"] == InputType.UINT8 else ""
    kind += f" {threads_words(found['threads'])}" if "threads" in found else ""
    return f"{found['backend_name']} {mode} {found['precision']} {found['batch_size']}{kind}"


def _result(session: Session, nodeid: str) -> str:
    found = next((entry for entry in reversed(session.entries()) if entry.fullname == nodeid), None)
    if found is None:
        return "done"
    mark = MARK if found.extra_info.get("unstable") else ""
    return f"{significant(1e3 * found.median)} ms{mark}"
