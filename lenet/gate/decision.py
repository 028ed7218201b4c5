"""The rule: from the log ratios of process pairs to a verdict for each row. Pure functions.

The unit is a pair of fresh processes, one of base and one of head. They measure each row several times, in turns. A row
has one ``d`` for each pair: the median over the turns of ``log(median_head / median_base)``. The order in each turn is
drawn. So if nothing changed, d is as likely positive as negative, whatever the machine does between the pairs. That
makes a test that counts signs exact.

At each look (after 10, 20 and 30 pairs) a row

1. FAILs if the lower bound of the median of d is above ``log(1 + tolerance)``, with Holm's correction over the rows;
2. else PASSes if the upper bound is below ``log(1 + harm)``. The gate passes only if every row does. That is an
   intersection-union test, which needs no correction (Berger 1982).

FAIL is tested first, and a row's first decision stands. A median between tolerance and harm can meet both conditions.
It is then a FAIL, unless it passed at an earlier look. Each of the two errors has a probability of at most
`Rule.alpha`, which Bonferroni's inequality splits over the looks. A gate FAILs only if fresh builds then FAIL as well.

Sources:
    Conover, W. J. (1999). Practical Nonparametric Statistics, 3rd ed., sections 3.2 and 3.4.
    David, H. A. and Nagaraja, H. N. (2003). Order Statistics, 3rd ed., section 7.1.
    Holm, S. (1979). A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics 6(2).
    Berger, R. L. (1982). Multiparameter hypothesis testing and acceptance sampling. Technometrics 24(4).
    Jennison, C. and Turnbull, B. W. (2000). Group Sequential Methods with Applications to Clinical Trials, chapter 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from scipy.special import bdtr

__all__ = ["Decision", "Rule", "Verdict", "bounds", "decide", "drifted", "holm", "rank", "sign_test"]


class Verdict(StrEnum):
    """The verdict on a row or on the whole run."""

    PASS = "PASS"  # noqa: S105 - no password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True)
class Rule:
    """What the gate tolerates, and how sure a verdict must be.

    Attributes:
        tolerance: A slow-down of up to this share counts as none: 0.01 is 1 %.
        harm: The largest slow-down that a row which passes may have, above the tolerance.
        alpha: The largest probability of a wrong FAIL of any row, and of a wrong PASS of one row, over a stage's looks.
        looks: Numbers of pairs after which to decide, ascending.
        shares: The share of alpha at each look; together at most 1. With 10 pairs the smallest levels of the sign test
            are 0.1 % (no sign against) and 1.07 % (one sign against). The first share is just enough for the second.
    """

    tolerance: float = 0.01
    harm: float = 0.05
    alpha: float = 0.05
    looks: tuple[int, ...] = (10, 20, 30)
    shares: tuple[float, ...] = (0.22, 0.42, 0.36)

    def level(self, pairs: int) -> float:
        """The part of alpha that the look after so many pairs may spend."""
        return self.alpha * self.shares[self.looks.index(pairs)]


@dataclass(frozen=True, slots=True)
class Decision:
    """What is known of a row at a look.

    Attributes:
        verdict: INCONCLUSIVE if neither condition is met yet.
        pairs: Number of pairs.
        low: Lower bound of the median of d, at the look's level after Holm's correction; minus infinity if there are
            too few pairs for one.
        high: Upper bound at the look's level; infinity if there are too few pairs for one.
        p: Of the sign test against the tolerance, one-sided.
    """

    verdict: Verdict
    pairs: int
    low: float
    high: float
    p: float


def rank(size: int, level: float) -> int:
    """The largest k for which the k-th smallest of ``size`` values is a lower bound of the median.

    The number of values below the population's median is binomial (n, 1/2), so the k-th smallest lies above it with
    probability ``P(B <= k - 1)`` (Conover 1999, section 3.2; David and Nagaraja 2003, section 7.1).

    Args:
        size: Number of values in the sample.
        level: The largest probability that the bound is above the median.

    Returns:
        The rank k, or 0 if even the smallest value is no bound.
    """
    k = 0
    while k < size and bdtr(k, size, 0.5) <= level:
        k += 1
    return k


def bounds(ratios: Sequence[float], lower_level: float, upper_level: float) -> tuple[float, float]:
    """One-sided bounds of the median, each an order statistic; infinite if the sample is too small.

    Args:
        ratios: Log ratios, one a pair.
        lower_level: The largest probability that the lower bound is above the median.
        upper_level: The largest probability that the upper bound is below the median.
    """
    ordered = sorted(ratios)
    below, above = rank(len(ordered), lower_level), rank(len(ordered), upper_level)
    return ordered[below - 1] if below else -math.inf, ordered[-above] if above else math.inf


def sign_test(ratios: Sequence[float], bound: float) -> float:
    """The exact one-sided p of the sign test for "the median is at most the bound" (Conover 1999, section 3.4).

    A ratio that equals the bound counts against the slow-down.
    """
    not_above = sum(ratio <= bound for ratio in ratios)
    return float(bdtr(not_above, len(ratios), 0.5))  # P(B >= above), by symmetry


def holm(p_values: Sequence[float], level: float) -> list[float]:
    """The level at which Holm's procedure (1979) tests each of several hypotheses.

    The smallest p is tested at ``level / m``, the next at ``level / (m - 1)``, and so on, until one is not rejected.
    All that follow get that one's level. Their p is no smaller. So the procedure rejects a hypothesis exactly if its p
    is at most its entry here.

    Args:
        p_values: One for each hypothesis.
        level: The level of the whole family.
    """
    levels = [0.0] * len(p_values)
    reached: float | None = None
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        own = level / (len(p_values) - place)
        levels[index] = own if reached is None else reached
        if reached is None and p_values[index] > own:
            reached = own
    return levels


def decide(
    rows: Mapping[str, Sequence[float]], rule: Rule, earlier: Mapping[str, Decision] | None = None
) -> dict[str, Decision]:
    """Decide every row at a look, on all pairs so far.

    Args:
        rows: Log ratios by row; for each row as many as the look has pairs.
        rule: The rule.
        earlier: The decisions of the look before. A PASS or a FAIL stands.
    """
    p_values = [sign_test(ratios, math.log1p(rule.tolerance)) for ratios in rows.values()]
    found: dict[str, Decision] = {}
    spent = rule.level(len(next(iter(rows.values()))))
    for (name, ratios), p, level in zip(rows.items(), p_values, holm(p_values, spent), strict=True):
        before = (earlier or {}).get(name)
        if before is not None and before.verdict is not Verdict.INCONCLUSIVE:
            found[name] = before
            continue
        low, high = bounds(ratios, level, spent)
        found[name] = Decision(_verdict(low, high, rule), len(ratios), low, high, p)
    return found


def _verdict(low: float, high: float, rule: Rule) -> Verdict:
    if low > math.log1p(rule.tolerance):
        return Verdict.FAIL
    return Verdict.PASS if high < math.log1p(rule.harm) else Verdict.INCONCLUSIVE


def drifted(ratios: Sequence[float], rule: Rule) -> bool:
    """Whether the canary, which is the same code on both sides, became slower or faster by the rule.

    If it did, the pairs do not measure the change.

    Args:
        ratios: Log ratios of the canary, as many as the look has pairs.
        rule: The rule.
    """
    level = rule.level(len(ratios))
    low, high = bounds(ratios, level, level)
    return low > math.log1p(rule.tolerance) or high < -math.log1p(rule.tolerance)
