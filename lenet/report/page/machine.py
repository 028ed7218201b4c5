"""The page's part about one machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lenet.report import words
from lenet.report.charts import Chart, Painter, draw_bars
from lenet.report.language import Language
from lenet.report.page import machine_charts, sheets
from lenet.report.page.facts import Fact, machine_facts, machine_name, packages, protocols
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
)
from lenet.results import Measurement, Row

__all__ = ["MachinePart", "Speed", "machine_part"]


@dataclass(frozen=True, slots=True)
class Speed:
    """Rows under the same conditions: their table, chart and analysis."""

    sheet: Sheet
    chart: Chart
    changes: Sequence[str]


@dataclass(frozen=True, slots=True)
class MachinePart:
    """The page's content for one machine."""

    anchor: str
    name: str
    fingerprint: str
    facts: Sequence[Fact]
    packages: Sequence[Fact]
    measurements: Sequence[Measurement]
    protocols: Sequence[str]
    unstable: Sequence[Fact]
    speeds: Sequence[Speed]
    rows: Sequence[Sheet]
    beside: Sheet | None
    boxes: Sequence[Chart]
    scaling: Sequence[Chart]
    limits: str
    floors: Sheet | None
    rooflines: Sequence[Chart]
    splits: Sequence[Chart]
    history: Sheet
    histories: Sequence[Chart]
    not_run: Mapping[str, Sequence[str]]


def machine_part(
    machine: Machine, rows: Sequence[Row], anchor: str, painter: Painter, language: Language
) -> MachinePart:
    """Make the content for one machine.

    Args:
        machine: The measurements.
        rows: The rows of the newest commit.
        anchor: A name that is unique on the page.
        painter: The page's painter.
        language: The page's language.
    """
    newest = machine.measurements[-1]
    limits = next((one.limits for one in reversed(machine.newest) if one.limits), None)
    speeds = [
        Speed(
            sheet,
            draw_bars(painter, group, conditions_title(group, language)),
            [*words.changes(group, language), *words.copy_share(group, language)],
        )
        for group, sheet in zip(speed_groups(rows), speed_sheets(rows, language), strict=True)
    ]
    return MachinePart(
        anchor=anchor,
        name=machine_name(newest.machine),
        fingerprint=newest.fingerprint,
        facts=machine_facts(newest.machine, language),
        packages=packages(newest.machine),
        measurements=machine.newest,
        protocols=protocols(rows, language),
        unstable=[(name, why) for row, name in zip(rows, row_names(rows), strict=True) for why in row.unstable],
        speeds=speeds,
        rows=rows_sheets(rows, language) if rows else (),
        beside=sheets.beside_published_sheet(rows, language),
        boxes=machine_charts.boxes(rows, painter, language),
        scaling=machine_charts.scaling(rows, painter, language),
        limits=limits_line(limits, language) if limits else "",
        floors=sheets.floor_sheet(rows, language),
        rooflines=machine_charts.rooflines(rows, limits, painter, language) if limits else (),
        splits=machine_charts.splits(rows, limits, painter, language),
        history=sheets.history_sheet(machine.measurements, language),
        histories=machine_charts.histories(machine.measurements, painter, language),
        not_run=group_reasons(machine.not_run),
    )
