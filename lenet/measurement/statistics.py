"""Statistics of a sample of timings. Pure functions of sequences of floats, each with its source.

Timings are skewed to the right, come in ties (a CUDA event resolves about half a microsecond) and are not independent,
so a sample is summed up by its median and quantiles. The interval of the median assumes no distribution, and is wider
where values resemble the ones before.

Sources:
    - Conover, W. J. (1999). Practical Nonparametric Statistics, 3rd ed., section 3.2.
    - David, H. A. and Nagaraja, H. N. (2003). Order Statistics, 3rd ed., section 7.1.
    - Hyndman, R. J. and Fan, Y. (1996). Sample quantiles in statistical packages. The American Statistician 50(4).
    - Box, G. E. P. and Jenkins, G. M. (1976). Time Series Analysis: Forecasting and Control, section 2.1.
    - Bayley, G. V. and Hammersley, J. M. (1946). The "effective" number of independent observations in an
      autocorrelated time series. Supplement to the Journal of the Royal Statistical Society 8(2).
    - Gastwirth, J. L. and Rubin, H. (1971). Effect of dependence on the level of some one-sample tests. Journal of the
      American Statistical Association 66(336).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrik  # scipy.stats takes half a second to import

from lenet.measurement.summary import Summary

__all__ = [
    "MedianInterval",
    "effective_size",
    "instabilities",
    "interquartile_range",
    "lag1_autocorrelation",
    "median",
    "median_interval",
    "median_ranks",
    "quantile",
    "relative_half_width",
    "summarize",
    "too_many",
]

Sample = Sequence[float] | NDArray[np.float64]

WIDE_INTERVAL: Final = 0.01
"""A median is not pinned down when half its interval is more than this share of it."""

LARGE_DEVIATION: Final = 0.10
"""A standard deviation of this share of the mean is large: pyperf's bound (``pyperf check``)."""

LONG_TAIL: Final = 1.5
"""A tail is long when the 99th percentile is more than this many medians: pyperf's bound for the maximum."""

_FEWEST: Final = 6
"""Rounds below which no interval of 95 % holds the median (see `median_ranks`)."""

TOO_MANY: Final = 0.20
"""A row of which more than this share of rounds was disturbed is unstable."""

DRIFT: Final = 0.5
"""Rounds depend on the rounds before them when their lag-1 autocorrelation is above this."""


def median(sample: Sample) -> float:
    """The middle value, or the mean of the two middle values.

    Raises:
        ValueError: The sample is empty or holds a value that is not finite.
    """
    return quantile(sample, 0.5)


def quantile(sample: Sample, probability: float) -> float:
    """The quantile by linear interpolation between order statistics.

    The definition is number 7 of Hyndman and Fan (1996), NumPy's and R's default: the value at the 0-based position
    ``(n - 1) * probability`` of the sorted sample. Of 100 rounds, p99 thus lies between the largest two.

    Args:
        sample: At least one value.
        probability: Between 0 and 1.

    Raises:
        ValueError: The sample is empty or holds a value that is not finite, or the probability is out of range.
    """
    return float(np.quantile(_checked(sample), probability, method="linear"))


def interquartile_range(sample: Sample) -> float:
    """The distance between the quartiles, each by `quantile`.

    Raises:
        ValueError: The sample is empty or holds a value that is not finite.
    """
    low, high = np.quantile(_checked(sample), (0.25, 0.75), method="linear")
    return float(high - low)


@dataclass(frozen=True, slots=True)
class MedianInterval:
    """An interval between two order statistics that holds the population's median.

    Attributes:
        low: The lower order statistic.
        high: The upper order statistic.
        coverage: The probability that such an interval holds the median of a continuous population: exact for
            independent values, close for others (see `median_interval`). Where values tie, the true probability is at
            least this (David and Nagaraja, section 7.1).
    """

    low: float
    high: float
    coverage: float


def median_ranks(size: int, confidence: float = 0.95) -> tuple[int, int, float] | None:
    """The ranks of the order statistics that bound the median.

    The number of values below the population's median is binomial (n, 1/2), so the interval from the r-th smallest to
    the r-th largest value holds it with probability ``1 - 2 P(B <= r - 1)``. The largest r that reaches the confidence
    is taken (Conover 1999, section 3.2).

    Args:
        size: Of the sample.
        confidence: The least probability asked for, between 0 and 1.

    Returns:
        The lower rank, the upper rank (both counted from 1) and the exact probability; None where the sample is too
        small for any interval of this confidence, as below 6 values for 95 %.
    """
    # The largest rank whose number of values left out at each end, one less, has P(B <= rank - 1) <= tail.
    tail = (1 - confidence) / 2 * (1 + 1e-9)
    lower = max(math.floor(bdtrik(tail, size, 0.5)), 0)
    while lower < size and bdtr(lower, size, 0.5) <= tail:
        lower += 1
    while lower and bdtr(lower - 1, size, 0.5) > tail:
        lower -= 1
    if lower < 1:
        return None
    return lower, size + 1 - lower, float(1 - 2 * bdtr(lower - 1, size, 0.5))


def effective_size(sample: Sample) -> float:
    """How many independent values tell as much of the median as this sample does.

    ``n (1 - r) / (1 + r)``, as for the mean of a first-order autoregressive process (Bayley and Hammersley 1946). For
    the median of a Gaussian one it is a little less than the truth: the signs of the deviations, on which the median
    rests, have an autocorrelation of ``2 / pi asin(r)`` (Gastwirth and Rubin 1971). ``r`` is the lag-1 autocorrelation
    of the ranks, so that a few very long rounds do not hide it.

    Args:
        sample: In the order in which it was measured.

    Returns:
        More than 0; the size of the sample where its values alternate or do not depend on each other.

    Raises:
        ValueError: The sample is empty or holds a value that is not finite.
    """
    values = _checked(sample)
    _, places, ties = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - ties / 2)[places]  # less a half; values that tie share the mean of their ranks
    dependence = max(lag1_autocorrelation(ranks), 0.0)
    return values.size * (1 - dependence) / (1 + dependence)


def median_interval(sample: Sample, confidence: float = 0.95) -> MedianInterval | None:
    """A confidence interval of the median that assumes no distribution.

    Its ends are those of `median_ranks`, moved away from the middle in proportion to the standard deviation of the
    number of values below the median: by ``sqrt(n / effective_size)``, which is 1 for independent values. Of samples of
    100 from a Gaussian autoregressive process with a lag-1 autocorrelation of 0.4, 98 % of such intervals at 95 % hold
    the median; without the widening 88 % would.

    Args:
        sample: At least one value, in the order in which it was measured.
        confidence: The least probability asked for; what is reached is the interval's coverage.

    Returns:
        The interval, or None where the sample is too small for one (see `median_ranks`), or depends so much on its
        order that it tells too little.

    Raises:
        ValueError: The sample is empty or holds a value that is not finite.
    """
    values = _checked(sample)
    ranks = median_ranks(values.size, confidence)
    if ranks is None:
        return None
    middle = (values.size + 1) / 2
    lower = math.floor(middle - (middle - ranks[0]) * math.sqrt(values.size / effective_size(values)))
    if lower < 1:
        return None
    ordered = np.sort(values)
    return MedianInterval(float(ordered[lower - 1]), float(ordered[-lower]), ranks[2])


def relative_half_width(sample: Sample, confidence: float = 0.95) -> float:
    """Half the width of the median's interval as a share of the median; infinite where there is no interval.

    Raises:
        ValueError: The sample is empty or holds a value that is not finite.
    """
    interval = median_interval(sample, confidence)
    middle = median(sample)
    if interval is None or middle == 0:
        return math.inf
    return (interval.high - interval.low) / 2 / abs(middle)


def lag1_autocorrelation(sample: Sample) -> float:
    """How far each value is followed by its like: 1 for a slow drift, 0 for none, negative for alternation.

    ``sum((x[t] - m) (x[t + 1] - m)) / sum((x[t] - m)^2)`` with m the mean (Box and Jenkins 1976, section 2.1).

    Args:
        sample: In the order in which it was measured.

    Returns:
        Between -1 and 1; 0 where all values are equal.

    Raises:
        ValueError: The sample is empty or holds a value that is not finite.
    """
    _, deviations, scale = _moments(_checked(sample))
    return float(deviations[:-1] @ deviations[1:] / (deviations @ deviations)) if scale else 0.0


def summarize(sample: Sample, confidence: float = 0.95) -> Summary:
    """Sum up a sample.

    Args:
        sample: In the order in which it was measured.
        confidence: Of the median's interval.

    Raises:
        ValueError: The sample is empty or holds a value that is not finite.
    """
    values = _checked(sample)
    mean, deviations, scale = _moments(values)
    interval = median_interval(values, confidence)
    half_width = relative_half_width(values, confidence)
    return Summary(
        rounds=values.size,
        minimum=float(values.min()),
        median=median(values),
        mean=mean,
        p95=quantile(values, 0.95),
        p99=quantile(values, 0.99),
        iqr=interquartile_range(values),
        maximum=float(values.max()),
        stddev=scale * math.sqrt(deviations @ deviations / (values.size - 1)) if values.size > 1 else 0.0,
        median_low=interval.low if interval else None,
        median_high=interval.high if interval else None,
        coverage=interval.coverage if interval else None,
        relative_half_width=half_width if math.isfinite(half_width) else None,
        autocorrelation=lag1_autocorrelation(values),
    )


def instabilities(summary: Summary, *, adaptive: bool = False) -> list[str]:
    """Why a sample of timings may not be trusted, and what to do: empty where nothing speaks against it.

    The checks follow ``pyperf check``, with the median in place of the mean where there is a choice.

    Args:
        summary: The sample's figures.
        adaptive: Whether the rounds were measured by the adaptive protocol, which the advice depends on.
    """
    longer = "give the rows more time (--time-limit)" if adaptive else "measure more rounds (--rounds)"
    if summary.minimum <= 0:
        return ["a round took no time by its clock: time several calls in a round, or a larger batch"]
    found = []
    if summary.relative_half_width is None:
        found.append(
            f"{summary.rounds} rounds give no interval of the median: measure at least {_FEWEST} (--rounds)"
            if summary.rounds < _FEWEST
            else f"{summary.rounds} rounds give no interval of the median, for each resembles the one before: {longer}"
        )
    elif summary.relative_half_width > WIDE_INTERVAL:
        found.append(
            f"the median is known to ±{summary.relative_half_width:.1%} only: {longer}"
            + ("" if adaptive else ", or until it is known to ±1 % (--protocol=adaptive)")
        )
    if summary.stddev > LARGE_DEVIATION * summary.mean:
        found.append(
            f"the standard deviation is {summary.stddev / summary.mean:.0%} of the mean: "
            "end other work on this machine, and lock its clocks"
        )
    if summary.p99 > LONG_TAIL * summary.median:
        found.append(
            f"the 99th percentile is {summary.p99 / summary.median:.1f} times the median: "
            "look for what interrupts the rounds (other processes, power management)"
        )
    if summary.autocorrelation > DRIFT:
        found.append(
            f"each round resembles the one before (lag-1 autocorrelation {summary.autocorrelation:.2f}), "
            "so the interval may be too narrow, although it was widened: warm up for longer, lock the clocks, "
            "and compare processes"
        )
    return found


def too_many(rounds: int, of: int) -> bool:
    """Whether so many rounds are too many of all for the row to be stable, whatever befell them: over a fifth."""
    return rounds > TOO_MANY * of


def _checked(sample: Sample) -> NDArray[np.float64]:
    values = np.asarray(sample, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"a sample is a sequence of at least one value, not an array of shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("the sample holds a value that is not finite")
    return values


def _moments(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64], float]:
    """The mean, the deviations from it over the largest of them, and that; deviations are 0 where values are equal.

    The mean of equal values may round to another value. Distances from one of the values do not, and over the largest
    their squares neither overflow nor vanish.
    """
    shifted = values - values[0]
    offset = shifted.mean()
    deviations = shifted - offset
    scale = float(np.abs(deviations).max())
    mean = float(np.clip(values[0] + offset, values.min(), values.max()))
    return mean, deviations / scale if scale else deviations, scale
