from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from lenet import backends
from lenet.measurement.floor import Floor
from lenet.report.charts import (
    MARKERS,
    SERIES,
    Painter,
    Split,
    Trend,
    draw_architecture,
    draw_bars,
    draw_boxes,
    draw_lines,
    draw_rates,
    draw_splits,
)
from lenet.report.charts.scale import Scale, spanning
from lenet.report.charts.style import DARK, LIGHT, PARTS
from lenet.report.curves import draw_chart
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
    painter = Painter(ENGLISH)
    charts = [
        draw_bars(painter, [row(name)], name),
        draw_boxes(painter, [row(name)], name),
        draw_splits(painter, [Split(name, {"copy": 1.0})], name),
        draw_rates(painter, [row(name)], name),
    ]
    for chart in charts:
        assert name in texts(chart.svg)
        assert next(parsed(chart.svg).iter("title")).text == name
    line = draw_lines(painter, [Trend(name, [1, 10], [1, 2])], "t", ("x", "y"), limits=[Trend(name, [1, 10], [3, 3])])
    assert name in texts(line.svg)
    assert [key.label for key in line.legend] == [name]


def test_bounds_that_lie_close_are_named_along_them_on_either_side() -> None:
    bounds = [Trend("peak", (1, 100), (100, 100)), Trend("slow", (1, 20), (5, 100)), Trend("fast", (1, 16), (6, 100))]
    chart = draw_lines(Painter(ENGLISH), [Trend("a", [1, 100], [1, 2])], "t", ("x", "y"), limits=bounds)
    named = {"".join(one.itertext()).strip(): one.attrib for one in parsed(chart.svg).iter("text")}
    turned = {
        name: float(named[name].get("transform", "rotate(0 ").removeprefix("rotate(").split()[0])
        for name in ("peak", "slow", "fast")
    }
    assert turned["peak"] == 0
    assert -60 < turned["fast"] < turned["slow"] < -20, "degrees, of lines that rise"
    assert float(named["slow"]["y"]) - float(named["fast"]["y"]) > 10, "pixels: one above its line, one below"


def test_every_colour_is_the_page_s() -> None:
    painter = Painter(ENGLISH)
    rows = [row("pytorch"), row("x", mode=Mode.END_TO_END)]
    history = [{"epoch": 1.0, "train_loss": 2.3078, "test_loss": 2.301}]
    for chart in (
        draw_architecture(painter, "a"),
        draw_bars(painter, rows, "b"),
        draw_boxes(painter, rows, "c"),
        draw_chart(painter, history, "loss"),
    ):
        styles = " ".join(element.get("style", "") for element in parsed(chart.svg).iter())
        assert re.search(r"var\(--series-1\)", styles)
        assert re.findall(r"#[0-9a-f]{6}", styles) == []
        assert "font-family" not in styles
        assert set(re.findall(r"var\(--([\w-]+)\)", styles)) <= LIGHT.keys()


def rectangles(svg: Markup, color: str) -> list[tuple[float, float]]:
    """Where each rectangle of a colour begins and ends."""
    found = [one.attrib for one in parsed(svg).iter("rect") if f"fill:var(--{color})" in one.get("style", "")]
    return [(float(one["x"]), float(one["x"]) + float(one["width"])) for one in found]


def test_a_bar_is_as_long_as_its_median() -> None:
    chart = draw_bars(Painter(ENGLISH), [row("pytorch", 1e-3), row("tripy", 3e-3)], "t")
    (short,), (long,) = (rectangles(chart.svg, Painter(ENGLISH).color(name)) for name in ("pytorch", "tripy"))
    assert (long[1] - long[0]) / (short[1] - short[0]) == pytest.approx(3, rel=0.01)
    assert long[0] == short[0]


def test_a_bar_has_its_median_s_interval() -> None:
    known = with_figures(row("pytorch"), median_low=0.8e-3, median_high=1.1e-3)
    chart = draw_bars(Painter(ENGLISH), [known, with_figures(row("tripy"), median_low=None)], "t")
    ((start, end),) = rectangles(chart.svg, "series-1")
    lines = [one.get("d", "") for one in parsed(chart.svg).iter("path") if "stroke:var(--ink)" in one.get("style", "")]
    whisker, *caps = ([float(x) for x in re.findall(r"[ML]([\d.]+)", line)] for line in lines)
    low, high = ((x - start) / (end - start) for x in whisker)
    assert (low, high) == pytest.approx((0.8, 1.1), rel=0.01)
    assert caps == [[x, x] for x in whisker]


def test_what_rests_on_an_unstable_row_is_marked() -> None:
    painter = Painter(ENGLISH)
    rows = [row("pytorch"), replace(row("tripy", 2e-3), unstable=("a long tail",))]
    assert {"1.00", "2.00 !"} <= set(texts(draw_bars(painter, rows, "t").svg))
    assert {"pytorch", "tripy !"} <= set(texts(draw_boxes(painter, rows, "t").svg))
    splits = [Split("pytorch", {"copy": 1.0}), Split("tripy", {"copy": 1.0, "forward": 1.0}, unstable=True)]
    assert {"1.00", "2.00 !"} <= set(texts(draw_splits(painter, splits, "t").svg))
    line = draw_lines(painter, [Trend("pytorch", [1, 10], [1, 2], [False, True])], "t", ("x", "y"))
    fills = [one.get("style", "") for one in parsed(line.svg).iter("path") if one.get("transform")]
    assert fills == ["fill:var(--series-1)", "fill:var(--paper);stroke:var(--series-1)"]


def test_the_parts_have_one_colour_and_order_in_every_chart() -> None:
    painter = Painter(ENGLISH)
    usual = Split("pytorch", {"copy": 1.0, "forward": 1.0, "rest": 1.0})
    overlapping = Split("tripy", {"forward": 1.0, "copy and rest": 1.0})
    alone = draw_splits(painter, [overlapping], "t").legend
    both = draw_splits(painter, [overlapping, usual], "t").legend
    assert [key.color for key in both] == list(PARTS.values())[:4]
    assert [key for key in both if key in alone] == alone


def test_a_box_has_its_quartiles() -> None:
    chart = draw_boxes(Painter(ENGLISH), [row("a"), row("b")], "t")
    boxes = rectangles(chart.svg, "paper")
    assert len(boxes) == 2
    ticks = {text: one for one in parsed(chart.svg).iter("text") if (text := "".join(one.itertext())) in {"0.9", "1.1"}}
    assert boxes[0] == pytest.approx([float(ticks[text].get("x", "nan")) for text in ("0.9", "1.1")], abs=0.3)


def test_a_runtime_has_one_colour_marker_and_place_in_every_report() -> None:
    first, second = Painter(ENGLISH), Painter(ENGLISH)
    names = backends.names()
    pairs = [Trend(name, [1, 2], [1, 2]) for name in names]
    whole = draw_lines(first, pairs[::-1], "t", ("x", "y")).legend
    assert [key.label for key in whole] == list(names)
    assert len({(key.color, key.sign) for key in whole}) == len(names)
    for key, trend in zip(whole, pairs, strict=True):
        assert draw_lines(second, [trend], "t", ("x", "y")).legend == [key]
    rows = [row(name) for name in names[::-1]]
    for chart in (draw_bars(first, rows, "t"), draw_boxes(first, rows, "t")):
        assert [text for text in texts(chart.svg) if text in names] == list(names)


def test_a_runtime_that_is_not_the_project_s_has_a_colour_of_the_table() -> None:
    many = draw_lines(Painter(ENGLISH), [Trend(f"{one}", [1, 2], [1, 2]) for one in range(40)], "t", ("x", "y"))
    assert {key.color for key in many.legend} == set(SERIES)
    assert len(MARKERS) == len(SERIES)


def test_ticks_are_in_the_language() -> None:
    trend = [Trend("a", [1, 1000], [0.1, 20_000])]
    english = texts(draw_lines(Painter(ENGLISH), trend, "t", ("x", "y")).svg)
    russian = texts(draw_lines(Painter(find_language("ru")), trend, "t", ("x", "y")).svg)
    assert "0.1" in english
    assert "10,000" in english
    assert "0,1" in russian
    assert "10\N{NO-BREAK SPACE}000" in russian


def test_ticks_that_lie_close_are_told_apart_and_epochs_are_whole() -> None:
    history = [{"epoch": 1.0, "train_loss": 2.3078, "test_loss": 2.301}]
    ticks = texts(draw_chart(Painter(ENGLISH), history, "loss").svg)
    assert len(set(ticks)) == len(ticks)
    assert "2.304" in ticks
    assert [one for one in ticks if one.startswith(("0", "1"))] == ["1"]


def test_the_program_s_own_settings_stay() -> None:
    before = dict(mpl.rcParams)
    draw_bars(Painter(ENGLISH), [row("a")], "t")
    assert dict(mpl.rcParams) == before


def test_two_charts_share_no_name() -> None:
    painter = Painter(ENGLISH)
    charts = [parsed(draw_lines(painter, [Trend("a", [1, 2], [1, 2])], "t", ("x", "y")).svg) for _ in range(2)]
    names = [{one.get("id") for one in chart.iter() if one.get("id")} for chart in charts]
    assert names[0]
    assert not names[0] & names[1]


def test_two_curves_share_no_name_and_link_to_their_own() -> None:
    painter = Painter(ENGLISH)
    history = [{"epoch": 1.0, "train_loss": 2.3078, "test_loss": 2.301}]
    charts = [parsed(draw_chart(painter, history, "loss").svg) for _ in range(2)]
    names = [{one.get("id") for one in chart.iter() if one.get("id")} for chart in charts]
    assert not names[0] & names[1]
    links = {one.get("href") for one in charts[0].iter("use")}
    assert links
    assert links <= {f"#{name}" for name in names[0]}


def test_the_dark_theme_has_every_colour_of_the_light_one() -> None:
    assert DARK.keys() == LIGHT.keys()
    assert len(set(LIGHT.values())) == len(LIGHT), "matplotlib's colours become variables by their value"


@given(st.lists(st.floats(1e-12, 1e12), min_size=1, max_size=5), st.booleans())
def test_an_axis_holds_its_values_and_has_ticks(values: list[float], log: bool) -> None:
    scale = spanning(values, 40, 400, log=log)
    for value in values:
        assert 40 <= scale.place(value) <= 400
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 16
    assert all(scale.low <= tick <= scale.high for tick in ticks)


def test_an_axis_is_linear_or_logarithmic() -> None:
    assert Scale(0, 10, 0, 100).place(5) == 50
    assert Scale(1, 100, 0, 100, log=True).place(10) == pytest.approx(50)
    assert Scale(0, 10, 0, 100).ticks() == [0, 2, 4, 6, 8, 10]
    assert Scale(1, 1000, 0, 100, log=True).ticks() == [1, 10, 100, 1000]


def test_rates_stand_beside_what_the_limits_allow() -> None:
    painter = Painter(ENGLISH)
    bounded = replace(row("pytorch", 2e-3), floor=Floor(1e-3, "copy"), unstable=("why",))
    chart = draw_rates(painter, [row("tripy", 4e-3), bounded], "t")
    shown = texts(chart.svg)
    assert shown == ["images/s", "pytorch", "500,000 !", "tripy", "250,000"]
    assert [key.label for key in chart.legend] == ["what the machine's limits allow"]
    bars = [float(one.get("width", "0")) for one in parsed(chart.svg).iter("rect")]
    assert bars[0] == pytest.approx(2 * bars[1], rel=0.01), "twice the rate is twice the bar"
    (bound,) = (one for one in parsed(chart.svg).iter("path") if "ink" in str(one.attrib))
    assert bound.get("d")
    assert not draw_rates(painter, [row("tripy")], "t").legend
