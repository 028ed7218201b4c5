"""What all charts of a page share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lenet import backends
from lenet.report.charts.canvas import Canvas
from lenet.report.charts.scale import Scale, digits_of
from lenet.report.charts.style import MARKERS, SERIES
from lenet.report.language import Language
from lenet.report.rounding import count, significant, tick

__all__ = ["Chart", "Key", "Painter"]


@dataclass(frozen=True, slots=True)
class Key:
    """A line of a chart's legend, which the page writes.

    Attributes:
        color: Name of the series' colour.
        sign: The series' marker as a character.
        label: The series' name.
    """

    color: str
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
    """What the charts of a page share: the language, a colour and a place for each runtime, and unique names.

    A runtime of the table in `lenet.backends` has the same colour in every report.

    Args:
        language: Language of all texts.

    Attributes:
        language: Language of all texts.
    """

    def __init__(self, language: Language) -> None:
        self.language = language
        self._places = {name: place for place, name in enumerate(backends.names())}
        self._drawn = 0

    def chart(
        self, to_svg: Callable[[str, str, str], Markup], title: str, text: str, legend: Sequence[Key] = ()
    ) -> Chart:
        """A drawing as a chart of the page.

        Args:
            to_svg: Makes the SVG element, as `Canvas.to_svg`.
            title: What it shows.
            text: Description for readers who do not see it.
            legend: The legend, if there are several series.
        """
        self._drawn += 1
        return Chart(to_svg(f"chart{self._drawn}", title, text), title, legend)

    def shown(self, value: float, digits: int = 3) -> str:
        """A number in the language, with so many significant digits; a large one is whole, its thousands grouped."""
        return self._written(value, significant(value, digits))

    def ticks(self, values: Sequence[float]) -> list[str]:
        """The numbers of an axis' ticks, with as many digits as tell them apart."""
        return [self._written(value, tick(value, digits_of(values))) for value in values]

    def _written(self, value: float, text: str) -> str:
        """A number in the language; a large one is whole."""
        large = abs(value) >= 1e4  # noqa: PLR2004 - where digits begin to need grouping
        return self.language.number(count(round(value)) if large else text)

    def draw_ticks(self, canvas: Canvas, scale: Scale, ends: tuple[float, float], *, upright: bool = False) -> None:
        """Draw a scale's grid lines and numbers.

        Args:
            canvas: Where to draw.
            scale: The scale.
            ends: Where the grid lines begin and end. The numbers are at the first.
            upright: Whether the scale is a vertical axis.
        """
        places = scale.ticks()
        for value, words in zip(places, self.ticks(places), strict=True):
            at = scale.place(value)
            canvas.line([(end, at) if upright else (at, end) for end in ends], "grid", 0.8)
            if upright:
                canvas.write(ends[0] - 6, at, words, anchor="end")
            else:
                canvas.write(at, ends[0] + 11, words, anchor="middle")

    def name_places(self, canvas: Canvas, scale: Scale, names: Sequence[str], height: float) -> None:
        """Name the places 0, 1, 2 and so on of an axis that is no quantity, turned so that the names do not meet.

        Args:
            canvas: Where to write.
            scale: The axis.
            names: The names.
            height: The axis' height on the canvas.
        """
        apart = max(1, math.ceil(len(names) / 14))
        for place in range((len(names) - 1) % apart, len(names), apart):
            canvas.write(scale.place(place), height + 10, names[place], anchor="end", size=10, turn=-38)

    def place(self, name: str) -> int:
        """The place of a runtime in every chart and table of the page."""
        return self._places.setdefault(name, len(self._places))

    def color(self, name: str) -> str:
        """The colour of a runtime."""
        return SERIES[self.place(name) % len(SERIES)]

    def marker(self, name: str) -> str:
        """The marker of a runtime, as a character."""
        return [*MARKERS][self.place(name) % len(MARKERS)]

    def legend(self, names: Iterable[str]) -> list[Key]:
        """The legend of runtimes, in their order."""
        return [Key(self.color(name), self.marker(name), name) for name in sorted(set(names), key=self.place)]
