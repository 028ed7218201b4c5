"""Charts of lines: the training's curves, and times or rates with their bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lenet.report.charts.painter import Chart, Key, Painter
from lenet.report.charts.style import MARKER_SIGNS, MARKERS, MUTED, SERIES, STYLE, shortened
from lenet.report.drawing import Axes, MaxNLocator, settings
from lenet.terminal import visible

__all__ = ["Trend", "draw_curves", "draw_lines"]


@dataclass(frozen=True, slots=True)
class Trend:
    """A line of a chart.

    Attributes:
        name: Name of the series.
        x: Horizontal values.
        y: Vertical values.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]


def draw_curves(painter: Painter, history: Sequence[dict[str, float]], quantity: str, title: str, label: str) -> Chart:
    """Figures 1 and 2 of the coursework: a quantity over the epochs, for the training and the test images.

    Args:
        painter: The page's painter.
        history: The rows of ``history.csv``.
        quantity: ``loss`` or ``accuracy``.
        title: Title of the figure.
        label: Label of the vertical axis.
    """
    scale = 100.0 if quantity == "accuracy" else 1.0
    epochs = [row["epoch"] for row in history]
    names = (painter.language.text("training images, augmented"), painter.language.text("test images"))
    with settings(STYLE):
        figure, axes = painter.axes(270, left=56)
        for place, split in enumerate(("train", "test")):
            values = [scale * row[f"{split}_{quantity}"] for row in history]
            marker = MARKERS[place] if len(history) <= 15 else ""  # noqa: PLR2004 - more would hide the line
            axes.plot(epochs, values, "-" if place else "--", color=SERIES[place], marker=marker)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set(xlabel=painter.language.text("epoch"), ylabel=label)
        painter.format_numbers(axes.xaxis, axes.yaxis)
        last = "; ".join(
            f"{name}: {painter.shown(scale * history[-1][f'{split}_{quantity}'])}"
            for name, split in zip(names, ("train", "test"), strict=True)
        )
        text = painter.language.text("After epoch %(epoch)s, %(values)s.", epoch=f"{epochs[-1]:.0f}", values=last)
        keys = [Key(place + 1, MARKER_SIGNS[place], name) for place, name in enumerate(names)]
        return painter.chart(figure, title, text, keys)


def draw_lines(
    painter: Painter,
    trends: Sequence[Trend],
    title: str,
    labels: tuple[str, str],
    *,
    x_log: bool = True,
    ticks: Sequence[str] = (),
    limits: Sequence[Trend] = (),
) -> Chart:
    """Lines with markers on a logarithmic vertical axis.

    Args:
        painter: The page's painter.
        trends: The lines.
        title: Title of the chart.
        labels: Labels of the horizontal and the vertical axis.
        x_log: Whether the horizontal axis is logarithmic too.
        ticks: Names of the horizontal places 0, 1, 2 and so on, if they are no quantity.
        limits: Bounds, drawn thin. The name of a level bound is above its end, of a rising one along its beginning.
    """
    with settings(STYLE):
        figure, axes = painter.axes(300, left=80, bottom=74 if ticks else 38)
        axes.set_yscale("log")
        if x_log:
            axes.set_xscale("log")
        for limit in limits:
            axes.plot(limit.x, limit.y, color=MUTED, linewidth=1.2)
            _name_limit(axes, limit, limits)
        for trend in trends:
            line = "-" if len(trend.x) > 1 else ""
            axes.plot(trend.x, trend.y, line, color=painter.color(trend.name), marker=painter.marker(trend.name))
        axes.set(xlabel=labels[0], ylabel=labels[1])
        painter.format_numbers(axes.xaxis, axes.yaxis)
        if ticks:
            names = list(map(visible, ticks))
            axes.set_xticks(range(len(ticks)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=10)
            axes.set_xlim(-0.3, len(ticks) - 0.7)
        text = "; ".join(f"{one.name}: {', '.join(map(painter.shown, one.y))}" for one in trends)
        return painter.chart(figure, title, f"{labels[1]}. {text}.", painter.legend(trend.name for trend in trends))


def _name_limit(axes: Axes, limit: Trend, limits: Sequence[Trend]) -> None:
    name = shortened(limit.name)
    rise = limit.y[-1] - limit.y[0]
    if rise == 0:
        axes.annotate(
            name, (limit.x[-1], limit.y[-1]), (-2, 3), textcoords="offset points",
            ha="right", va="bottom", color=MUTED, fontsize=10,
        )  # fmt: skip
        return
    # Of two lines that lie close, the upper has its name above, the lower below.
    upper = all(limit.y[0] >= other.y[0] for other in limits if other.y[-1] != other.y[0])
    angle = math.degrees(math.atan2(rise, limit.x[-1] - limit.x[0]))
    axes.text(
        limit.x[0], limit.y[0], f" {name}", rotation=angle, rotation_mode="anchor", transform_rotates_text=True,
        va="bottom" if upper else "top", color=MUTED, fontsize=10,
    )  # fmt: skip
