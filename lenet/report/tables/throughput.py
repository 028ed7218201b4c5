"""The table of throughput rows: images a second, and latencies under that load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lenet.report.language import ENGLISH, Language
from lenet.report.rounding import count, percent, significant, thousands
from lenet.report.tables.names import MARK, limit_name, row_name
from lenet.report.tables.sheet import NOTHING, Sheet, of_columns, without_empty_columns
from lenet.results import Row

__all__ = ["throughput_in_short", "throughput_sheet", "throughput_sheets"]

_ROW, _RATE, _DEPTH, _TIME, _P50, _P95, _P99, _COPIES, _PASSES, _SHARE = range(10)


def throughput_sheet(rows: Sequence[Row], language: Language = ENGLISH) -> Sheet | None:
    """A line for each throughput row, with a column for each figure that a row has. None if there is no such row."""
    sheet = _whole(rows, language)
    return sheet and without_empty_columns(sheet)


def throughput_in_short(rows: Sequence[Row]) -> Sheet | None:
    """The table of a run's end, which fits 80 columns."""
    sheet = _whole(rows, ENGLISH)
    return sheet and of_columns(sheet, (_ROW, _RATE, _DEPTH, _TIME, _P50, _P99, _SHARE))


def throughput_sheets(rows: Sequence[Row]) -> list[Sheet]:
    """Two tables with every figure: one of rates and one of latencies and parts. Each fits 80 columns."""
    sheet = _whole(rows, ENGLISH)
    if sheet is None:
        return []
    rates = of_columns(sheet, (_ROW, _RATE, _DEPTH, _TIME, _SHARE))
    latencies = of_columns(sheet, (_ROW, _P50, _P95, _P99, _COPIES, _PASSES))
    return [replace(rates, caption=""), replace(without_empty_columns(latencies), title=f"{sheet.title}, ms")]


def _whole(rows: Sequence[Row], language: Language) -> Sheet | None:
    """The table with every column."""
    text = language.text
    lines = tuple(_line(row, language) for row in rows if row.throughput is not None)
    if not lines:
        return None
    latency = text("latency")
    columns = (
        *(text("row"), text("images/s"), text("in\nflight"), text("ms/batch")),
        *(f"{latency}\n{share}" for share in ("p50", "p95", "p99")),
        *(text("copies\nalone"), text("passes\nalone"), text("of the\nfloor")),
    )
    notes = [
        text(
            "batches from the host, several in flight; images/s: of the median window; latency: ms from a batch's "
            "submission until its logits are ready"
        )
    ]
    if any(line[_COPIES] != NOTHING for line in lines):
        notes.append(text("alone: ms/batch of the copies or of the forward passes in the same ring"))
    if any(line[_SHARE] != NOTHING for line in lines):
        notes.append(text("of the floor: the rate as a share of what the nearest of the machine's limits allows"))
    return Sheet(text("Throughput"), columns, lines, "; ".join(notes))


def _line(row: Row, language: Language) -> tuple[str, ...]:
    number, found = language.number, row.throughput
    assert found is not None

    def milliseconds(seconds: float | None) -> str:
        return NOTHING if seconds is None else number(significant(1e3 * seconds))

    mark = MARK if row.unstable else ""
    share = NOTHING
    if row.floor is not None and row.times_floor is not None:
        limit = limit_name(row.floor.term, language)
        share = f"{number(percent(1 / row.times_floor))} %\n{limit}{mark}"
    return (
        row_name(row.case),
        number(thousands(row.images_per_second)) + mark,
        number(count(found.depth)),
        milliseconds(row.summary.median) + mark,
        *map(milliseconds, (found.latency_p50, found.latency_p95, found.latency_p99)),
        *map(milliseconds, (found.copy_alone, found.forward_alone)),
        share,
    )
