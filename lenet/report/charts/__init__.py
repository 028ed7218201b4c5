"""The report's charts: matplotlib draws them, and the page gets SVG."""

from __future__ import annotations

from lenet.report.charts.architecture import draw_architecture
from lenet.report.charts.bars import Split, draw_bars, draw_boxes, draw_splits
from lenet.report.charts.lines import Trend, draw_curves, draw_lines
from lenet.report.charts.painter import Chart, Key, Painter
from lenet.report.charts.style import SERIES

__all__ = [
    "SERIES",
    "Chart",
    "Key",
    "Painter",
    "Split",
    "Trend",
    "draw_architecture",
    "draw_bars",
    "draw_boxes",
    "draw_curves",
    "draw_lines",
    "draw_splits",
]
