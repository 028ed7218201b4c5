"""The rule: from the log ratios of process pairs to a verdict for each row. Pure functions.

The unit is a pair of freshly started processes, one of base, one of head, that measure each row several times in
turns; a row's ``d`` of a pair is the median over the turns of ``log(median_head / median_base)``. The order in each
turn is drawn, so that where nothing changed d is as likely positive as negative whatever the machine does between the
pairs, and a test that counts signs is exact.

At each look (after 10, 20 and 30 pairs) a row

1. FAILs where the lower bound of the median of d lies above ``log(1 + tolerance)``, with Holm's correction over rows;
2. else PASSes where its upper bound lies below ``log(1 + harm)``. The gate passes where all rows do, so that this needs
   no correction: it is an intersection-union test (Berger 1982).

FAIL is looked for first, and the first decision stands: a median between tolerance and harm may be both, and is then a
FAIL unless it passed at an earlier look. Each of the two errors has a probability of at most `Rule.alpha`, which is
split over the looks by Bonferroni's inequality. A gate FAILs only if fresh builds then FAIL as well.

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
    """What a row or the gate comes to."""

    PASS = "PASS"  # noqa: S105 - no password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True)
class Rule:
    """What is tolerated, and how sure a verdict must be.

    Attributes:
        tolerance: A slow-down of up to this share is none: 0.01 is 1 %.
        harm: The largest slow-down that a row which passes may have, above the tolerance.
        alpha: Probability of a FAIL of any row, or of a PASS of one row, that is wrong, over all looks of one stage.
        looks: Pairs after which to decide, ascending.
        shares: Of alpha at each look; together at most 1. With few pairs only few levels can be had: of 10 pairs those
            of 0 and of 1 sign against it, 0.1 % and 1.07 %, and the first share is just enough for the latter.
    """

    tolerance: float = 0.01
    harm: float = 0.05
    alpha: float = 0.05
    looks: tuple[int, ...] = (10, 20, 30)
    shares: tuple[float, ...] = (0.22, 0.42, 0.36)

    def level(self, pairs: int) -> float:
        """The part of alpha that is spent at the look after so many pairs."""
        return self.alpha * self.shares[self.looks.index(pairs)]


@dataclass(frozen=True, slots=True)
class Decision:
    """What is known of a row at a look.

    Attributes:
        verdict: INCONCLUSIVE where neither bound is reached yet.
        pairs: That it rests on.
        low: Lower bound of the median of d at the look's level after Holm's correction; minus infinity where so few
            pairs have none.
        high: Upper bound at the look's level; infinity where so few pairs have none.
        p: Of the sign test against the tolerance.
    """

    verdict: Verdict
    pairs: int
    low: float
    high: float
    p: float


def rank(size: int, level: float) -> int:
    """The largest k for which the k-th smallest of so many values is a lower bound of the median at a level.

    The number of values below the population's median is binomial (n, 1/2), so the k-th smallest lies above it with
    probability ``P(B <= k - 1)`` (Conover 1999, section 3.2; David and Nagaraja 2003, section 7.1).

    Args:
        size: Of the sample.
        level: The largest probability of a bound on the wrong side, one-sided.

    Returns:
        0 where even the smallest value is no bound.
    """
    k = 0
    while k < size and bdtr(k, size, 0.5) <= level:
        k += 1
    return k


def bounds(ratios: Sequence[float], lower_level: float, upper_level: float) -> tuple[float, float]:
    """One-sided bounds of the median, each an order statistic; infinite where the sample is too small.

    Args:
        ratios: Log ratios, one a pair.
        lower_level: Probability that the lower one is above the median.
        upper_level: Probability that the upper one is below it.
    """
    ordered = sorted(ratios)
    below, above = rank(len(ordered), lower_level), rank(len(ordered), upper_level)
    return ordered[below - 1] if below else -math.inf, ordered[-above] if above else math.inf


def sign_test(ratios: Sequence[float], bound: float) -> float:
    """The exact one-sided p of the sign test that the median is at most a bound (Conover 1999, section 3.4).

    A ratio that equals the bound counts against the slow-down.
    """
    not_above = sum(ratio <= bound for ratio in ratios)
    return float(bdtr(not_above, len(ratios), 0.5))  # P(B >= above), by symmetry


def holm(p_values: Sequence[float], level: float) -> list[float]:
    """The level at which each of several hypotheses is tested by Holm's procedure (1979).

    The smallest p is tested at ``level / m``, the next at ``level / (m - 1)`` and so on, until one is not rejected;
    all that follow are tested at that one's level, and since their p is no smaller, a p at or below its own entry here
    is rejected by the procedure, and no other is.

    Args:
        p_values: One a hypothesis.
        level: Of the family.
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
        rows: Log ratios by row, as many of each as one of the rule's looks has pairs.
        rule: The rule.
        earlier: The decisions of the look before; those that are no longer inconclusive stand.
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
    """Whether unchanged code became slower or faster by the rule: then the pairs do not measure the change.

    Args:
        ratios: Log ratios of the canary, as many as one of the rule's looks has pairs.
        rule: The rule.
    """
    level = rule.level(len(ratios))
    low, high = bounds(ratios, level, level)
    return low > math.log1p(rule.tolerance) or high < -math.log1p(rule.tolerance)
