"""The page's charts, as SVG."""

from __future__ import annotations

from lenet.report.charts.architecture import draw_architecture
from lenet.report.charts.bars import Split, draw_bars, draw_boxes, draw_rates, draw_splits
from lenet.report.charts.changes import Change, draw_changes
from lenet.report.charts.lines import Trend, draw_lines
from lenet.report.charts.painter import Chart, Key, Painter
from lenet.report.charts.style import MARKERS, SERIES

__all__ = [
    "MARKERS",
    "SERIES",
    "Change",
    "Chart",
    "Key",
    "Painter",
    "Split",
    "Trend",
    "draw_architecture",
    "draw_bars",
    "draw_boxes",
    "draw_changes",
    "draw_lines",
    "draw_rates",
    "draw_splits",
]
