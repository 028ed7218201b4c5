"""The report's charts: matplotlib draws them, and the page gets SVG with the page's own colours and fonts.

matplotlib has no themes. So each colour here is the light theme's value, and `to_svg` replaces it by the page's CSS
variable. Text stays text, so that it can be read aloud, searched and translated. It is never taken for mathematics,
since some of it comes from files.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from xml.etree import ElementTree as ET

import numpy as np
from markupsafe import Markup

from lenet.architecture import INPUT_SHAPE, STAGES, Conv2d, Layer, Linear, MaxPool2d, ReLU
from lenet.report.drawing import (
    Axes,
    Figure,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
    Rectangle,
    settings,
)
from lenet.report.language import Language
from lenet.report.rounding import count, significant
from lenet.results import Row
from lenet.terminal import visible
from lenet.vocabulary import Mode

__all__ = [
    "SERIES",
    "Chart",
    "Key",
    "Painter",
    "Split",
    "Trend",
]

INK: Final = "#1c2024"
MUTED: Final = "#5f6973"
GRID: Final = "#d8dde3"
PAPER: Final = "#fdfdfe"
SERIES: Final = ("#1b6ca8", "#c8553d", "#2e8b57", "#8e5ea2", "#a87908", "#0f8b8d", "#a23e6d", "#5b6b7b")
"""Colours of series: a contrast of 3:1 or more with the page. Markers tell the series apart as well."""
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
_MARKER_SIGNS: Final = ("●", "■", "▲", "◆", "▼", "✚", "✖", "★")
_VARIABLES: Final = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    PAPER: "var(--paper)",
    **{color: f"var(--series-{number})" for number, color in enumerate(SERIES, 1)},
}
_WIDE: Final = 1080
_ARROW: Final = {"arrowstyle": "-|>", "color": MUTED, "linewidth": 1.0, "shrinkA": 0, "shrinkB": 0}
_WIDTH: Final = 420
"""Width of a chart in CSS pixels: two fit side by side on the page, and one fills a phone."""
_SUBDIVISIONS: Final = ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,))
"""Ticks in a decade, for an axis that spans less than one decade, less than two, or more."""
_SVG: Final = "{http://www.w3.org/2000/svg}"
_LINK: Final = "{http://www.w3.org/1999/xlink}href"
_STYLE: Final[dict[Any, Any]] = {
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


@dataclass(frozen=True, slots=True)
class Trend:
    """A line of a chart.

    Attributes:
        name: Name of the series.
        x: Horizontal values.
        y: Vertical values.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True, slots=True)
class Split:
    """The parts of an end-to-end time, in milliseconds.

    Attributes:
        name: Name of the bar.
        parts: Milliseconds by the name of the part, in the order of time.
    """

    name: str
    parts: dict[str, float]


@dataclass(slots=True)
class _Tensor:
    name: str
    operation: str
    shape: Sequence[int]
    parameters: int


class Painter:
    """Draws a page's charts in one language. A series has one colour in all of them.

    Args:
        language: Language of all texts.
        names: Names of the series, in the order of their colours.
    """

    def __init__(self, language: Language, names: Sequence[str]) -> None:
        self._language = language
        self._places = {name: place for place, name in enumerate(dict.fromkeys(names))}
        self._drawn = 0

    def curves(self, history: Sequence[dict[str, float]], quantity: str, title: str, label: str) -> Chart:
        """Figures 1 and 2 of the coursework: a quantity over the epochs, for the training and the test images.

        Args:
            history: The rows of ``history.csv``.
            quantity: ``loss`` or ``accuracy``.
            title: Title of the figure.
            label: Label of the vertical axis.
        """
        scale = 100.0 if quantity == "accuracy" else 1.0
        epochs = [row["epoch"] for row in history]
        names = (self._language.text("training images, augmented"), self._language.text("test images"))
        with settings(_STYLE):
            figure, axes = self._axes(270, left=56)
            for place, split in enumerate(("train", "test")):
                values = [scale * row[f"{split}_{quantity}"] for row in history]
                marker = _MARKERS[place] if len(history) <= 15 else ""  # noqa: PLR2004 - more would hide the line
                axes.plot(epochs, values, "-" if place else "--", color=SERIES[place], marker=marker)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.set(xlabel=self._language.text("epoch"), ylabel=label)
            self._plain(axes.xaxis, axes.yaxis)
            last = "; ".join(
                f"{name}: {self._shown(scale * history[-1][f'{split}_{quantity}'])}"
                for name, split in zip(names, ("train", "test"), strict=True)
            )
            text = self._language.text("After epoch %(epoch)s, %(values)s.", epoch=f"{epochs[-1]:.0f}", values=last)
            keys = [Key(place + 1, _MARKER_SIGNS[place], name) for place, name in enumerate(names)]
            return Chart(self._to_svg(figure, title, text), title, keys)

    def bars(self, rows: Sequence[Row], title: str) -> Chart:
        """The speed table as bars: a backend's median in each mode, with its 95 % interval."""
        names = list(dict.fromkeys(row.case.backend for row in rows))
        modes = [mode for mode in Mode if any(row.case.mode is mode for row in rows)]
        thickness = 0.74 / len(modes)
        with settings(_STYLE):
            figure, axes = self._bar_axes(names, 20 * len(modes) + 8)
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
                axes.text(end + 0.026 * max(ends), place, self._shown(time), va="center_baseline")
            axes.set_xlim(0, 1.18 * max(ends))
            axes.set_xlabel(self._language.text("ms/batch"))
            self._plain(axes.xaxis)
            return Chart(self._to_svg(figure, title, self._medians(rows)), title, self._mode_keys(modes))

    def boxes(self, rows: Sequence[Row], title: str) -> Chart:
        """The spread of each row's rounds: quartiles and median, whiskers at the 5th and 95th percentile, the extremes.

        Args:
            rows: Rows that differ only in the backend, each with its samples.
            title: Title of the chart.
        """
        names = [row.case.backend for row in rows]
        with settings(_STYLE):
            figure, axes = self._bar_axes(names, 30)
            colors = list(map(self._color, names))
            spread = [1e3 * np.quantile(row.samples or (), [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]) for row in rows]
            least, low, first, middle, third, high, most = np.array(spread).T
            places = np.arange(len(rows))
            axes.hlines(places, low, high, colors=colors, linewidth=1.4)
            axes.barh(places, third - first, 0.56, left=first, color=PAPER, edgecolor=colors, linewidth=1.2)
            axes.vlines(middle, places - 0.28, places + 0.28, colors=colors, linewidth=2.6)
            for extremes in (least, most):
                axes.scatter(extremes, places, 6, c=colors)
            axes.set_xscale("log" if self._wide(rows) else "linear")
            axes.set_xlabel(self._language.text("ms/batch"))
            self._plain(axes.xaxis)
            return Chart(self._to_svg(figure, title, self._medians(rows)), title)

    def lines(
        self,
        trends: Sequence[Trend],
        title: str,
        labels: tuple[str, str],
        *,
        x_log: bool = True,
        ticks: Sequence[str] = (),
        limits: Sequence[Trend] = (),
    ) -> Chart:
        """Lines with markers on a logarithmic vertical axis.

        Args:
            trends: The lines.
            title: Title of the chart.
            labels: Labels of the horizontal and the vertical axis.
            x_log: Whether the horizontal axis is logarithmic too.
            ticks: Names of the horizontal places 0, 1, 2 and so on, if they are no quantity.
            limits: Bounds, drawn thin. The name of a level bound is above its end, of a rising one along its beginning.
        """
        with settings(_STYLE):
            figure, axes = self._axes(300, left=80, bottom=74 if ticks else 38)
            axes.set_yscale("log")
            if x_log:
                axes.set_xscale("log")
            for limit in limits:
                axes.plot(limit.x, limit.y, color=MUTED, linewidth=1.2)
                _name_limit(axes, limit, limits)
            for trend in trends:
                marker = _MARKERS[self._place(trend.name) % len(_MARKERS)]
                line = "-" if len(trend.x) > 1 else ""
                axes.plot(trend.x, trend.y, line, color=self._color(trend.name), marker=marker)
            axes.set(xlabel=labels[0], ylabel=labels[1])
            self._plain(axes.xaxis, axes.yaxis)
            if ticks:
                names = list(map(visible, ticks))
                axes.set_xticks(range(len(ticks)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=10)
                axes.set_xlim(-0.3, len(ticks) - 0.7)
            text = "; ".join(f"{one.name}: {', '.join(map(self._shown, one.y))}" for one in trends)
            return Chart(self._to_svg(figure, title, f"{labels[1]}. {text}."), title, self._keys(trends))

    def splits(self, splits: Sequence[Split], title: str) -> Chart:
        """The parts of end-to-end times, as stacked bars."""
        parts = list(dict.fromkeys(name for split in splits for name in split.parts))
        with settings(_STYLE):
            figure, axes = self._bar_axes([split.name for split in splits], 30)
            for place, split in enumerate(splits):
                start = 0.0
                for name, value in split.parts.items():
                    axes.barh(place, value, 0.62, left=start, color=SERIES[parts.index(name)])
                    start += value
            axes.set_xlabel(self._language.text("ms/batch"))
            self._plain(axes.xaxis)
            text = "; ".join(
                f"{split.name}: " + ", ".join(f"{name} {self._shown(value)}" for name, value in split.parts.items())
                for split in splits
            )
            keys = [Key(place + 1, "■", name) for place, name in enumerate(parts)]
            return Chart(self._to_svg(figure, title, f"{text}."), title, keys)

    def architecture(self, title: str) -> Chart:
        """The network, drawn from its layer table: a stack of feature maps or a column for each tensor."""
        text, number = self._language.text, self._language.number
        tensors = [_Tensor(text("input"), "", INPUT_SHAPE, 0)]
        for stage in STAGES:
            if isinstance(stage.layer, ReLU):  # it changes no shape, so it stands beside the layer before it
                tensors[-1].operation += " + ReLU"
            else:
                tensors.append(_Tensor(stage.layer.name, _operation(stage.layer), stage.output_shape, stage.parameters))
        with settings({**_STYLE, "axes.grid": False}):
            figure = Figure(figsize=(_WIDE / 72, 290 / 72))
            figure.patch.set_visible(False)
            axes = figure.add_axes((0, 0, 1, 1))
            axes.set_axis_off()
            axes.set(xlim=(0, _WIDE), ylim=(290, 0))
            step, edge = _WIDE / len(tensors), 0.0
            for place, tensor in enumerate(tensors):
                middle = step * (place + 0.5)
                half = _draw_tensor(axes, tensor.shape, middle, SERIES[2 if len(tensor.shape) == 1 else 0])
                if place:
                    axes.annotate("", (middle - half - 3, 130), (edge + 3, 130), arrowprops=_ARROW)
                edge = middle + half
                parameters = text("%(count)s par.", count=number(count(tensor.parameters))) if tensor.parameters else ""
                for line, (words, color) in enumerate(
                    ((tensor.operation, INK), (tensor.name, MUTED), (_shape(tensor.shape), INK), (parameters, MUTED))
                ):
                    axes.text(middle, (18, 236, 254, 272)[line], words, ha="center", va="center", color=color)
            drawn = "; ".join(f"{tensor.name} {tensor.operation} {_shape(tensor.shape)}" for tensor in tensors)
            return Chart(self._to_svg(figure, title, f"{drawn}."), title)

    def _axes(self, height: int, *, left: int, bottom: int = 38) -> tuple[Figure, Axes]:
        figure = Figure(figsize=(_WIDTH / 72, height / 72))
        figure.patch.set_visible(False)
        box = (left / _WIDTH, bottom / height, 1 - (left + 22) / _WIDTH, 1 - (bottom + 12) / height)
        return figure, figure.add_axes(box)

    def _bar_axes(self, names: Sequence[str], step: int) -> tuple[Figure, Axes]:
        """Axes for horizontal bars, the first at the top, with space for their names."""
        shown = list(map(_shortened, names))
        figure, axes = self._axes(54 + step * len(names), left=16 + round(6.3 * max(map(len, shown))))
        axes.set_yticks(range(len(names)), shown)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        return figure, axes

    def _plain(self, *sides: Any) -> None:
        """Numbers in the language, never as powers of ten in mathematics."""
        for axis in sides:
            axis.set_minor_locator(NullLocator())
            if axis.get_scale() == "log":
                axis.set_major_locator(LogLocator(subs=_SUBDIVISIONS[min(math.floor(_decades(axis)), 2)]))
            axis.set_major_formatter(FuncFormatter(partial(self._tick, axis)))

    def _tick(self, axis: Any, value: float, _place: int | None) -> str:
        """A tick's number, with as many digits as tell it from the others."""
        places = axis.get_majorticklocs()
        apart = (digits for digits in range(3, 9) if len({significant(one, digits) for one in places}) == len(places))
        return self._shown(value, next(apart, 9))

    def _shown(self, value: float, digits: int = 3) -> str:
        large = abs(value) >= 1e4  # noqa: PLR2004 - where digits begin to need grouping
        return self._language.number(count(round(value)) if large else significant(value, digits))

    def _medians(self, rows: Sequence[Row]) -> str:
        words = {Mode.FORWARD: self._language.text("forward"), Mode.END_TO_END: self._language.text("e2e")}
        unit = self._language.text("ms/batch")
        return "; ".join(
            f"{row.case.backend}, {words[row.case.mode]}: {self._shown(row.milliseconds_per_batch)} {unit}"
            for row in rows
        )

    def _mode_keys(self, modes: Sequence[Mode]) -> list[Key]:
        words = {Mode.FORWARD: self._language.text("forward"), Mode.END_TO_END: self._language.text("end to end")}
        return [Key(list(Mode).index(mode) + 1, "■", words[mode]) for mode in modes]

    def _keys(self, trends: Sequence[Trend]) -> list[Key]:
        places = {trend.name: self._place(trend.name) for trend in trends}
        return [Key(at % len(SERIES) + 1, _MARKER_SIGNS[at % len(_MARKERS)], name) for name, at in places.items()]

    def _place(self, name: str) -> int:
        return self._places.setdefault(name, len(self._places))

    def _color(self, name: str) -> str:
        return SERIES[self._place(name) % len(SERIES)]

    @staticmethod
    def _wide(rows: Sequence[Row]) -> bool:
        times = [time for row in rows for time in (row.samples or ())]
        return max(times) > 10 * min(times)

    def _to_svg(self, figure: Figure, title: str, text: str) -> Markup:
        self._drawn += 1
        return to_svg(figure, f"chart{self._drawn}", title, text)


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


def to_svg(figure: Figure, name: str, title: str, text: str) -> Markup:
    """A figure as an SVG element for a page, with CSS variables for colours, the page's fonts, and unique names.

    Args:
        figure: The figure, drawn in this module's colours.
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
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-text",
    }
    for tag, content in (("desc", text), ("title", title)):
        described = ET.Element(tag, id=f"{name}-{'text' if tag == 'desc' else tag}")
        described.text = visible(content)
        root.insert(0, described)
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
        found["style"] = re.sub(r"#[0-9a-f]{6}", lambda hit: _VARIABLES.get(hit[0], hit[0]), style)
    for key in ("d", "x", "y", "transform"):
        if key in found:
            found[key] = re.sub(r"-?\d+\.\d+", lambda hit: f"{float(hit[0]):.2f}".rstrip("0").rstrip("."), found[key])
    if "d" in found:
        found["d"] = " ".join(found["d"].split())


def _without_family(found: re.Match[str]) -> str:
    return f"font-size: {found[2].strip()}; " if found[2] else ""


def _decades(axis: Any) -> float:
    low, high = axis.get_view_interval()
    return math.log10(high / low)


def _name_limit(axes: Axes, limit: Trend, limits: Sequence[Trend]) -> None:
    name = _shortened(limit.name)
    rise = limit.y[-1] - limit.y[0]
    if rise == 0:
        axes.annotate(
            name, (limit.x[-1], limit.y[-1]), (-2, 3), textcoords="offset points",
            ha="right", va="bottom", color=MUTED, fontsize=10,
        )  # fmt: skip
        return
    # Of two lines that lie close, the upper has its name above, the lower below.
    upper = all(limit.y[0] >= other.y[0] for other in limits if other.y[-1] != other.y[0])
    angle = math.degrees(math.atan2(rise, limit.x[-1] - limit.x[0]))
    axes.text(
        limit.x[0], limit.y[0], f" {name}", rotation=angle, rotation_mode="anchor", transform_rotates_text=True,
        va="bottom" if upper else "top", color=MUTED, fontsize=10,
    )  # fmt: skip


def _shortened(name: str, longest: int = 26) -> str:
    shown = visible(name)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _operation(layer: Layer) -> str:
    match layer:
        case Conv2d():
            return f"Conv {layer.kernel}×{layer.kernel}"
        case MaxPool2d():
            return f"MaxPool {layer.window}×{layer.window}"
        case Linear():
            return "FC"
        case _:
            return type(layer).__name__


def _draw_tensor(axes: Axes, shape: Sequence[int], middle: float, color: str) -> float:
    """Draw one image's tensor around a place, as stacked feature maps or as a column. Returns half its width."""
    if len(shape) == 1:
        height = 9 * math.sqrt(shape[0])
        axes.add_patch(Rectangle((middle - 6, 130 - height / 2), 12, height, facecolor=color, edgecolor=PAPER))
        return 6
    channels, height, width = shape[0], 2.3 * shape[1], 2.3 * shape[2]
    shift = 2.2 * (channels - 1) / 2
    for channel in range(channels):
        corner = (middle - width / 2 + shift - 2.2 * channel, 130 - height / 2 - shift + 2.2 * channel)
        axes.add_patch(Rectangle(corner, width, height, facecolor=color, edgecolor=PAPER, linewidth=0.8))
    return width / 2 + shift
