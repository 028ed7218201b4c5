"""The one table of colours of the page and its charts, and what else all charts share.

A colour has a name, which is also the name of the page's CSS variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from lenet.terminal import visible

__all__ = [
    "DARK",
    "LIGHT",
    "MARKERS",
    "PARTS",
    "SERIES",
    "STYLE",
    "VARIABLES",
    "VERDICTS",
    "WIDTH",
    "css_variables",
    "shortened",
]

LIGHT: Final[Mapping[str, str]] = {
    "ink": "#1c2024",
    "muted": "#5f6973",
    "grid": "#d8dde3",
    "paper": "#fdfdfe",
    "panel": "#f3f5f8",
    "link": "#1b5f94",
    "pass": "#1a7340",
    "fail": "#b3261e",
    "inconclusive": "#8a5a00",
    "series-1": "#1b6ca8",
    "series-2": "#c8553d",
    "series-3": "#2e8b57",
    "series-4": "#8e5ea2",
    "series-5": "#a87908",
    "series-6": "#0f8b8d",
    "series-7": "#a23e6d",
    "series-8": "#5b6b7b",
    "series-9": "#4453b8",
    "series-10": "#7d5533",
    "series-11": "#66720d",
    "series-12": "#7340b8",
    "series-13": "#c026a3",
    "series-14": "#1c7f1c",
    "part-copy": "#b8860b",
    "part-forward": "#2b6f9e",
    "part-rest": "#7b8794",
    "part-copy-and-rest": "#8a6a3c",
}
"""The colours of the light theme. Those of series and parts have a contrast of 3:1 or more with the paper."""

DARK: Final[Mapping[str, str]] = {
    "ink": "#e7eaee",
    "muted": "#a3adb8",
    "grid": "#363d45",
    "paper": "#14171a",
    "panel": "#1d2126",
    "link": "#7db9e8",
    "pass": "#63c78b",
    "fail": "#ff8f85",
    "inconclusive": "#e5b567",
    "series-1": "#5aa9e6",
    "series-2": "#ee8166",
    "series-3": "#5fbf8a",
    "series-4": "#c29ad2",
    "series-5": "#d9ab3d",
    "series-6": "#4cc0c2",
    "series-7": "#dc7fab",
    "series-8": "#9aabbd",
    "series-9": "#98a4f4",
    "series-10": "#c79a72",
    "series-11": "#b5c24f",
    "series-12": "#b78af0",
    "series-13": "#f07ad8",
    "series-14": "#7fd65c",
    "part-copy": "#dfb03f",
    "part-forward": "#64aedd",
    "part-rest": "#97a3af",
    "part-copy-and-rest": "#c3a26e",
}
"""The colours of the dark theme."""

SERIES: Final = tuple(name for name in LIGHT if name.startswith("series-"))
"""The colours of series, in order. `lenet.report.charts.painter.Painter` gives each runtime its own."""

PARTS: Final[Mapping[str, str]] = {
    "copy": "part-copy",
    "forward": "part-forward",
    "rest": "part-rest",
    "copy and rest": "part-copy-and-rest",
    "idle": "part-rest",
    "above idle": "part-forward",
}
"""The colours of the parts of an end-to-end time and of an energy, in their order in every bar."""

MARKERS: Final = {
    "●": "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0Z",
    "■": "M-2.7-2.7h5.4v5.4h-5.4Z",
    "▲": "M0-3.4L3.3 2.6H-3.3Z",
    "◆": "M0-3.7L3.7 0L0 3.7L-3.7 0Z",
    "▼": "M0 3.4L3.3-2.6H-3.3Z",
    "✚": "M-1.1-3.3h2.2v2.2h2.2v2.2h-2.2v2.2h-2.2v-2.2h-2.2v-2.2h2.2Z",
    "✖": "M-3.2-1.8L-1.8-3.2L0-1.4L1.8-3.2L3.2-1.8L1.4 0L3.2 1.8L1.8 3.2L0 1.4L-1.8 3.2L-3.2 1.8L-1.4 0Z",
    "★": "M0-3.8L.9-1.2H3.6L1.4 .5L2.2 3.1L0 1.5L-2.2 3.1L-1.4 .5L-3.6-1.2H-.9Z",
    "⬟": "M0-3.5L3.3-1.1L2.1 2.8H-2.1L-3.3-1.1Z",
    "⬢": "M-1.8-3.1H1.8L3.6 0L1.8 3.1H-1.8L-3.6 0Z",
    "▶": "M3.4 0L-2.6 3.3V-3.3Z",
    "◀": "M-3.4 0L2.6 3.3V-3.3Z",
    "▬": "M-3.6-1.5h7.2v3h-7.2Z",
    "▮": "M-1.5-3.6h3v7.2h-3Z",
}
"""The markers of series, in the order of their colours: the sign for a legend, and its outline for a chart."""

VERDICTS: Final[Mapping[str, tuple[str, str, str]]] = {
    "PASS": ("✔", "●", "pass"),
    "FAIL": ("✘", "✖", "fail"),
    "ACCEPTED": ("◆", "◆", "link"),
    "INCONCLUSIVE": ("?", "▲", "inconclusive"),
}
"""The gate's verdicts: the sign before the word, the marker in charts and the colour."""

WIDTH: Final = 420
"""Width of a chart in CSS pixels: two fit side by side on the page, and one fills a phone."""

VARIABLES: Final = {value: f"var(--{name})" for name, value in LIGHT.items()}
"""The page's CSS variable for each colour of matplotlib, which has no themes and draws in the light one's."""

STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lenet-bench",
    "text.parse_math": False,
    "font.size": 11,
    "text.color": LIGHT["ink"],
    "axes.edgecolor": LIGHT["muted"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.labelsize": 11,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.labelcolor": LIGHT["ink"],
    "ytick.labelcolor": LIGHT["ink"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
}
"""Settings of matplotlib. Text is never taken for mathematics, since some of it comes from files."""


def css_variables(colors: Mapping[str, str]) -> str:
    """The declarations of a theme's CSS variables."""
    return " ".join(f"--{name}: {value};" for name, value in colors.items())


def shortened(name: str, longest: int = 26) -> str:
    """A name for a chart, with an ellipsis if it is longer than so many characters."""
    shown = visible(name)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"
