"""Charts of horizontal bars: medians, the spread of rounds, and the parts of end-to-end times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lenet.report.charts.painter import Chart, Key, Painter
from lenet.report.charts.style import INK, PAPER, SERIES, STYLE
from lenet.report.drawing import Axes, settings
from lenet.report.language import Language
from lenet.results import Row
from lenet.vocabulary import Mode

__all__ = ["Split", "draw_bars", "draw_boxes", "draw_splits"]


@dataclass(frozen=True, slots=True)
class Split:
    """The parts of an end-to-end time, in milliseconds.

    Attributes:
        name: Name of the bar.
        parts: Milliseconds by the name of the part, in the order of time.
    """

    name: str
    parts: dict[str, float]


def draw_bars(painter: Painter, rows: Sequence[Row], title: str) -> Chart:
    """The speed table as bars: a backend's median in each mode, with its 95 % interval."""
    names = list(dict.fromkeys(row.case.backend for row in rows))
    modes = [mode for mode in Mode if any(row.case.mode is mode for row in rows)]
    thickness = 0.74 / len(modes)
    with settings(STYLE):
        figure, axes = painter.bar_axes(names, 20 * len(modes) + 8)
        places, ends = [], []
        for row in rows:
            offset = (modes.index(row.case.mode) - (len(modes) - 1) / 2) * thickness
            places.append(names.index(row.case.backend) + offset)
            ends.append(1e3 * (row.summary.median_high or row.summary.median))
        times = [row.milliseconds_per_batch for row in rows]
        colors = [SERIES[list(Mode).index(row.case.mode)] for row in rows]
        axes.barh(places, times, thickness * 0.88, color=colors)
        _intervals(axes, rows, places)
        for place, time, end in zip(places, times, ends, strict=True):
            axes.text(end + 0.026 * max(ends), place, painter.shown(time), va="center_baseline")
        axes.set_xlim(0, 1.18 * max(ends))
        axes.set_xlabel(painter.language.text("ms/batch"))
        painter.format_numbers(axes.xaxis)
        return painter.chart(figure, title, _medians(painter, rows), _mode_keys(painter.language, modes))


def draw_boxes(painter: Painter, rows: Sequence[Row], title: str) -> Chart:
    """The spread of each row's rounds: quartiles and median, whiskers at the 5th and 95th percentile, the extremes.

    Args:
        painter: The page's painter.
        rows: Rows that differ only in the backend, each with its samples.
        title: Title of the chart.
    """
    names = [row.case.backend for row in rows]
    with settings(STYLE):
        figure, axes = painter.bar_axes(names, 30)
        colors = list(map(painter.color, names))
        spread = [1e3 * np.quantile(row.samples or (), [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]) for row in rows]
        least, low, first, middle, third, high, most = np.array(spread).T
        places = np.arange(len(rows))
        axes.hlines(places, low, high, colors=colors, linewidth=1.4)
        axes.barh(places, third - first, 0.56, left=first, color=PAPER, edgecolor=colors, linewidth=1.2)
        axes.vlines(middle, places - 0.28, places + 0.28, colors=colors, linewidth=2.6)
        for extremes in (least, most):
            axes.scatter(extremes, places, 6, c=colors)
        axes.set_xscale("log" if _wide(rows) else "linear")
        axes.set_xlabel(painter.language.text("ms/batch"))
        painter.format_numbers(axes.xaxis)
        return painter.chart(figure, title, _medians(painter, rows))


def draw_splits(painter: Painter, splits: Sequence[Split], title: str) -> Chart:
    """The parts of end-to-end times, as stacked bars."""
    parts = list(dict.fromkeys(name for split in splits for name in split.parts))
    with settings(STYLE):
        figure, axes = painter.bar_axes([split.name for split in splits], 30)
        for place, split in enumerate(splits):
            start = 0.0
            for name, value in split.parts.items():
                axes.barh(place, value, 0.62, left=start, color=SERIES[parts.index(name)])
                start += value
        axes.set_xlabel(painter.language.text("ms/batch"))
        painter.format_numbers(axes.xaxis)
        text = "; ".join(
            f"{split.name}: " + ", ".join(f"{name} {painter.shown(value)}" for name, value in split.parts.items())
            for split in splits
        )
        keys = [Key(place + 1, "■", name) for place, name in enumerate(parts)]
        return painter.chart(figure, title, f"{text}.", keys)


def _intervals(axes: Axes, rows: Sequence[Row], places: Sequence[float]) -> None:
    """The medians' 95 % intervals as whiskers on bars, where they are known."""
    known = [
        (1e3 * row.summary.median_low, 1e3 * row.summary.median_high, place)
        for row, place in zip(rows, places, strict=True)
        if row.summary.median_low is not None and row.summary.median_high is not None
    ]
    if known:
        low, high, at = np.array(known).T
        axes.hlines(at, low, high, colors=INK, linewidth=1.4)
        axes.vlines([*low, *high], [*(at - 0.1), *(at - 0.1)], [*(at + 0.1), *(at + 0.1)], colors=INK, linewidth=1.4)


def _medians(painter: Painter, rows: Sequence[Row]) -> str:
    words = {Mode.FORWARD: painter.language.text("forward"), Mode.END_TO_END: painter.language.text("e2e")}
    unit = painter.language.text("ms/batch")
    return "; ".join(
        f"{row.case.backend}, {words[row.case.mode]}: {painter.shown(row.milliseconds_per_batch)} {unit}"
        for row in rows
    )


def _mode_keys(language: Language, modes: Sequence[Mode]) -> list[Key]:
    words = {Mode.FORWARD: language.text("forward"), Mode.END_TO_END: language.text("end to end")}
    return [Key(list(Mode).index(mode) + 1, "■", words[mode]) for mode in modes]


def _wide(rows: Sequence[Row]) -> bool:
    times = [time for row in rows for time in (row.samples or ())]
    return max(times) > 10 * min(times)
