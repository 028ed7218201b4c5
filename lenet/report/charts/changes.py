"""Charts of a row's changes in the gate: a point with its bounds for each gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lenet.report.charts.canvas import CHARACTER, Canvas
from lenet.report.charts.painter import Chart, Key, Painter
from lenet.report.charts.scale import spanning
from lenet.report.charts.style import VERDICTS, WIDTH

__all__ = ["Change", "draw_changes"]

_HEIGHT = 142
"""Height of the axes with the space above them, in CSS pixels."""
_LEFT = 78
"""Space on the left for the name of the first gate, in CSS pixels."""
_CAP = 4
"""Half the width of a bound's mark, in CSS pixels."""


@dataclass(frozen=True, slots=True)
class Change:
    """A row's change in a gate.

    Attributes:
        name: Name of the gate.
        verdict: The row's verdict.
        words: The change with its bounds, in words.
        value: The change, in per cent. None if it is not known.
        low: Its lower bound, in per cent. None if it has none.
        high: Its upper bound, in per cent. None if it has none.
    """

    name: str
    verdict: str
    words: str
    value: float | None
    low: float | None
    high: float | None


def draw_changes(painter: Painter, changes: Sequence[Change], title: str) -> Chart:
    """A row's changes over gates, with their bounds and a mark for each verdict.

    Args:
        painter: The page's painter.
        changes: The changes, the oldest first; at least one is known.
        title: Title of the chart.
    """
    canvas = Canvas(WIDTH, _HEIGHT + 78)
    known = [one for change in changes for one in (change.value, change.low, change.high) if one is not None]
    upward = spanning([0.0, *known], _HEIGHT, 10, log=False, margin=0.1)
    left = max(_LEFT, 34 + CHARACTER * max(map(len, painter.ticks(upward.ticks())), default=0))
    across = spanning([0.0, float(max(1, len(changes) - 1))], left, WIDTH - 14, log=False, margin=0.06)
    painter.draw_ticks(canvas, upward, (left, WIDTH - 14), upright=True)
    painter.name_places(canvas, across, [one.name for one in changes], _HEIGHT)
    canvas.line([(left, 10), (left, _HEIGHT), (WIDTH - 14, _HEIGHT)], "muted")
    canvas.line([(left, upward.place(0)), (WIDTH - 14, upward.place(0))], "muted", 1.2)
    label = painter.language.text("change, %%")
    canvas.write(10, (10 + _HEIGHT) / 2, label, anchor="middle", color="muted", turn=-90)
    for place, change in enumerate(changes):
        if change.value is not None:
            x = across.place(place)
            _, sign, color = VERDICTS[change.verdict]
            _draw_bounds(canvas, x, [None if one is None else upward.place(one) for one in (change.low, change.high)])
            canvas.marker(x, upward.place(change.value), sign, color)
    text = "; ".join(f"{one.name}: {one.words} {one.verdict}" for one in changes)
    found = {change.verdict for change in changes}
    legend = [Key(color, sign, verdict) for verdict, (_, sign, color) in VERDICTS.items() if verdict in found]
    return painter.chart(canvas.to_svg, title, f"{label}. {text}.", legend)


def _draw_bounds(canvas: Canvas, x: float, bounds: Sequence[float | None]) -> None:
    """A line between two bounds. It ends with a mark at each, or at the chart's edge if there is none."""
    low, high = bounds
    canvas.line([(x, _HEIGHT if low is None else low), (x, 10 if high is None else high)], "muted", 1.2)
    for bound in bounds:
        if bound is not None:
            canvas.line([(x - _CAP, bound), (x + _CAP, bound)], "muted", 1.2)
