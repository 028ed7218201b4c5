"""Known answers from published tables, and properties that hold for every sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, zip_longest
from random import Random
from statistics import stdev
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom

from lenet.measurement import statistics
from lenet.measurement.statistics import instabilities, summarize

Floats = NDArray[np.float64]
timings = st.lists(st.floats(1e-6, 10.0), min_size=1, max_size=60)
# Ticks of a clock: no change of unit or offset makes two of them equal, so that each keeps its rank.
ticks = st.lists(st.integers(1, 10**7).map(lambda number: number / 10**6), min_size=20, max_size=60)
factors = st.floats(0.01, 100.0)
shifts = st.floats(0.0, 100.0)
LOCATIONS: dict[str, Callable[[list[float]], float]] = {
    "median": statistics.median,
    "p99": lambda sample: statistics.quantile(sample, 0.99),
    "interval_low": lambda sample: statistics.median_interval(sample, 0.4).low,  # type: ignore[union-attr]
}
# Mavro, of NIST's Statistical Reference Datasets (univariate summary statistics): transmittances, and certified values.
MAVRO = [
    *(2.00180, 2.00170, 2.00180, 2.00190, 2.00180, 2.00170, 2.00150, 2.00140, 2.00150, 2.00150),
    *(2.00170, 2.00180, 2.00180, 2.00190, 2.00190, 2.00210, 2.00200, 2.00160, 2.00140, 2.00130),
    *(2.00130, 2.00150, 2.00150, 2.00160, 2.00150, 2.00140, 2.00130, 2.00140, 2.00150, 2.00140),
    *(2.00150, 2.00160, 2.00150, 2.00160, 2.00190, 2.00200, 2.00200, 2.00210, 2.00220, 2.00230),
    *(2.00240, 2.00250, 2.00270, 2.00260, 2.00260, 2.00260, 2.00270, 2.00260, 2.00250, 2.00240),
]


def alternating(sample: list[float]) -> list[float]:
    """The same values in an order in which a small one follows a large one: no interval of them is widened."""
    ordered = sorted(sample)
    half = len(ordered) // 2
    return [value for pair in zip_longest(ordered[half:], ordered[:half]) for value in pair if value is not None]


@pytest.mark.parametrize(
    ("sample", "probability", "value"),
    [
        ([1, 2, 3, 4], 0.5, 2.5),
        ([15, 20, 35, 40, 50], 0.4, 29.0),  # the worked example of the "linear" definition: 20 + 0.6 (35 - 20)
        (list(range(1, 101)), 0.95, 95.05),
        (list(range(1, 101)), 0.99, 99.01),
        ([7], 0.99, 7),
    ],
)
def test_a_quantile_lies_between_order_statistics(sample: list[float], probability: float, value: float) -> None:
    assert statistics.quantile(sample, probability) == pytest.approx(value)


def test_the_interquartile_range_is_between_the_quartiles() -> None:
    assert statistics.interquartile_range([1, 2, 3, 4, 5]) == 2


def test_mean_deviation_and_autocorrelation_are_those_certified_by_nist() -> None:
    summary = summarize(MAVRO)

    assert summary.mean == pytest.approx(2.00185600000000, rel=1e-14)
    assert summary.stddev == pytest.approx(0.000429123454003053, rel=1e-11)
    assert summary.autocorrelation == pytest.approx(0.937989183438248, rel=1e-11)


@pytest.mark.parametrize(
    ("sample", "certified"),
    [
        # NumAcc1 and NumAcc2 of the same datasets.
        ([10000001.0, 10000003.0, 10000002.0], -0.5),
        ([1.2, *[1.1, 1.3] * 500], -0.999),
        # NumAcc3 and NumAcc4: the same upon an offset.
        ([1000000.2, *[1000000.1, 1000000.3] * 500], -0.999),
        ([10000000.2, *[10000000.1, 10000000.3] * 500], -0.999),
    ],
)
def test_alternating_values_have_a_negative_autocorrelation(sample: list[float], certified: float) -> None:
    assert statistics.lag1_autocorrelation(sample) == pytest.approx(certified, rel=1e-7)


def test_every_figure_of_a_summary_is_its_own() -> None:
    """Of the squares of 1 to 100, by hand; quantiles are at the 0-based place 99 p (Hyndman and Fan's number 7)."""
    summary = summarize(alternating([number**2 for number in range(1, 101)]))

    assert replace(summary, stddev=0, autocorrelation=0).as_dict() == pytest.approx(
        {
            "rounds": 100,
            "minimum": 1,
            "median": (50**2 + 51**2) / 2,
            "mean": 3383.5,  # 101 * 201 / 6
            "p95": 95**2 + 0.05 * (96**2 - 95**2),
            "p99": 99**2 + 0.01 * (100**2 - 99**2),
            "iqr": (75**2 + 0.25 * (76**2 - 75**2)) - (25**2 + 0.75 * (26**2 - 25**2)),
            "maximum": 10_000,
            "stddev": 0,
            "median_low": 40**2,
            "median_high": 61**2,
            "coverage": 1 - 2 * binom.cdf(39, 100, 0.5),
            "relative_half_width": (61**2 - 40**2) / 2 / 2550.5,
            "autocorrelation": 0,
        },
        rel=1e-12,
    )
    assert summary.stddev == pytest.approx(stdev([number**2 for number in range(1, 101)]))


def test_a_summary_s_interval_has_the_confidence_that_is_asked_for() -> None:
    """Nair's ranks of 50 values: 18 and 33 at 95 %, 16 and 35 at 99 %."""
    sample = alternating([float(number) for number in range(1, 51)])
    ends = {confidence: summarize(sample, confidence) for confidence in (0.95, 0.99)}

    assert [(one.median_low, one.median_high) for one in ends.values()] == [(18, 33), (16, 35)]
    assert [round(100 * (one.coverage or 0), 1) for one in ends.values()] == [96.7, 99.3]
    assert [one.relative_half_width for one in ends.values()] == pytest.approx([7.5 / 25.5, 9.5 / 25.5])
    assert statistics.relative_half_width(sample) == pytest.approx(7.5 / 25.5)
    assert statistics.relative_half_width([-value for value in sample]) == pytest.approx(7.5 / 25.5)


def test_two_values_have_a_deviation() -> None:
    assert summarize([1.0, 3.0]).stddev == pytest.approx(math.sqrt(2))


@given(st.floats(1e-300, 1e300), st.integers(1, 5000))
@example(0.1, 100)  # the mean of these rounds to another value
@example(1 / 3, 77)
def test_equal_values_are_as_steady_as_can_be(value: float, size: int) -> None:
    summary = summarize([value] * size)

    assert (summary.minimum, summary.median, summary.mean, summary.p99, summary.maximum) == (value,) * 5
    assert (summary.stddev, summary.iqr, summary.autocorrelation) == (0, 0, 0)
    assert summary.relative_half_width == (0 if size >= 6 else None)
    assert statistics.effective_size([value] * size) == size
    assert len(instabilities(summary)) == (size < 6)


steps = st.lists(st.integers(0, 3), min_size=2, max_size=60)


@given(steps, st.integers(1, 2**50), st.sampled_from([2.0**-900, 2.0**-40, 1.0, 2.0**900]))
@example([0] * 49 + [1], 2**50, 1.0)
def test_a_clock_with_few_steps_far_from_zero_is_summed_up_as_one_at_zero(
    sample: list[int], offset: int, unit: float
) -> None:
    """Rounds that differ by a few ticks, each exact, so that only the arithmetic could tell the two apart."""
    near, far = summarize(sample), summarize([(offset + step) * unit for step in sample])

    assert far.autocorrelation == pytest.approx(near.autocorrelation, rel=1e-9, abs=1e-9)
    assert far.stddev == pytest.approx(near.stddev * unit, rel=1e-9)
    assert (far.coverage is None) == (near.coverage is None)


@pytest.mark.parametrize("name", LOCATIONS)
@given(sample=ticks, factor=factors, shift=shifts)
def test_a_location_follows_scale_and_shift(name: str, sample: list[float], factor: float, shift: float) -> None:
    moved = [factor * value + shift for value in sample]

    assert LOCATIONS[name](moved) == pytest.approx(factor * LOCATIONS[name](sample) + shift, rel=1e-9)


@given(sample=ticks, factor=factors)
def test_a_change_of_unit_changes_no_ratio(sample: list[float], factor: float) -> None:
    before, after = summarize(sample), summarize([factor * value for value in sample])

    assert after.stddev == pytest.approx(factor * before.stddev, rel=1e-6, abs=1e-9)
    assert after.iqr == pytest.approx(factor * before.iqr, rel=1e-6, abs=1e-9)
    if before.relative_half_width is not None:
        assert after.relative_half_width == pytest.approx(before.relative_half_width, rel=1e-6, abs=1e-9)


@given(sample=timings, random=st.randoms(use_true_random=False))
def test_the_order_of_rounds_matters_to_the_autocorrelation_and_the_interval_alone(
    sample: list[float], random: Random
) -> None:
    before, after = summarize(sample), summarize(random.sample(sample, len(sample)))

    # The sums behind mean and deviation round by their order; all else is exact.
    assert after.mean == pytest.approx(before.mean)
    assert after.stddev == pytest.approx(before.stddev, abs=1e-12)
    ordered: dict[str, Any] = dict.fromkeys(("mean", "stddev", "autocorrelation"), 0.0)
    ordered |= dict.fromkeys(("median_low", "median_high", "coverage", "relative_half_width"))
    assert replace(after, **ordered) == replace(before, **ordered)


@given(timings)
def test_the_figures_of_a_summary_are_in_order(sample: list[float]) -> None:
    summary = summarize(sample)

    for smaller, larger in pairwise((summary.minimum, summary.median, summary.p95, summary.p99, summary.maximum)):
        assert smaller <= larger
    assert summary.minimum <= summary.mean <= summary.maximum
    assert 0 <= summary.iqr <= summary.maximum - summary.minimum
    assert -1 <= summary.autocorrelation <= 1
    assert summary.median_low is None or len(sample) >= 6
    if summary.median_low is not None and summary.median_high is not None:
        assert summary.minimum <= summary.median_low <= summary.median <= summary.median_high <= summary.maximum


@pytest.mark.parametrize("sample", [[], [1.0, math.nan], [math.inf], [[1.0, 2.0]]])
def test_what_is_no_sample_is_refused(sample: list[float]) -> None:
    with pytest.raises(ValueError, match="sample"):
        summarize(sample)


def steady(rounds: int = 100) -> list[float]:
    return [1.0 + 0.001 * (index % 7) for index in range(rounds)]


@pytest.mark.parametrize(
    ("figure", "bound"),
    [
        ("relative_half_width", 0.01),
        ("stddev", 0.1),  # of a mean of 1
        ("p99", 1.5),  # of a median of 1
        ("autocorrelation", 0.5),
    ],
)
def test_a_row_is_unstable_just_above_a_bound(figure: str, bound: float) -> None:
    summary = summarize([1.0] * 100)

    assert instabilities(replace(summary, **{figure: bound})) == []  # type: ignore[arg-type]
    assert len(instabilities(replace(summary, **{figure: 1.001 * bound}))) == 1  # type: ignore[arg-type]


def test_over_a_fifth_is_too_many() -> None:
    assert [statistics.too_many(rounds, 100) for rounds in (0, 19, 20, 21, 100)] == [False] * 3 + [True] * 2


def test_nothing_is_said_of_a_steady_sample() -> None:
    assert instabilities(summarize(steady())) == []


@pytest.mark.parametrize(
    ("sample", "complaint", "advice"),
    [
        (steady(5), "5 rounds give no interval", "measure at least 6"),
        ([1.0 + 0.001 * index for index in range(50)], "50 rounds give no interval", "resembles the one before"),
        ([0.0] * 100, "a round took no time", "several calls in a round"),
        ([*steady(), 0.0], "a round took no time", "several calls in a round"),
        ([1.0, 1.2] * 10, "the median is known to ±9.1% only", "more rounds"),
        ([1.0, 1.03] * 10, "the median is known to ±1.5% only", "more rounds"),
        ([*steady(98), 3.0, 3.0], "the standard deviation is 27% of the mean", "end other work"),
        ([1.0, 1.25] * 10, "the standard deviation is 11% of the mean", "end other work"),
        ([*steady(98), 3.0, 3.0], "the 99th percentile is 3.0 times the median", "interrupts"),
        ([1.0 + 0.001 * index for index in range(50)], "lag-1 autocorrelation 0.94", "lock the clocks"),
    ],
)
def test_an_instability_is_named_with_what_to_do(sample: list[float], complaint: str, advice: str) -> None:
    found = [message for message in instabilities(summarize(sample)) if complaint in message]

    assert len(found) == 1
    assert advice in found[0]
