"""A machine's history by commit: its measurements, and the median of each row over the commits."""

from __future__ import annotations

from collections.abc import Sequence

from lenet.report.charts import Chart, Painter, Trend, draw_lines
from lenet.report.language import Language
from lenet.report.page.grouping import grouped
from lenet.report.page.machine_charts import mode_title
from lenet.report.rounding import count
from lenet.report.tables import Sheet
from lenet.results import Measurement, merge

__all__ = ["charts", "commits", "history_sheet"]


def commits(measurements: Sequence[Measurement]) -> list[list[Measurement]]:
    """A machine's measurements by commit, the oldest first. A measurement of unknown sources stands alone."""
    return grouped(measurements, lambda one: one.path if one.of_unknown_sources else one.commit)


def history_sheet(measurements: Sequence[Measurement], language: Language) -> Sheet:
    """The measurements of a machine by commit, the oldest first."""
    text, number = language.text, language.number
    lines = tuple(
        (
            (group[0].commit or text("unknown"))[:12] if place == 0 else "",
            one.date[:19].replace("T", " "),
            number(count(len(one.rows))),
            one.flaw or text("whole"),
            one.path.name,
        )
        for group in commits(measurements)
        for place, one in enumerate(group)
    )
    columns = (text("commit"), text("date"), text("rows"), text("state"), text("file"))
    return Sheet(text("Measurements by commit"), columns, lines)


def charts(measurements: Sequence[Measurement], painter: Painter, language: Language) -> list[Chart]:
    """The median of each row over a machine's commits, for rows that two or more of them have."""
    groups = commits(measurements)
    ticks = [f"{group[-1].date[5:10]} {(group[-1].commit or '?')[:7]}" for group in groups]
    places = [(place, row) for place, group in enumerate(groups) for row in merge(group)]
    drawn = []
    for alike in grouped(places, lambda placed: placed[1].case.conditions()):
        trends = []
        for line in grouped(alike, lambda placed: placed[1].case.backend):
            rows = dict(line)
            if len(rows) > 1:
                times = [row.milliseconds_per_batch for row in rows.values()]
                unstable = [bool(row.unstable) for row in rows.values()]
                trends.append(Trend(line[0][1].case.backend, list(rows), times, unstable))
        if trends:
            labels = ("", language.text("ms/batch"))
            drawn.append(draw_lines(painter, trends, mode_title(alike[0][1], language), labels, ticks=ticks))
    return drawn
