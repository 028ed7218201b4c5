"""The page's part about one machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lenet.report import overlapped, words
from lenet.report.charts import Chart, Painter, draw_bars
from lenet.report.language import Language
from lenet.report.page import history, machine_charts, sheets
from lenet.report.page.answer import Answer, answer_part
from lenet.report.page.facts import Fact, brief_facts, machine_facts, packages, protocols
from lenet.report.page.matrix import Matrix, alike, by_batch, by_precision
from lenet.report.sources import Machine
from lenet.report.tables import (
    Sheet,
    conditions_title,
    group_reasons,
    limits_line,
    row_names,
    rows_sheets,
    speed_groups,
    speed_sheets,
    throughput_sheet,
    without_empty_columns,
)
from lenet.report.tables.doubts import doubts
from lenet.results import Case, Measurement, Row

__all__ = ["MachinePart", "Speed", "machine_part"]


@dataclass(frozen=True, slots=True)
class Speed:
    """Rows under the same conditions: their table, chart and analysis."""

    sheet: Sheet
    chart: Chart
    changes: Sequence[str]


@dataclass(frozen=True, slots=True)
class MachinePart:
    """The page's content for one machine.

    Attributes:
        row_ids: The anchor of each row, in the order of the first of the ``rows`` tables.
        unstable: For each reason not to trust rows, the anchor and the name of each of the rows.
        answer_charts: The parts and the rounds of the ``answer``'s rows.
        copies_overlap: Whether a throughput row copies its images.
        others: The conditions besides the ``answer``'s. The charts of rounds and of parts are theirs.
    """

    anchor: str
    name: str
    fingerprint: str
    brief: Sequence[Fact]
    facts: Sequence[Fact]
    packages: Sequence[Fact]
    measurements: Sequence[Measurement]
    protocols: Sequence[str]
    unstable: Mapping[str, Sequence[tuple[str, str]]]
    answer: Answer | None
    precisions: Sequence[Matrix]
    batches: Sequence[Matrix]
    batch_charts: Sequence[Chart]
    answer_charts: Sequence[Chart]
    others: Sequence[Speed]
    rows: Sequence[Sheet]
    row_ids: Sequence[str]
    beside: Sheet | None
    boxes: Sequence[Chart]
    scaling: Sequence[Chart]
    sweeps: Sequence[Chart]
    energies: Sequence[Chart]
    limits: str
    floors: Sheet | None
    rooflines: Sequence[Chart]
    splits: Sequence[Chart]
    throughput: Sheet | None
    rates: Sequence[Chart]
    copies_overlap: bool
    overlapped: Sequence[str]
    history: Sheet
    histories: Sequence[Chart]
    not_run: Mapping[str, Sequence[str]]


def machine_part(
    machine: Machine, rows: Sequence[Row], name: str, anchor: str, painter: Painter, language: Language
) -> MachinePart:
    """Make the content for one machine, with the rows of its newest commit, its name and a unique anchor."""
    newest = machine.measurements[-1]
    limits = next((one.limits for one in reversed(machine.newest) if one.limits), None)
    anchors = {row.case: f"{anchor}-row-{place}" for place, row in enumerate(rows, 1)}
    answer = answer_part(rows, painter, language)
    like, group = (answer.like, answer.group) if answer else (None, ())
    others = [one for one in speed_groups(rows) if one != group]
    main = [row for row in rows if like is not None and alike(row.case, like, "asked")]
    return MachinePart(
        anchor=anchor,
        name=name,
        fingerprint=newest.fingerprint,
        brief=brief_facts(newest, language),
        facts=machine_facts(newest.machine, language),
        packages=packages(newest.machine),
        measurements=machine.newest,
        protocols=protocols(rows, language),
        unstable=_unstable(rows, anchors),
        answer=answer,
        precisions=by_precision(rows, like, anchors, painter, language) if like else (),
        batches=by_batch(rows, like, anchors, painter, language) if like else (),
        batch_charts=machine_charts.scaling(main, painter, language),
        others=_speeds(rows, others, painter, language),
        rows=rows_sheets(rows, language) if rows else (),
        row_ids=[anchors[row.case] for row in rows],
        beside=sheets.beside_published_sheet(rows, language),
        boxes=machine_charts.boxes([row for row in rows if row not in group], painter, language),
        scaling=machine_charts.scaling([row for row in rows if row not in main], painter, language),
        sweeps=machine_charts.sweeps(rows, painter, language),
        energies=machine_charts.energies(rows, painter, language),
        limits=limits_line(limits, language) if limits else "",
        floors=sheets.floor_sheet(rows, language),
        rooflines=machine_charts.rooflines(rows, limits, painter, language) if limits else (),
        answer_charts=machine_charts.parts_and_rounds(group, limits, painter, language),
        splits=machine_charts.splits(others, limits, painter, language),
        throughput=throughput_sheet(rows, language),
        rates=machine_charts.rates(rows, painter, language),
        copies_overlap=any(row.throughput and row.throughput.copy_alone is not None for row in rows),
        overlapped=[*overlapped.gains(rows, language), *overlapped.pace(rows, language)],
        history=history.history_sheet(machine.measurements, language),
        histories=history.charts(machine.measurements, painter, language),
        not_run=group_reasons(machine.not_run),
    )


def _speeds(rows: Sequence[Row], groups: Sequence[Sequence[Row]], painter: Painter, language: Language) -> list[Speed]:
    """The content for some of a machine's groups of rows."""
    return [
        Speed(
            without_empty_columns(sheet),
            draw_bars(painter, group, conditions_title(group, language)),
            [*words.changes(group, language), *words.copy_share(group, language)],
        )
        for group, sheet in zip(speed_groups(rows), speed_sheets(rows, language), strict=True)
        if group in groups
    ]


def _unstable(rows: Sequence[Row], anchors: Mapping[Case, str]) -> dict[str, list[tuple[str, str]]]:
    """Each reason not to trust a row once, with the rows."""
    rows_told = [(anchors[row.case], name) for row, name in zip(rows, row_names(rows), strict=True)]
    return {doubt.text: [rows_told[place] for place in doubt.places] for doubt in doubts(rows)}
