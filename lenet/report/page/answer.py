"""The page's first answer for a machine: the coursework's condition, the fastest runtime, and what to trust."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lenet.report import words
from lenet.report.charts import Chart, Painter, draw_bars
from lenet.report.language import Language
from lenet.report.rounding import accuracy, count
from lenet.report.sources import Machine, Sources
from lenet.report.tables import (
    Sheet,
    conditions_title,
    distance,
    speed_groups,
    speed_sheets,
    telling_case,
    without_empty_columns,
)
from lenet.results import Case, Row

__all__ = ["Answer", "Tile", "answer_part", "main_tiles"]


@dataclass(frozen=True, slots=True)
class Tile:
    """One of the page's main figures.

    Attributes:
        name: What it is.
        value: The figure.
        note: Where it comes from.
    """

    name: str
    value: str
    note: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows under one condition: their chart, their table and what they say.

    Attributes:
        group: The rows.
        like: The case of one that says most of the condition: of an end-to-end row, if there is one.
        usual: Whether the condition is the coursework's.
        chart: Their bars.
        sheet: Their table.
        fastest: Sentences about the fastest runtime.
        changes: Sentences about each runtime.
    """

    group: Sequence[Row]
    like: Case
    usual: bool
    chart: Chart
    sheet: Sheet
    fastest: Sequence[str]
    changes: Sequence[str]


def answer_part(rows: Sequence[Row], painter: Painter, language: Language) -> Answer | None:
    """The answer under the coursework's condition, or the nearest one; None without rows of one batch at a time."""
    groups = speed_groups(rows)
    if not groups:
        return None
    group = min(groups, key=lambda group: distance(telling_case(group)))
    like = telling_case(group)
    (sheet,) = (one for all_of, one in zip(groups, speed_sheets(rows, language), strict=True)
                if all_of == group)  # fmt: skip
    return Answer(
        group=group,
        like=like,
        usual=not any(distance(like)[:-2]),
        chart=draw_bars(painter, group, conditions_title(group, language)),
        sheet=without_empty_columns(sheet),
        fastest=words.fastest(group, language),
        changes=[*words.changes(group, language), *words.copy_share(group, language)],
    )


def main_tiles(sources: Sources, machine: Machine | None, rows: Sequence[Row], language: Language) -> Iterable[Tile]:
    """The page's main figures beside the answer.

    Args:
        sources: What the page shows.
        machine: The first machine, if there is one.
        rows: The rows of its newest commit.
        language: The page's language.
    """
    text, number = language.text, language.number
    if rows:
        yield _accuracy_tile(sources, rows, machine, language)
    if sources.parity is not None and sources.parity["backends"]:
        lines = sources.parity["backends"]
        right = sum(bool(line["right"]) for line in lines)
        share = f"{number(count(right))}/{number(count(len(lines)))}"
        yield Tile(text("Backends that are right"), share, text("logits within the tolerance of float64"))
    if rows:
        stable = number(count(sum(not row.unstable for row in rows)))
        value = text("%(stable)s of %(all)s", stable=stable, all=number(count(len(rows))))
        yield Tile(text("Rows that may be trusted"), value, text("the others are marked !"))


def _accuracy_tile(sources: Sources, rows: Sequence[Row], machine: Machine | None, language: Language) -> Tile:
    """The accuracy of the weights that were measured, where it is known for these very weights."""
    text = language.text
    name = text("Accuracy of the measured weights")
    digests = {row.case.weights for row in rows}
    if digests == {None}:
        return Tile(name, text("unknown"), text("the files do not name their weights"))
    if len(digests) > 1 or machine is None:
        return Tile(name, text("several"), text("rows of different weights: see each table"))
    (digest,) = digests
    shown = str(digest)[:12]
    if (found := _evaluated(sources.parity, digest)) is not None:
        return Tile(name, language.number(accuracy(found)), text("weights %(digest)s, evaluated", digest=shown))
    said = next((one.accuracy for one in reversed(machine.newest) if one.accuracy is not None), None)
    if said is None:
        return Tile(name, text("unknown"), text("weights %(digest)s", digest=shown))
    note = text("weights %(digest)s, as their file says", digest=shown)
    return Tile(name, language.number(accuracy(said)), note)


def _evaluated(parity: Mapping[str, Any] | None, digest: str | None) -> float | None:
    """PyTorch's accuracy with weights, if ``lenet evaluate`` was given the same."""
    if parity is None or parity.get("weights") != digest:
        return None
    return next((line["accuracy"] for line in parity["backends"] if line["backend"] == "pytorch"), None)
