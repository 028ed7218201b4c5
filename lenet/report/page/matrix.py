"""The page's overviews: runtimes by precision, and by batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lenet.report.charts import Painter
from lenet.report.language import Language
from lenet.report.rounding import count, significant
from lenet.report.tables import NOTHING, memory_name, mode_name
from lenet.report.words import undecided
from lenet.results import Case, Row
from lenet.vocabulary import ONE_BATCH_MODES, Mode, Precision

__all__ = ["Cell", "Matrix", "alike", "by_batch", "by_precision"]


@dataclass(frozen=True, slots=True)
class Cell:
    """A row's time in an overview.

    Attributes:
        text: The time.
        unstable: Whether the row may not be trusted.
        anchor: Where the page has the row.
        best: Whether it is the shortest of its column, with no other interval that meets its own.
    """

    text: str
    unstable: bool = False
    anchor: str = ""
    best: bool = False


@dataclass(frozen=True, slots=True)
class Matrix:
    """An overview.

    Attributes:
        title: What it shows.
        columns: Headings.
        lines: For each runtime its colour, its marker, its name and its cells.
        unstable: Whether a cell is marked.
    """

    title: str
    columns: Sequence[str]
    lines: Sequence[tuple[str, str, str, Sequence[Cell]]]
    unstable: bool


def by_precision(
    rows: Sequence[Row], like: Case, anchors: Mapping[Case, str], painter: Painter, language: Language
) -> list[Matrix]:
    """Milliseconds a batch by runtime and precision, for each mode, under the other conditions of a case.

    Args:
        rows: All rows of a machine.
        like: The case, of an end-to-end row if there is one.
        anchors: Where the page has each row.
        painter: The page's painter.
        language: The page's language.
    """
    known = [row for row in rows if alike(row.case, like, "batch_size")]
    columns = sorted({row.case.asked for row in known}, key=_precision_place)
    unit = language.text("ms/batch")
    batch = language.text("batch %(batch)s", batch=language.number(count(like.batch_size)))

    def time(row: Row) -> str:
        ran = "" if row.case.precision == row.case.asked else f" ({row.case.precision})"
        return language.number(significant(row.milliseconds_per_batch)) + ran

    return _matrices(known, columns, lambda row: row.case.asked, time, (batch, unit), anchors, painter, language)


def by_batch(
    rows: Sequence[Row], like: Case, anchors: Mapping[Case, str], painter: Painter, language: Language
) -> list[Matrix]:
    """Microseconds an image by runtime and batch size, for each mode; arguments as for `by_precision`."""
    known = [row for row in rows if alike(row.case, like, "asked")]
    columns = sorted({row.case.batch_size for row in known})

    def time(row: Row) -> str:
        return language.number(significant(row.microseconds_per_image))

    unit = language.text("us/image")
    return _matrices(
        known, columns, lambda row: row.case.batch_size, time, (like.asked, unit), anchors, painter, language
    )


def _matrices(
    rows: Sequence[Row],
    columns: Sequence[Any],
    column_of: Callable[[Row], Any],
    time: Callable[[Row], str],
    titles: tuple[str, str],
    anchors: Mapping[Case, str],
    painter: Painter,
    language: Language,
) -> list[Matrix]:
    found = []
    for mode in ONE_BATCH_MODES:
        own = [row for row in rows if row.case.mode is mode]
        best = {_best([row for row in own if column_of(row) == column]) for column in columns}
        cells: dict[str, dict[Any, Cell]] = {}
        for row in own:
            cell = Cell(time(row), bool(row.unstable), anchors.get(row.case, ""), best=row.case in best)
            cells.setdefault(row.case.backend, {})[column_of(row)] = cell
        if cells:
            names = sorted(cells, key=painter.place)
            lines = [
                (painter.color(name), painter.marker(name), name,
                 [cells[name].get(column, Cell(NOTHING)) for column in columns])
                for name in names
            ]  # fmt: skip
            unstable = any(row.unstable for row in own)
            heads = [column if isinstance(column, str) else language.number(count(column)) for column in columns]
            found.append(Matrix(_title(own[0].case, titles, language), heads, lines, unstable))
    return found


def _title(case: Case, titles: tuple[str, str], language: Language) -> str:
    memory = [memory_name(case.host_memory, language)] if case.host_memory else []
    return ", ".join((mode_name(case.mode, language), titles[0], *memory, titles[1]))


def _best(rows: Sequence[Row]) -> Case | None:
    """The case that is faster than all others beyond doubt, if there is one."""
    if len(rows) < 2 or any(row.unstable for row in rows):  # noqa: PLR2004 - nothing to compare with
        return None
    ordered = sorted(rows, key=lambda row: row.summary.median)
    return None if undecided(ordered) else ordered[0].case


def alike(case: Case, like: Case, fixed: str) -> bool:
    """Whether a case shares a case's conditions: a field that stays, and all that no overview varies."""
    names = ("device", "images", "cold_cache", "protocol", "input", "weights", fixed)
    memory = case.mode is Mode.FORWARD or case.host_memory == like.host_memory
    return memory and all(getattr(case, name) == getattr(like, name) for name in names)


def _precision_place(name: str) -> tuple[int, str]:
    known = list(Precision)
    return (known.index(Precision(name)) if name in known else len(known), name)
