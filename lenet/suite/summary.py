"""Print the summary at the end of a run."""

from __future__ import annotations

import io
from collections.abc import Iterable

import pytest

from lenet.report.rounding import significant
from lenet.report.tables import limits_line, remarks, rows_sheets, sheet_5, to_rich
from lenet.results import Row, speedup
from lenet.suite import baseline
from lenet.suite.bridge import Entry, Session
from lenet.suite.run import Run, rows_of
from lenet.terminal import Terminal
from lenet.vocabulary import BASELINE_BACKEND

__all__ = ["print_summary"]


def print_summary(reporter: pytest.TerminalReporter, run: Run, session: Session) -> None:
    """Print the tables, then remarks on the run."""
    text = io.StringIO()
    console = Terminal(file=text, width=reporter._tw.fullwidth, color_system=None)  # noqa: SLF001 - no public one
    rows = rows_of(session)
    others = run.pytorch.rows if run.pytorch else ()
    for entry in session.entries():
        if "case" not in entry.extra_info:
            console.print(_other(entry), highlight=False, markup=False)
    if rows:
        if run.limits:
            console.print(limits_line(run.limits), highlight=False)
        console.print(*map(to_rich, rows_sheets(rows, others=others)), crop=False)
    for remark in remarks(rows):
        console.print(f"! {remark}", highlight=False, markup=False)
    console.print(sheet_5(rows, list(run.not_run.values()), others=others), crop=False)
    if run.partial:
        console.print("The run was interrupted: rows are missing.")
    if run.verdict:
        console.print(run.verdict)
    unsaved = (f"Not saved: {error}" for error in run.unsaved)
    for line in (*_speedups(run, rows), *baseline.told(run), *unsaved):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    reporter.section("LeNet")
    reporter.write(text.getvalue())


def _other(entry: Entry) -> str:
    """The line of a case that is not an inference row."""
    facts = ", ".join(f"{key} {value}" for key, value in entry.extra_info.items() if value not in ({}, None))
    median = f"{significant(1e3 * entry.median, 4)} ms"
    return f"{entry.name}: {median}{f' ({facts})' if facts else ''}"


def _speedups(run: Run, rows: list[Row]) -> Iterable[str]:
    """The lines that say where speed-ups come from, if not from this run's own PyTorch row."""
    lone = [row for row in rows if row.case.backend != BASELINE_BACKEND and speedup(row, rows) is None]
    if not lone:
        return
    if run.pytorch is not None:
        yield f"Speed-ups are over {BASELINE_BACKEND} as saved in {run.pytorch.path} ({run.pytorch.date})."
    if any(run.pytorch is None or speedup(row, run.pytorch.rows) is None for row in lone):
        yield (
            f"A row without a speed-up: {BASELINE_BACKEND} was not measured under its conditions, and no saved run of "
            f"this machine has it. Add --backend={BASELINE_BACKEND} to have both in one run."
        )
