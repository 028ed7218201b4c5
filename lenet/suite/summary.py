"""Print the summary at the end of a run."""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from lenet.provenance import program
from lenet.report.rounding import significant
from lenet.report.tables import brief, details, limits_line, tight
from lenet.results import FAILED, Row, is_local, speedup
from lenet.suite import baseline
from lenet.suite.bridge import Entry, Session
from lenet.suite.run import Run, rows_of
from lenet.terminal import Terminal
from lenet.vocabulary import BASELINE_BACKEND, ONE_BATCH_MODES

__all__ = ["failure", "hide_what_is_told", "print_summary"]


def hide_what_is_told(stats: dict[str, list[Any]], run: Run) -> None:
    """Take the skipped cases and the libraries' warnings out of what pytest lists. The summary tells them in short.

    Args:
        stats: pytest's reports by category.
        run: The run.
    """
    stats["skipped"] = [report for report in stats.get("skipped", ()) if report.nodeid not in run.not_run]
    warnings = stats.get("warnings", [])
    stats["warnings"] = [report for report in warnings if not report.nodeid]  # a case's report has its name
    if hidden := len(warnings) - len(stats["warnings"]):
        run.notes.append(f"Warnings of libraries: {hidden}; -v shows them.")


def failure(run: Run) -> str | None:
    """Why the run as a whole failed, in a few words. None if only pytest knows."""
    failed = sum(item.reason.startswith(FAILED) for item in run.not_run.values())
    slower = f"{len(run.regressed)} of {len(run.compared)} rows are slower than the baseline"
    reasons = (
        run.verdict.rstrip(".") if run.verdict else None,
        slower if run.regressed else None,
        "nothing in the baseline measured the same" if run.matching and not run.matching.alike else None,
        f"cases that failed: {failed}" if failed else None,
        "the run could not be saved" if run.unsaved else None,
    )
    return "; ".join(filter(None, reasons)) or None


def print_summary(reporter: pytest.TerminalReporter, run: Run, session: Session, *, verbose: bool = False) -> None:
    """Print the tables, what follows from them, and the next command.

    Args:
        reporter: Takes the text.
        run: The run.
        session: Its benchmarks.
        verbose: Print all figures as well.
    """
    text = io.StringIO()
    console = Terminal(file=text, width=reporter._tw.fullwidth, color_system=None)  # noqa: SLF001 - no public one
    rows = rows_of(session)
    others = run.pytorch.rows if run.pytorch else ()
    missing = list(run.not_run.values())

    def say(lines: Iterable[str]) -> None:
        for line in lines:  # not broken here, so that paths and commands can be copied
            console.print(line, highlight=False, markup=False, soft_wrap=True)

    say(_other(entry) for entry in session.entries() if "case" not in entry.extra_info)
    if verbose:
        say([limits_line(run.limits)] if rows and run.limits else ())
        console.print(details(rows, missing, others=others), crop=False)
        console.print()
    console.print(brief(rows, missing, others=others, cause=run.cause), crop=False)
    table = baseline.sheet(run)
    if table:
        console.print(tight(table), crop=False)
    say((*_speedups(run, rows), *run.notes, *baseline.told(run), *_ending(run)))
    reporter.section("LeNet")
    reporter.write(text.getvalue())


def _other(entry: Entry) -> str:
    """The line of a case that is not an inference row."""
    facts = ", ".join(f"{key} {value}" for key, value in entry.extra_info.items() if value not in ({}, None))
    median = f"{significant(1e3 * entry.median, 4)} ms"
    return f"{entry.name}: {median}{f' ({facts})' if facts else ''}"


def _ending(run: Run) -> Iterable[str]:
    """How the run ended, where it is saved, and what to type next."""
    if run.partial:
        yield "The run was interrupted: rows are missing."
    if run.verdict:
        yield run.verdict
    yield from (f"Not saved: {error}" for error in run.unsaved)
    if run.saved is not None:
        yield f"Saved: {_short(run.saved)}"
        lenet, place = program("lenet"), _place(run.saved)
        yield f"Next, every figure: `{lenet} results{place} --details`"
        yield f"Next, a page: `{lenet} report{place}`"


def _place(saved: Path) -> str:
    """The option that finds a saved run. Empty if it lies where commands look by themselves."""
    folder = saved.parent.parent
    storage = folder.parent if is_local(saved) else folder
    return (
        ""
        if storage.absolute() == Path(".benchmarks").absolute()
        else f" --storage {shlex.quote(str(_short(storage)))}"
    )


def _short(path: Path) -> Path:
    """The path from here, if it is below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _speedups(run: Run, rows: list[Row]) -> Iterable[str]:
    """The lines that say where ratios come from, if not from this run's own PyTorch row."""
    shown = [row for row in rows if row.case.mode in ONE_BATCH_MODES]
    lone = [row for row in shown if row.case.backend != BASELINE_BACKEND and speedup(row, rows) is None]
    if not lone:
        return
    if run.pytorch is not None:
        yield f"Ratios are to {BASELINE_BACKEND} as saved in {run.pytorch.path} ({run.pytorch.moment})."
    if any(run.pytorch is None or speedup(row, run.pytorch.rows) is None for row in lone):
        yield (
            f"A row without a ratio: {BASELINE_BACKEND} was not measured under its conditions, and no saved run of "
            f"this machine has it. Add --backend={BASELINE_BACKEND} to have both in one run."
        )
