"""What a run says in a few lines: the coursework's tables, the fastest runtime, doubts, and what did not run.

English only: it is for the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from lenet import backends
from lenet.report.language import ENGLISH
from lenet.report.rounding import count, ratio
from lenet.report.tables.doubts import doubts
from lenet.report.tables.names import MARK, memory_name, runtime_name
from lenet.report.tables.not_run import first_names, group_reasons
from lenet.report.tables.sheet import Sheet, to_rich, without_empty_columns
from lenet.report.tables.speed import distance, narrow_speed_sheets, shared_notes, speed_groups, telling_case
from lenet.report.tables.throughput import throughput_in_short
from lenet.report.words import undecided, without_interval
from lenet.results import FAILED, NotRun, Row, pytorch_row
from lenet.vocabulary import BASELINE_BACKEND, ONE_BATCH_MODES, Mode

__all__ = ["brief", "fastest", "noise", "not_run_in_short", "tight"]

_MOST: Final = 4
"""Most sentences about the fastest runtime."""

_MODES: Final = {Mode.FORWARD: "forward", Mode.END_TO_END: "end to end"}


def brief(
    rows: Sequence[Row], missing: Sequence[NotRun] = (), *, others: Sequence[Row] = (), cause: str | None = None
) -> RenderableType:
    """The coursework's tables and a few sentences, for the terminal.

    Args:
        rows: The measured rows.
        missing: The cases that did not run.
        others: As for `lenet.report.tables.speed_sheets`.
        cause: What disturbed the whole run, and what to do, if that is known.
    """
    sheets = narrow_speed_sheets(rows, others=others)
    said = fastest(rows, others=others)
    left = len(said) - _MOST
    more = [f"{left} more condition{'s' if left > 1 else ''}: see the tables."] if left > 0 else []
    lines = (*noise(rows, cause), *islice(said, _MOST), *more, *not_run_in_short(missing))
    one_batch = [row for row in rows if row.case.mode in ONE_BATCH_MODES]
    # The last table has the notes of all.
    captions = [*[""] * (len(sheets) - 1), shared_notes(one_batch, ENGLISH)] if sheets else []
    tables = (tight(replace(sheet, caption=caption)) for sheet, caption in zip(sheets, captions, strict=True))
    sustained = throughput_in_short(rows)
    return Group(*tables, *([tight(sustained)] if sustained else []), *map(Text, lines))


def noise(rows: Sequence[Row], cause: str | None = None) -> list[str]:
    """How many rows are unstable, with the cause or else the most frequent reason. Empty if none is."""
    unstable = [row for row in rows if row.unstable]
    if not unstable:
        return []
    worst = doubts(unstable)[0]
    who = "" if len(worst.places) == len(unstable) else f"in {len(worst.places)} of them "
    verb = "row is" if len(rows) == 1 else "rows are"
    return [f"! {len(unstable)} of {len(rows)} {verb} unstable: {cause or who + worst.text}."]


def fastest(rows: Sequence[Row], *, others: Sequence[Row] = ()) -> list[str]:
    """A sentence for each condition and mode with several runtimes, those next to the coursework's condition first.

    What rests on an unstable row is marked.

    Args:
        rows: The measured rows.
        others: As for `lenet.report.tables.speed_sheets`.
    """
    said = []
    for group in sorted(speed_groups(rows), key=lambda group: distance(telling_case(group))):
        for mode, words in _MODES.items():
            alike = sorted((row for row in group if row.case.mode is mode), key=lambda row: row.summary.median)
            if len(alike) > 1:
                said.append(_fastest(alike, f"{words}, {_conditions(alike[0], rows)}", [*rows, *others]))
    return list(dict.fromkeys(said))


def not_run_in_short(missing: Iterable[NotRun]) -> list[str]:
    """One line for what needs an NVIDIA GPU, and one for the rest that did not run."""
    of_gpu: dict[str, str] = {}
    rest: dict[str, str] = {}
    for item in missing:
        (of_gpu if item.needs_gpu else rest)[item.name] = item.reason
    lines = []
    if of_gpu:
        names = (
            _backend(name) if reason.endswith("alone") else "end-to-end" if Mode.END_TO_END in name else "cold cache"
            for name, reason in of_gpu.items()
        )
        lines.append(f"Needs an NVIDIA GPU: {', '.join(dict.fromkeys(names))}.")
    if rest:
        groups = group_reasons(rest).items()
        told = (f"{first_names(_who(names, reason))}: {reason}" for reason, names in groups)
        lines.append(f"Did not run: {'; '.join(told)}")
    return lines


def tight(sheet: Sheet) -> RenderableType:
    """The table in few lines: without empty columns and lines around it."""
    short = _with_one_heading(without_empty_columns(sheet))
    table = to_rich(replace(short, title="", caption=""))
    table.show_edge = False
    return Group(Text(short.title, style="italic"), table, Text(short.caption))


def _with_one_heading(sheet: Sheet) -> Sheet:
    """The sheet with the upper line of its headings in the title, if all columns but the first share it."""
    first, *others = sheet.columns
    parts = [column.partition("\n") for column in others]
    upper = {above for above, _, _ in parts}
    if len(upper) != 1 or not all(below for _, _, below in parts):
        return sheet
    return replace(sheet, title=f"{sheet.title}, {upper.pop()}", columns=(first, *(below for _, _, below in parts)))


def _fastest(ordered: Sequence[Row], where: str, rows: Sequence[Row]) -> str:
    """The sentence about rows that may be compared, the fastest first."""
    if unclear := undecided(ordered):
        names = ", ".join(map(_marked, unclear))
        why = (
            f"the rounds of {names} give no 95 % interval"
            if without_interval(unclear)
            else (f"the 95 % intervals of {names} overlap")
        )
        return f"No fastest can be claimed, {where}: {why}"
    first, *rest = ordered
    baseline = rest[0] if first.case.backend == BASELINE_BACKEND else pytorch_row(first, rows)
    certain = " (unstable)" if first.unstable else ""
    said = f"Fastest here{certain}, {where}: {_marked(first)}"
    if baseline is None:
        return said
    factor = ratio(baseline.summary.median / first.summary.median)
    mark = MARK if first.unstable or baseline.unstable else ""
    return f"{said}, {factor}{mark} times as fast as {_marked(baseline)}"


def _marked(row: Row) -> str:
    return runtime_name(row.case) + (MARK if row.unstable else "")


def _conditions(row: Row, rows: Sequence[Row]) -> str:
    """The batch size of a row, and those of its conditions that not all rows share."""
    case = row.case
    parts = {
        "asked": case.asked,
        "input": f"{case.input} images",
        "host_memory": memory_name(case.host_memory, ENGLISH) if case.host_memory else "",
        "cold_cache": "cold cache" if case.cold_cache else "",
        "protocol": case.protocol,
        "device": case.device,
        "images": case.images,
        "weights": f"weights {case.weights[:12]}" if case.weights else "",
    }
    alike = [one.case for one in rows if one.case.mode is case.mode]
    told = [text for name, text in parts.items() if text and len({getattr(one, name) for one in alike}) > 1]
    return ", ".join([f"batch {count(case.batch_size)}", *told])


def _who(names: Sequence[str], reason: str) -> list[str]:
    """What did not run: the cases that failed, or else the backends."""
    return list(names if reason.startswith(FAILED) else dict.fromkeys(map(_backend, names)))


def _backend(name: str) -> str:
    """The backend of a case by the case's name, or that name."""
    case = name.rpartition(" ")[2]
    found = [one for one in backends.names() if case == one or case.startswith(f"{one}-")]
    return max(found, key=len, default=name)
