"""The confidence interval of a median, of rounds that may depend on each other."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import lfilter
from scipy.special import bdtrik
from scipy.stats import binom, quantile_test

from lenet.measurement import statistics
from lenet.measurement.statistics import median_ranks
from tests.measurement.test_statistics import Floats, alternating, timings


@pytest.mark.parametrize(
    ("size", "confidence", "lower", "percent"),
    [
        # Nair, K. R. (1940), Table of confidence intervals for the median in samples from any continuous population,
        # Sankhya 4, 551-558, as reprinted in Dixon and Massey (1969), Introduction to Statistical Analysis.
        (6, 0.95, 1, 96.9),
        (9, 0.95, 2, 96.1),
        (10, 0.95, 2, 97.9),
        (15, 0.95, 4, 96.5),
        (20, 0.95, 6, 95.9),
        (25, 0.95, 8, 95.7),
        (30, 0.95, 10, 95.7),
        (50, 0.95, 18, 96.7),
        (65, 0.95, 25, 95.4),
        (8, 0.99, 1, 99.2),
        (20, 0.99, 4, 99.7),
        (50, 0.99, 16, 99.3),
        (65, 0.99, 22, 99.4),
    ],
)
def test_the_ranks_are_those_of_the_published_table(size: int, confidence: float, lower: int, percent: float) -> None:
    ranks = median_ranks(size, confidence)

    assert ranks is not None
    assert ranks[:2] == (lower, size + 1 - lower)
    assert round(100 * ranks[2], 1) == percent


@pytest.mark.parametrize(("size", "confidence"), [(1, 0.95), (5, 0.95), (7, 0.99)])
def test_a_sample_too_small_for_the_confidence_has_no_interval(size: int, confidence: float) -> None:
    assert median_ranks(size, confidence) is None
    assert statistics.median_interval(list(range(size)), confidence) is None
    assert statistics.relative_half_width(list(range(size)), confidence) == math.inf


@given(st.integers(1, 400), st.floats(0.05, 0.9999))
def test_the_interval_is_the_narrowest_that_reaches_the_confidence(size: int, confidence: float) -> None:
    def coverage(lower: int) -> float:
        outside: int = sum(math.comb(size, below) for below in range(lower))
        return 1 - outside / (1 << (size - 1))

    ranks = median_ranks(size, confidence)
    lower = ranks[0] if ranks else 0

    if ranks:
        assert ranks[2] == pytest.approx(coverage(lower), abs=1e-12)
        assert ranks[2] >= confidence - 1e-12
    assert lower + 1 > (size + 1) // 2 or coverage(lower + 1) < confidence + 1e-12


@pytest.mark.parametrize("off", [-7, -1, 0, 1, 7])
@pytest.mark.parametrize("size", [6, 50, 1000])
def test_ranks_do_not_rest_on_how_well_a_library_inverts(monkeypatch: pytest.MonkeyPatch, size: int, off: int) -> None:
    exact = median_ranks(size)
    monkeypatch.setattr("lenet.measurement.statistics.bdtrik", lambda *arguments: bdtrik(*arguments) + off)
    assert median_ranks(size) == exact


def test_a_confidence_that_is_met_exactly_is_met() -> None:
    assert median_ranks(3, 0.75) == (1, 3, 0.75)


@given(st.lists(st.floats(0.001, 1.0), min_size=6, max_size=80, unique=True))
def test_the_interval_is_scipys(sample: list[float]) -> None:
    theirs = quantile_test(sample, q=0, p=0.5).confidence_interval(confidence_level=0.95)
    ours = statistics.median_interval(alternating(sample))

    assert ours is not None
    assert (ours.low, ours.high) == (theirs.low, theirs.high)


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    samples = np.random.default_rng(0).exponential(size=(4000, 50))
    interval = [statistics.median_interval(sample) for sample in samples]

    hits = sum(found is not None and found.low <= math.log(2) <= found.high for found in interval)

    # At least as often, less four standard errors of a proportion of 4000: by chance some resemble a dependent sample.
    assert 0.967 - 4 * math.sqrt(0.967 * 0.033 / 4000) < hits / 4000 < 0.99


SERIES: dict[str, tuple[Callable[[Floats], Floats], float]] = {
    "Gaussian": (lambda values: values, 0.0),
    "skewed": (np.exp, 1.0),
}


def dependent(count: int, size: int, autocorrelation: float) -> Floats:
    """Series of a Gaussian first-order autoregressive process of mean 0 and variance 1, (count, size)."""
    noise = np.random.default_rng(17).standard_normal((count, size))
    noise[:, 1:] *= math.sqrt(1 - autocorrelation**2)
    series: Floats = lfilter([1.0], [1.0, -autocorrelation], noise, axis=1)
    return series


@pytest.mark.parametrize(
    ("size", "autocorrelation", "least", "kind", "spikes"),
    [
        (100, 0.4, 0.95, "Gaussian", 0.0),
        (100, 0.4, 0.95, "skewed", 0.02),
        (100, 0.6, 0.94, "Gaussian", 0.02),
        (100, 0.6, 0.94, "skewed", 0.0),
        (30, 0.4, 0.93, "Gaussian", 0.0),
        (30, 0.4, 0.93, "skewed", 0.02),
    ],
)
def test_the_interval_holds_the_median_where_rounds_resemble_the_ones_before(
    kind: str, spikes: float, size: int, autocorrelation: float, least: float
) -> None:
    """Also where rare and very long rounds, above the median before and after, hide the likeness from a mean."""
    transform, middle = SERIES[kind]
    samples = transform(dependent(2000, size, autocorrelation))
    long = (np.random.default_rng(18).random(samples.shape) < spikes) & (samples > middle)
    samples[long] += 1000
    intervals = [statistics.median_interval(sample) for sample in samples]

    hits = sum(found is not None and found.low <= middle <= found.high for found in intervals)
    assert hits / len(intervals) > least


@given(timings)
def test_a_dependent_sample_s_interval_holds_that_of_the_same_values_without_order(sample: list[float]) -> None:
    size, found = statistics.effective_size(sample), statistics.median_interval(sample)
    independent = statistics.median_interval(alternating(sample))

    assert 0 < size <= len(sample)
    if found is not None:
        assert independent is not None
        assert found.low <= independent.low <= independent.high <= found.high
        assert found.coverage == independent.coverage


@pytest.mark.parametrize(
    ("sample", "size"),
    [
        # By hand: deviations of the ranks -1.5, -0.5, 0.5, 1.5; (0.75 - 0.25 + 0.75) / 5 is 0.25.
        ([1.0, 2.0, 3.0, 4.0], 4 * 0.75 / 1.25),
        ([1.0, 2.0, 3.0, 1e9], 4 * 0.75 / 1.25),  # ranks know no distance
        ([1.0, 1.0, 2.0, 2.0], 4 * 0.75 / 1.25),  # ranks 1.5, 1.5, 3.5, 3.5
        ([4.0, 4.0, 4.0, 9.0], 4.0),  # ranks 2, 2, 2, 4: 0.25 - 0.75 + 0.25 is below 0
        ([1.0, 3.0, 2.0, 4.0], 4.0),
        ([5.0], 1.0),
    ],
)
def test_the_effective_size_is_that_of_the_ranks(sample: list[float], size: float) -> None:
    assert statistics.effective_size(sample) == pytest.approx(size)


def test_the_interval_moves_outwards_with_the_effective_size() -> None:
    """Ten values below the median, ten above, and so on, each a little larger than the one before.

    By scipy.stats.rankdata and the sums of Box and Jenkins the autocorrelation is 0.862, so 7.412 values tell as much.
    The ranks 40 and 61 of 100 move from 10.5 to 38.57 places from the middle.
    """
    sample = [(number // 10) % 2 + number / 1000 for number in range(100)]

    assert statistics.effective_size(sample) == pytest.approx(7.412008681906731)
    found = statistics.median_interval(sample)
    assert found is not None
    assert (found.low, found.high) == (sorted(sample)[11 - 1], sorted(sample)[90 - 1])
    assert found.coverage == pytest.approx(1 - 2 * binom.cdf(39, 100, 0.5))


def test_a_drift_has_no_interval_for_its_order_is_all_there_is() -> None:
    assert statistics.median_interval([1 + number / 1000 for number in range(50)]) is None
