"""A figure of matplotlib as an SVG element with the page's own colours and fonts.

Text stays text, so that it can be read aloud, searched and translated.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import Final
from xml.etree import ElementTree as ET

from markupsafe import Markup

from lenet.report.charts.canvas import describe
from lenet.report.charts.style import VARIABLES
from lenet.report.drawing import Figure

__all__ = ["to_svg"]

_SVG: Final = "{http://www.w3.org/2000/svg}"
_LINK: Final = "{http://www.w3.org/1999/xlink}href"


def to_svg(figure: Figure, name: str, title: str, text: str) -> Markup:
    """A figure as an SVG element for a page, with CSS variables for colours, the page's fonts, and unique names.

    Args:
        figure: The figure, drawn in the colours of `lenet.report.charts.style`.
        name: A name that is unique on the page.
        title: What it shows.
        text: Description for readers who do not see it.
    """
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the page uses the reader's fonts
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    root = ET.fromstring(drawn.getvalue())  # noqa: S314 - matplotlib's own output
    for child in [*root.findall(f"{_SVG}metadata"), *root.findall(f"{_SVG}defs")]:
        root.remove(child)
    links = {element.get(_LINK, "").removeprefix("#") for element in root.iter(f"{_SVG}use")}
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        _adapt(element, name, links)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img"}
    describe(root, name, title, text)
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704 - escaped by ElementTree


def _adapt(element: ET.Element, name: str, links: set[str]) -> None:
    found = element.attrib
    if (own := found.pop("id", None)) is not None and (own in links or element.tag == "clipPath"):
        found["id"] = f"{name}-{own}"
    if (link := found.pop(_LINK, None)) is not None:
        found["href"] = f"#{name}-{link.removeprefix('#')}"
    if "clip-path" in found:
        found["clip-path"] = found["clip-path"].replace("#", f"#{name}-")
    if "style" in found:
        style = re.sub(r"font(-family)?: ?((?:[\w.]+px )?)[^;]*'[^;]*;? ?", _without_family, found["style"])
        found["style"] = re.sub(r"#[0-9a-f]{6}", lambda hit: VARIABLES.get(hit[0], hit[0]), style)
    for key in ("d", "x", "y", "transform"):
        if key in found:
            found[key] = re.sub(r"-?\d+\.\d+", lambda hit: f"{float(hit[0]):.2f}".rstrip("0").rstrip("."), found[key])
    if "d" in found:
        found["d"] = " ".join(found["d"].split())


def _without_family(found: re.Match[str]) -> str:
    return f"font-size: {found[2].strip()}; " if found[2] else ""
