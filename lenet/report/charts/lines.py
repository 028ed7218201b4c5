"""Charts of lines: times or rates with their bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lenet.report.charts.canvas import CHARACTER, Canvas
from lenet.report.charts.painter import Chart, Painter
from lenet.report.charts.scale import spanning
from lenet.report.charts.style import WIDTH, shortened

__all__ = ["Trend", "draw_lines"]

_HEIGHT = 262
"""Height of the axes with the space above them, in CSS pixels."""
_TURNED = 78
"""Space on the left for the name of the first place, in CSS pixels."""


@dataclass(frozen=True, slots=True)
class Trend:
    """A line of a chart.

    Attributes:
        name: Name of the series.
        x: Horizontal values.
        y: Vertical values.
        unstable: Whether each point is of a row that may not be trusted. Such points are hollow.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    unstable: Sequence[bool] = ()


def draw_lines(
    painter: Painter,
    trends: Sequence[Trend],
    title: str,
    labels: tuple[str, str],
    *,
    ticks: Sequence[str] = (),
    limits: Sequence[Trend] = (),
) -> Chart:
    """Lines with markers on a logarithmic vertical axis.

    Args:
        painter: The page's painter.
        trends: The lines.
        title: Title of the chart.
        labels: Labels of the horizontal and the vertical axis.
        ticks: Names of the horizontal places 0, 1, 2 and so on. Without them the horizontal axis is logarithmic too.
        limits: Bounds, drawn thin. The name of a level bound is above its end, of a rising one along its beginning.
    """
    canvas = Canvas(WIDTH, _HEIGHT + (78 if ticks else 42))
    drawn = [*trends, *limits]
    upward = spanning((value for one in drawn for value in one.y), _HEIGHT, 10, log=True)
    left = 34 + CHARACTER * max(map(len, painter.ticks(upward.ticks())), default=0)
    left = max(left, _TURNED) if ticks else left
    values = range(len(ticks)) if ticks else [value for one in drawn for value in one.x]
    across = spanning(values, left, WIDTH - 14, log=not ticks, margin=0.02 if limits else 0.05)
    painter.draw_ticks(canvas, upward, (left, WIDTH - 14), upright=True)
    if ticks:
        painter.name_places(canvas, across, ticks, _HEIGHT)
    else:
        painter.draw_ticks(canvas, across, (_HEIGHT, 10))
    canvas.line([(left, 10), (left, _HEIGHT), (WIDTH - 14, _HEIGHT)], "muted")
    canvas.write((left + WIDTH - 14) / 2, _HEIGHT + 31, labels[0], anchor="middle", color="muted")
    canvas.write(10, (10 + _HEIGHT) / 2, labels[1], anchor="middle", color="muted", turn=-90)

    def placed(one: Trend) -> list[tuple[float, float]]:
        return [(across.place(x), upward.place(y)) for x, y in zip(one.x, one.y, strict=True)]

    for limit in limits:
        canvas.line(placed(limit), "muted", 1.2)
    for limit in limits:
        _name_limit(canvas, shortened(limit.name), placed(limit), [placed(one) for one in limits])
    for trend in sorted(trends, key=lambda trend: painter.place(trend.name)):
        color, sign, points = painter.color(trend.name), painter.marker(trend.name), placed(trend)
        if len(points) > 1:
            canvas.line(points, color, 1.8)
        for (x, y), hollow in zip(points, trend.unstable or [False] * len(points), strict=True):
            canvas.marker(x, y, sign, color, hollow=hollow)
    text = "; ".join(f"{one.name}: {', '.join(map(painter.shown, one.y))}" for one in trends)
    return painter.chart(canvas.to_svg, title, f"{labels[1]}. {text}.", painter.legend(one.name for one in trends))


def _name_limit(
    canvas: Canvas, name: str, line: Sequence[tuple[float, float]], others: Sequence[Sequence[tuple[float, float]]]
) -> None:
    (left, start), (right, end) = line[0], line[-1]
    if start == end:
        canvas.write(right - 2, end - 9, name, anchor="end", color="muted", size=10)
        return
    # Of two lines that lie close, the upper has its name above, the lower below.
    upper = all(start <= other[0][1] for other in others if other[0][1] != other[-1][1])
    turn = math.degrees(math.atan2(end - start, right - left))
    along, off = math.radians(turn), -8 if upper else 8
    canvas.write(
        left + 4 * math.cos(along) - off * math.sin(along),
        start + 4 * math.sin(along) + off * math.cos(along),
        name, color="muted", size=10, turn=turn,
    )  # fmt: skip
