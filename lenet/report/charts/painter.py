"""What all charts of a page share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from markupsafe import Markup

from lenet.report.charts.style import MARKER_SIGNS, MARKERS, SERIES, WIDTH, shortened
from lenet.report.charts.svg import to_svg
from lenet.report.drawing import Axes, Figure, FuncFormatter, LogLocator, NullLocator
from lenet.report.language import Language
from lenet.report.rounding import count, significant

__all__ = ["Chart", "Key", "Painter"]

_SUBDIVISIONS: Final = ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,))
"""Ticks in a decade, for an axis that spans less than one decade, less than two, or more."""


@dataclass(frozen=True, slots=True)
class Key:
    """A line of a chart's legend, which the page writes.

    Attributes:
        number: Number of the series, from 1.
        sign: The series' marker as a character.
        label: The series' name.
    """

    number: int
    sign: str
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawn chart.

    Attributes:
        svg: Its SVG element.
        title: What it shows, for the caption.
        legend: The legend, if there are several series.
    """

    svg: Markup
    title: str
    legend: Sequence[Key] = ()


class Painter:
    """What the charts of a page share: the language, a colour for each series, and unique names.

    Args:
        language: Language of all texts.
        names: Names of the series, in the order of their colours.

    Attributes:
        language: Language of all texts.
    """

    def __init__(self, language: Language, names: Sequence[str]) -> None:
        self.language = language
        self._places = {name: place for place, name in enumerate(dict.fromkeys(names))}
        self._drawn = 0

    def chart(self, figure: Figure, title: str, text: str, legend: Sequence[Key] = ()) -> Chart:
        """A drawn figure as a chart of the page.

        Args:
            figure: The figure, drawn in the colours of `lenet.report.charts.style`.
            title: What it shows.
            text: Description for readers who do not see it.
            legend: The legend, if there are several series.
        """
        self._drawn += 1
        return Chart(to_svg(figure, f"chart{self._drawn}", title, text), title, legend)

    def axes(self, height: int, *, left: int, bottom: int = 38) -> tuple[Figure, Axes]:
        """A figure with axes. The height and the margins are in CSS pixels."""
        figure = Figure(figsize=(WIDTH / 72, height / 72))
        figure.patch.set_visible(False)
        box = (left / WIDTH, bottom / height, 1 - (left + 22) / WIDTH, 1 - (bottom + 12) / height)
        return figure, figure.add_axes(box)

    def bar_axes(self, names: Sequence[str], step: int) -> tuple[Figure, Axes]:
        """Axes for horizontal bars, the first at the top, with space for their names."""
        shown = list(map(shortened, names))
        figure, axes = self.axes(54 + step * len(names), left=16 + round(6.3 * max(map(len, shown))))
        axes.set_yticks(range(len(names)), shown)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        return figure, axes

    def format_numbers(self, *axes: Any) -> None:
        """Write an axis' numbers in the language, never as powers of ten in mathematics."""
        for axis in axes:
            axis.set_minor_locator(NullLocator())
            if axis.get_scale() == "log":
                axis.set_major_locator(LogLocator(subs=_SUBDIVISIONS[min(math.floor(_decades(axis)), 2)]))
            axis.set_major_formatter(FuncFormatter(partial(self._tick, axis)))

    def shown(self, value: float, digits: int = 3) -> str:
        """A number in the language, with so many significant digits; a large one is whole, its thousands grouped."""
        large = abs(value) >= 1e4  # noqa: PLR2004 - where digits begin to need grouping
        return self.language.number(count(round(value)) if large else significant(value, digits))

    def color(self, name: str) -> str:
        """The colour of a series."""
        return SERIES[self._place(name) % len(SERIES)]

    def marker(self, name: str) -> str:
        """The marker of a series."""
        return MARKERS[self._place(name) % len(MARKERS)]

    def legend(self, names: Iterable[str]) -> list[Key]:
        """The legend of series."""
        places = {name: self._place(name) for name in names}
        return [Key(at % len(SERIES) + 1, MARKER_SIGNS[at % len(MARKERS)], name) for name, at in places.items()]

    def _place(self, name: str) -> int:
        return self._places.setdefault(name, len(self._places))

    def _tick(self, axis: Any, value: float, _place: int | None) -> str:
        """A tick's number, with as many digits as tell it from the others."""
        places = axis.get_majorticklocs()
        apart = (digits for digits in range(3, 9) if len({significant(one, digits) for one in places}) == len(places))
        return self.shown(value, next(apart, 9))


def _decades(axis: Any) -> float:
    low, high = axis.get_view_interval()
    return math.log10(high / low)
