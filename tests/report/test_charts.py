from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from markupsafe import Markup

from lenet.report.charts import (
    SERIES,
    Painter,
    Split,
    Trend,
    draw_architecture,
    draw_bars,
    draw_boxes,
    draw_curves,
    draw_lines,
    draw_splits,
)
from lenet.report.language import ENGLISH, find_language
from lenet.results import Case, Row
from lenet.vocabulary import Mode
from tests.rows import summary, with_figures

CASE = Case("pytorch", Mode.FORWARD, "fp32", "fp32", 1000, "a GPU", "images", None, False, "coursework")  # noqa: FBT003
ROW = Row(CASE, summary(1e-3, median_low=0.9e-3, median_high=1.1e-3), None, None, 0, (), {})
ODD = ["$x^2$", r"\frac{a}{b}", "_hidden", "<b>&amp;", "#1b6ca8; fill: red", "%s {0}"]


def parsed(svg: Markup) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314 - made here


def texts(svg: Markup) -> list[str]:
    return ["".join(one.itertext()) for one in parsed(svg).iter("text")]


def row(backend: str, median: float = 1e-3, mode: Mode = Mode.FORWARD) -> Row:
    samples = tuple(median * np.linspace(0.8, 1.2, 101))
    found = replace(ROW, case=replace(CASE, backend=backend, mode=mode), samples=samples)
    return with_figures(found, median=median)


@pytest.mark.parametrize("name", ODD)
def test_a_name_is_drawn_as_it_is(name: str) -> None:
    painter = Painter(ENGLISH, [])
    charts = [
        draw_bars(painter, [row(name)], name),
        draw_boxes(painter, [row(name)], name),
        draw_splits(painter, [Split(name, {"a": 1.0})], name),
    ]
    for chart in charts:
        assert name in texts(chart.svg)
        assert next(parsed(chart.svg).iter("title")).text == name
    line = draw_lines(painter, [Trend(name, [1, 10], [1, 2])], "t", ("x", "y"), limits=[Trend(name, [1, 10], [3, 3])])
    assert name in texts(line.svg)
    assert [key.label for key in line.legend] == [name]


def test_bounds_that_lie_close_are_named_along_them_on_either_side() -> None:
    bounds = [Trend("peak", (1, 100), (100, 100)), Trend("slow", (1, 20), (5, 100)), Trend("fast", (1, 16), (6, 100))]
    chart = draw_lines(Painter(ENGLISH, []), [Trend("a", [1, 100], [1, 2])], "t", ("x", "y"), limits=bounds)
    named = {"".join(one.itertext()).strip(): one.attrib for one in parsed(chart.svg).iter("text")}
    turned = {
        name: float(named[name]["transform"].removeprefix("rotate(").split()[0]) for name in ("peak", "slow", "fast")
    }
    assert turned["peak"] == 0
    assert -60 < turned["fast"] < turned["slow"] < -20, "degrees, of lines that rise"
    assert float(named["slow"]["y"]) - float(named["fast"]["y"]) > 10, "pixels: one above its line, one below"


def test_every_colour_is_the_page_s() -> None:
    painter = Painter(ENGLISH, [])
    rows = [row("pytorch"), row("x", mode=Mode.END_TO_END)]
    for chart in (draw_architecture(painter, "a"), draw_bars(painter, rows, "b"), draw_boxes(painter, rows, "c")):
        styles = " ".join(element.get("style", "") for element in parsed(chart.svg).iter())
        assert "var(--ink)" in styles
        assert "var(--series-1)" in styles
        assert re.findall(r"#[0-9a-f]{6}", styles) == []
        assert "font-family" not in styles


def test_a_bar_is_as_long_as_its_median() -> None:
    chart = draw_bars(Painter(ENGLISH, []), [row("a", 1e-3), row("b", 3e-3)], "t")
    bars = [
        one.get("d", "") for one in parsed(chart.svg).iter("path") if "fill: var(--series-1)" in one.get("style", "")
    ]
    widths = [max(xs) - min(xs) for xs in ([float(x) for x in re.findall(r"[ML] ([\d.]+)", bar)] for bar in bars)]
    assert widths[1] / widths[0] == pytest.approx(3, rel=1e-3)


def test_a_bar_has_its_median_s_interval() -> None:
    shown = [with_figures(row("a"), median_low=0.8e-3, median_high=1.1e-3), with_figures(row("b"), median_low=None)]
    drawn = list(parsed(draw_bars(Painter(ENGLISH, []), shown, "t").svg).iter("path"))

    def across(style: str) -> list[list[float]]:
        found = [one.get("d", "") for one in drawn if style in one.get("style", "")]
        return [sorted({float(x) for x in re.findall(r"[ML] ([\d.]+)", path)}) for path in found]

    (start, end), _ = across("fill: var(--series-1)")
    whisker, *caps = across("stroke: var(--ink)")
    low, high = ((x - start) / (end - start) for x in whisker)
    assert (low, high) == pytest.approx((0.8, 1.1), rel=1e-3)
    assert caps == [[x] for x in whisker]


def test_a_box_has_its_quartiles() -> None:
    chart = draw_boxes(Painter(ENGLISH, []), [row("a"), row("b")], "t")
    boxes = [one for one in parsed(chart.svg).iter("path") if "fill: var(--paper)" in one.get("style", "")]
    assert len(boxes) == 2
    xs = [float(x) for x in re.findall(r"[ML] ([\d.]+)", boxes[0].get("d", ""))]
    ticks = {text: one for one in parsed(chart.svg).iter("text") if (text := "".join(one.itertext())) in {"0.9", "1.1"}}
    assert min(xs) == pytest.approx(float(ticks["0.9"].get("x", "nan")), abs=0.1)
    assert max(xs) == pytest.approx(float(ticks["1.1"].get("x", "nan")), abs=0.1)


def test_a_series_has_one_colour_throughout() -> None:
    painter = Painter(ENGLISH, ["a", "b"])
    first = draw_lines(painter, [Trend("b", [1, 2], [1, 2])], "t", ("x", "y"))
    second = draw_lines(painter, [Trend("new", [1, 2], [1, 2]), Trend("b", [1, 2], [1, 2])], "t", ("x", "y"))
    assert first.legend[0] == second.legend[1]
    assert first.legend[0].number == 2
    many = draw_lines(painter, [Trend(f"{one}", [1, 2], [1, 2]) for one in range(40)], "t", ("x", "y"))
    assert {key.number for key in many.legend} == set(range(1, len(SERIES) + 1))


def test_ticks_are_in_the_language() -> None:
    trend = [Trend("a", [1, 1000], [0.01, 20_000])]
    english = texts(draw_lines(Painter(ENGLISH, []), trend, "t", ("x", "y")).svg)
    russian = texts(draw_lines(Painter(find_language("ru"), []), trend, "t", ("x", "y")).svg)
    assert "0.1" in english
    assert "10,000" in english
    assert "0,1" in russian
    assert "10\N{NO-BREAK SPACE}000" in russian


def test_ticks_that_lie_close_are_told_apart_and_epochs_are_whole() -> None:
    history = [{"epoch": 1.0, "train_loss": 2.3078, "test_loss": 2.301}]
    ticks = texts(draw_curves(Painter(ENGLISH, []), history, "loss", "t", "y").svg)
    assert len(set(ticks)) == len(ticks)
    assert "2.304" in ticks
    assert [one for one in ticks if one.startswith(("0", "1"))] == ["1"]


def test_the_program_s_own_settings_stay() -> None:
    before = dict(mpl.rcParams)
    draw_bars(Painter(ENGLISH, []), [row("a")], "t")
    assert dict(mpl.rcParams) == before


def test_two_charts_share_no_name() -> None:
    painter = Painter(ENGLISH, [])
    charts = [parsed(draw_lines(painter, [Trend("a", [1, 2], [1, 2])], "t", ("x", "y")).svg) for _ in range(2)]
    names = [{one.get("id") for one in chart.iter() if one.get("id")} for chart in charts]
    assert names[0]
    assert not names[0] & names[1]
    links = {one.get("href") for one in charts[0].iter("use")}
    assert links
    assert links <= {f"#{name}" for name in names[0]}
