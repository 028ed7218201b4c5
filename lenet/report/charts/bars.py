"""Charts of horizontal bars: medians, rates, the spread of rounds, and the parts of end-to-end times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Final

from lenet.report.charts.canvas import CHARACTER, Canvas
from lenet.report.charts.painter import Chart, Key, Painter
from lenet.report.charts.scale import Scale, spanning
from lenet.report.charts.style import PARTS, WIDTH, shortened
from lenet.report.language import Language
from lenet.report.tables.names import MARK, mode_name
from lenet.results import Row
from lenet.vocabulary import Mode

__all__ = ["Split", "draw_bars", "draw_boxes", "draw_rates", "draw_splits"]

_STEP: Final = 21
"""Height of a bar with its space, in CSS pixels."""
_HEAD: Final = 22
"""Height of a heading among bars."""


@dataclass(frozen=True, slots=True)
class Split:
    """The parts of an end-to-end time or of an energy.

    Attributes:
        name: Name of the bar.
        parts: Values by the part's name in `lenet.report.charts.style.PARTS`.
        unstable: Whether a row that it is made from may not be trusted.
    """

    name: str
    parts: Mapping[str, float]
    unstable: bool = False


def draw_bars(painter: Painter, rows: Sequence[Row], title: str) -> Chart:
    """The speed table as bars: each runtime's median in each mode, with its 95 % interval."""
    ordered = sorted(rows, key=lambda row: (list(Mode).index(row.case.mode), painter.place(row.case.backend)))
    modes = list(dict.fromkeys(row.case.mode for row in ordered))
    numbers = [painter.shown(row.milliseconds_per_batch) + (MARK if row.unstable else "") for row in ordered]
    canvas = Canvas(WIDTH, _HEAD * len(modes) + _STEP * len(rows) + 4)
    left = _left(row.case.backend for row in rows)
    most = max(1e3 * (row.summary.median_high or row.summary.median) for row in rows)
    scale = Scale(0, most, left, WIDTH - 12 - CHARACTER * max(map(len, numbers)))
    top = 0.0
    unit = painter.language.text("ms/batch")
    for mode in modes:
        canvas.write(left, top + _HEAD / 2, f"{mode_name(mode, painter.language)}, {unit}", color="muted")
        top += _HEAD
        for row, number in zip(ordered, numbers, strict=True):
            if row.case.mode is not mode:
                continue
            middle = top + _STEP / 2
            canvas.write(left - 8, middle, shortened(row.case.backend), anchor="end")
            end = scale.place(row.milliseconds_per_batch)
            canvas.bar(left, middle - 7, end - left, 14, painter.color(row.case.backend))
            end = max(end, _draw_interval(canvas, scale, row, middle))
            canvas.write(end + 6, middle, number)
            top += _STEP
    return painter.chart(canvas.to_svg, title, _medians(painter, ordered))


def draw_rates(painter: Painter, rows: Sequence[Row], title: str) -> Chart:
    """Images a second of rows that differ only in the backend, beside what the machine's limits allow."""
    text = painter.language.text
    ordered = sorted(rows, key=lambda row: painter.place(row.case.backend))
    numbers = [painter.shown(row.images_per_second) + (MARK if row.unstable else "") for row in ordered]
    bounds = [row.case.batch_size / row.floor.seconds if row.floor else None for row in ordered]
    canvas = Canvas(WIDTH, _HEAD + _STEP * len(rows) + 4)
    left = _left(row.case.backend for row in rows)
    most = max([*(row.images_per_second for row in ordered), *filter(None, bounds)])
    scale = Scale(0, most, left, WIDTH - 12 - CHARACTER * max(map(len, numbers)))
    canvas.write(left, _HEAD / 2, text("images/s"), color="muted")
    for place, (row, number, bound) in enumerate(zip(ordered, numbers, bounds, strict=True)):
        middle, end = _HEAD + _STEP * (place + 0.5), scale.place(row.images_per_second)
        canvas.write(left - 8, middle, shortened(row.case.backend), anchor="end")
        canvas.bar(left, middle - 7, end - left, 14, painter.color(row.case.backend))
        if bound is not None:
            at = scale.place(bound)
            canvas.line([(at, middle - 9), (at, middle + 9)], "ink", 1.8)
            if at > end - 2:
                end = at
        canvas.write(end + 6, middle, number)
    told = "; ".join(f"{row.case.backend}: {number}" for row, number in zip(ordered, numbers, strict=True))
    keys = [Key("ink", "|", text("what the machine's limits allow"))] if any(bounds) else []
    return painter.chart(canvas.to_svg, title, f"{text('images/s')}. {told}.", keys)


def draw_boxes(painter: Painter, rows: Sequence[Row], title: str) -> Chart:
    """The spread of each row's rounds: quartiles and median, whiskers at the 5th and 95th percentile, the extremes.

    Args:
        painter: The page's painter.
        rows: Rows that differ only in the backend, each with its samples.
        title: Title of the chart.
    """
    ordered = sorted(rows, key=lambda row: painter.place(row.case.backend))
    names = [shortened(row.case.backend) + (MARK if row.unstable else "") for row in ordered]
    spread = [_spread([1e3 * one for one in row.samples or ()]) for row in ordered]
    bottom = 26 * len(rows) + 4.0
    canvas = Canvas(WIDTH, bottom + 36)
    extremes = [value for found in spread for value in (found[0], found[-1])]
    log = max(extremes) > 10 * min(extremes)
    scale = spanning(extremes, _left(names), WIDTH - 22, log=log)
    painter.draw_ticks(canvas, scale, (bottom, 0))
    unit = painter.language.text("ms/batch")
    canvas.write((scale.start + scale.end) / 2, bottom + 28, unit, anchor="middle", color="muted")
    for place, (row, name, found) in enumerate(zip(ordered, names, spread, strict=True)):
        middle, color = 26 * place + 15, painter.color(row.case.backend)
        least, low, first, median, third, high, most = map(scale.place, found)
        canvas.write(scale.start - 8, middle, name, anchor="end")
        canvas.line([(low, middle), (high, middle)], color, 1.4)
        canvas.bar(first, middle - 7, third - first, 14, "paper", color)
        canvas.line([(median, middle - 7), (median, middle + 7)], color, 2.6)
        for extreme in (least, most):
            canvas.bar(extreme - 1, middle - 1, 2, 2, color)
    return painter.chart(canvas.to_svg, title, _medians(painter, ordered))


def _spread(values: list[float]) -> list[float]:
    """The extremes of at least one value, with the 5th, 25th, 50th, 75th and 95th percentile between them."""
    percentiles = quantiles(values if len(values) > 1 else 2 * values, n=20, method="inclusive")
    return [min(values), *(percentiles[place] for place in (0, 4, 9, 14, 18)), max(values)]


def draw_splits(painter: Painter, splits: Sequence[Split], title: str, unit: str | None = None) -> Chart:
    """The parts of end-to-end times or energies, as stacked bars."""
    ordered = sorted(splits, key=lambda split: painter.place(split.name))
    canvas = Canvas(WIDTH, _HEAD + _STEP * len(splits) + 4)
    wholes = [sum(split.parts.values()) for split in ordered]
    numbers = [painter.shown(one) + (MARK if it.unstable else "") for one, it in zip(wholes, ordered, strict=True)]
    left = _left(split.name for split in splits)
    scale = Scale(0, max(wholes), left, WIDTH - 12 - CHARACTER * max(map(len, numbers)))
    canvas.write(left, _HEAD / 2, unit or painter.language.text("ms/batch"), color="muted")
    for place, (split, number) in enumerate(zip(ordered, numbers, strict=True)):
        middle, passed = _HEAD + _STEP * (place + 0.5), 0.0
        canvas.write(left - 8, middle, shortened(split.name), anchor="end")
        for part in filter(split.parts.__contains__, PARTS):
            start, end = scale.place(passed), scale.place(passed := passed + split.parts[part])
            canvas.bar(start, middle - 7, end - start, 14, PARTS[part])
        canvas.write(scale.place(passed) + 6, middle, number)
    names = _part_names(painter.language)
    text = "; ".join(
        f"{split.name}: " + ", ".join(f"{names[part]} {painter.shown(value)}" for part, value in split.parts.items())
        for split in ordered
    )
    used = {part for split in splits for part in split.parts}
    keys = [Key(color, "■", names[part]) for part, color in PARTS.items() if part in used]
    return painter.chart(canvas.to_svg, title, f"{text}.", keys)


def _left(names: Iterable[str]) -> float:
    """Where bars begin: after the longest of their names."""
    return 12 + CHARACTER * max(len(shortened(name)) for name in names)


def _draw_interval(canvas: Canvas, scale: Scale, row: Row, middle: float) -> float:
    """Draw a median's 95 % interval on its bar, if it is known. Returns where it ends, or 0."""
    if row.summary.median_low is None or row.summary.median_high is None:
        return 0
    low, high = (scale.place(1e3 * bound) for bound in (row.summary.median_low, row.summary.median_high))
    canvas.line([(low, middle), (high, middle)], "ink", 1.4)
    for end in (low, high):
        canvas.line([(end, middle - 4), (end, middle + 4)], "ink", 1.4)
    return high


def _medians(painter: Painter, rows: Sequence[Row]) -> str:
    unit = painter.language.text("ms/batch")
    return "; ".join(
        f"{row.case.backend}, {mode_name(row.case.mode, painter.language)}: "
        f"{painter.shown(row.milliseconds_per_batch)} {unit}{MARK if row.unstable else ''}"
        for row in rows
    )


def _part_names(language: Language) -> Mapping[str, str]:
    return {
        "copy": language.text("copy"),
        "forward": language.text("forward pass"),
        "rest": language.text("launch and synchronisation"),
        "copy and rest": language.text("copy and synchronisation"),
        "idle": language.text("idle power"),
        "above idle": language.text("above idle"),
    }
