"""The charts' colours, markers and settings of matplotlib.

matplotlib has no themes. So each colour is the light theme's value, and `lenet.report.charts.svg.to_svg` replaces it by
the page's CSS variable.
"""

from __future__ import annotations

from typing import Any, Final

from lenet.terminal import visible

__all__ = [
    "GRID",
    "INK",
    "MARKERS",
    "MARKER_SIGNS",
    "MUTED",
    "PAPER",
    "SERIES",
    "STYLE",
    "VARIABLES",
    "WIDTH",
    "shortened",
]

INK: Final = "#1c2024"
MUTED: Final = "#5f6973"
GRID: Final = "#d8dde3"
PAPER: Final = "#fdfdfe"
SERIES: Final = ("#1b6ca8", "#c8553d", "#2e8b57", "#8e5ea2", "#a87908", "#0f8b8d", "#a23e6d", "#5b6b7b")
"""Colours of series: a contrast of 3:1 or more with the page. Markers tell the series apart as well."""

MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
MARKER_SIGNS: Final = ("●", "■", "▲", "◆", "▼", "✚", "✖", "★")
"""The same markers as characters, for a legend in text."""

VARIABLES: Final = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    PAPER: "var(--paper)",
    **{color: f"var(--series-{number})" for number, color in enumerate(SERIES, 1)},
}
"""The page's CSS variable for each colour."""

WIDTH: Final = 420
"""Width of a chart in CSS pixels: two fit side by side on the page, and one fills a phone."""

STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lenet-bench",
    "text.parse_math": False,
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 11,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
}
"""Settings of matplotlib. Text is never taken for mathematics, since some of it comes from files."""


def shortened(name: str, longest: int = 26) -> str:
    """A name for a chart, with an ellipsis if it is longer than so many characters."""
    shown = visible(name)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"
