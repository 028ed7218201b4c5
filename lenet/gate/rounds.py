"""How many rounds a turn of a row needs."""

from __future__ import annotations

from math import ceil, pi, sqrt
from typing import Final

from lenet.measurement.summary import Summary

__all__ = ["rounds_needed"]

PRECISION: Final = 0.002
"""The standard error that a turn's median should have, as a share of it. The rule tolerates 1 % by default."""

FEWEST_ROUNDS: Final = 10
SECONDS_ON_A_CPU: Final = 0.05
"""Of a turn there. The CPU's speed changes by more than a round's noise. So what counts is how often the sides
alternate: every 10 ms, where one thread computes (``docs/results/gate-forks.md``)."""
_QUARTILES_OF_SIGMA: Final = 1.349
"""The distance between a normal distribution's quartiles, in standard deviations."""


def rounds_needed(summary: Summary, *, on_a_cpu: bool) -> int:
    """The rounds after which a row's median has the standard error `PRECISION`; at least `FEWEST_ROUNDS`.

    On a CPU they are those of `SECONDS_ON_A_CPU`, and at least as many.

    The median of n normal values has the standard error ``sqrt(pi / 2) sigma / sqrt(n)`` (Kenney and Keeping 1962,
    Mathematics of Statistics, part 1, section 14.9). Sigma is estimated from the quartiles, which outliers do not move.

    Args:
        summary: Of a turn's rounds.
        on_a_cpu: Whether the row is a CPU's.
    """
    if on_a_cpu:
        return max(ceil(SECONDS_ON_A_CPU / summary.median), FEWEST_ROUNDS)
    error_of_one = sqrt(pi / 2) * summary.iqr / _QUARTILES_OF_SIGMA / summary.median
    return max(ceil((error_of_one / PRECISION) ** 2), FEWEST_ROUNDS)
