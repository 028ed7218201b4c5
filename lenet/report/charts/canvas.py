"""Writes the page's charts as SVG.

A report holds hundreds of charts. matplotlib takes about 0.1 s and 7 kB for each. This module takes a millisecond and
a third of the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from xml.etree import ElementTree as ET

from markupsafe import Markup

from lenet.report.charts.style import MARKERS
from lenet.terminal import visible

__all__ = ["CHARACTER", "Canvas", "describe"]

CHARACTER: Final = 6.2
"""Width of a character of a chart's text, in CSS pixels, on the safe side of an average."""
_SIZE: Final = 11
"""The usual size of a chart's text. The page's style has it as well, and its colour."""


class Canvas:
    """A drawing with the page's own fonts and colours.

    Coordinates are in CSS pixels from the upper left corner. Colours are names of `lenet.report.charts.style.LIGHT`.

    Args:
        width: Width of the drawing.
        height: Height of the drawing.
    """

    def __init__(self, width: float, height: float) -> None:
        self._root = ET.Element("svg", viewBox=f"0 0 {_short(width)} {_short(height)}", role="img")

    def bar(self, x: float, y: float, width: float, height: float, color: str, edge: str = "") -> None:
        """A rectangle by its upper left corner, with an edge of another color if it is named."""
        style = f"fill:var(--{color})" + (f";stroke:var(--{edge})" if edge else "")
        sizes = zip(("x", "y", "width", "height"), (x, y, width, height), strict=True)
        ET.SubElement(self._root, "rect", {name: _short(value) for name, value in sizes}, style=style)

    def line(self, points: Sequence[tuple[float, float]], color: str, width: float = 1.0) -> None:
        """A line through points."""
        path = "M" + "L".join(f"{_short(x)} {_short(y)}" for x, y in points)
        style = f"fill:none;stroke:var(--{color});stroke-width:{_short(width)}"
        ET.SubElement(self._root, "path", d=path, style=style)

    def marker(self, x: float, y: float, sign: str, color: str, *, hollow: bool = False) -> None:
        """A marker of `lenet.report.charts.style.MARKERS`, filled or hollow."""
        style = f"fill:var(--{'paper' if hollow else color})" + (f";stroke:var(--{color})" if hollow else "")
        place = f"translate({_short(x)} {_short(y)})"
        ET.SubElement(self._root, "path", d=MARKERS[sign], transform=place, style=style)

    def write(
        self, x: float, y: float, words: str, *, anchor: str = "start", color: str = "ink", size: int = _SIZE,
        turn: float = 0,
    ) -> None:  # fmt: skip
        """A line of text, vertically centred at a height.

        Args:
            x: Where its anchor is.
            y: Its middle.
            words: The text.
            anchor: ``start``, ``middle`` or ``end``.
            color: Its colour.
            size: Its font's size.
            turn: Degrees clockwise around the anchor.
        """
        if not words:
            return
        found = {"x": _short(x), "y": _short(y + 0.35 * size)}
        usual = {"text-anchor": "start", "fill": "var(--ink)", "font-size": f"{_SIZE}px"}
        style = {"text-anchor": anchor, "fill": f"var(--{color})", "font-size": f"{size}px"}
        if unlike := ";".join(f"{name}:{value}" for name, value in style.items() if value != usual[name]):
            found["style"] = unlike
        if turn:
            found["transform"] = f"rotate({_short(turn)} {_short(x)} {_short(y)})"
        ET.SubElement(self._root, "text", found).text = visible(words)

    def to_svg(self, name: str, title: str, text: str) -> Markup:
        """The SVG element, with a title and a description.

        Args:
            name: A name that is unique on the page.
            title: What the chart shows.
            text: Description for readers who do not see it.
        """
        describe(self._root, name, title, text)
        return Markup(ET.tostring(self._root, encoding="unicode"))  # noqa: S704 - escaped by ElementTree


def describe(root: ET.Element, name: str, title: str, text: str) -> None:
    """Give an SVG element a title and a description, which it names as its label."""
    root.set("aria-labelledby", f"{name}-title {name}-text")
    for tag, part, content in (("desc", "text", text), ("title", "title", title)):
        described = ET.Element(tag, id=f"{name}-{part}")
        described.text = visible(content)
        root.insert(0, described)


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
