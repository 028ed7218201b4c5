"""The rule: from the log ratios of process pairs to a verdict for each row. Pure functions.

The unit is a pair of processes, one of base and one of head. They measure each row several times, in turns. A row has
one ``d`` for each pair: the median over the turns of ``log(median_head / median_base)``. The order in each turn is
drawn. So if nothing changed, d is as likely positive as negative, whatever the machine does between the pairs. That
makes a test that counts signs exact.

After each pair, from the sixth to the thirtieth, a row

1. FAILs if the lower bound of the median of d is above ``log(1 + tolerance)``, with Holm's correction over the rows;
2. else PASSes if the upper bound is below ``log(1 + harm)``. The gate passes only if every row does. That is an
   intersection-union test, which needs no correction (Berger 1982).

FAIL is tested first, and a row's first decision stands. A median between tolerance and harm can meet both conditions.
It is then a FAIL, unless it passed earlier. A gate FAILs only if fresh builds then FAIL as well.

The errors hold over all looks together (Jennison and Turnbull 2000). Every outcome, a number of pairs and how many of
them speak against the slow-down, has its place in one order, from the strongest evidence to the weakest. The order is
that of a likelihood ratio: of a sign with a probability above one half, averaged over all such probabilities with equal
weight, and of a fair sign (Robbins 1970). The p of an outcome is the probability that fair signs ever reach it or a
stronger one, over all looks (Fairbanks and Madsen 1982). `crossing` computes it exactly. A higher level rejects all
that a lower one does. Therefore Holm's procedure may be applied to these p at every look, and a row that FAILed hands
its level on for good (Maurer and Bretz 2013; Tamhane et al. 2021). The bounds are repeated confidence bounds: each is
the order statistic that belongs to the last rejected outcome (Jennison and Turnbull 1984).

`Rule.alpha` bounds the probability that any row FAILs wrongly in a stage. A row PASSes wrongly with at most half of
alpha: to be found, a slow-down by the harm must not PASS in either of the two stages.

Sources:

- Conover, W. J. (1999). Practical Nonparametric Statistics, 3rd ed., sections 3.2 and 3.4.
- David, H. A. and Nagaraja, H. N. (2003). Order Statistics, 3rd ed., section 7.1.
- Jennison, C. and Turnbull, B. W. (2000). Group Sequential Methods with Applications to Clinical Trials.
- Jennison, C. and Turnbull, B. W. (1984). Repeated confidence intervals for group sequential clinical trials.
  Controlled Clinical Trials 5(1), 33-45.
- Fairbanks, K. and Madsen, R. (1982). P values for tests using a repeated significance test design. Biometrika 69(1),
  69-74.
- Robbins, H. (1970). Statistical methods related to the law of the iterated logarithm. Annals of Mathematical
  Statistics 41(5), 1397-1409.
- Holm, S. (1979). A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics 6(2).
- Maurer, W. and Bretz, F. (2013). Multiple testing in group sequential trials using graphical approaches. Statistics in
  Biopharmaceutical Research 5(4).
- Tamhane, A. C. et al. (2021). Group sequential Holm and Hochberg procedures. Statistics in Medicine 40(24).
- Berger, R. L. (1982). Multiparameter hypothesis testing and acceptance sampling. Technometrics 24(4).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import cache

__all__ = [
    "Decision",
    "Rule",
    "Verdict",
    "bounds",
    "crossing",
    "decide",
    "drifted",
    "holm",
    "p_values",
    "rank",
    "sign_test",
]


class Verdict(StrEnum):
    """The verdict on a row or on the whole run."""

    PASS = "PASS"  # noqa: S105 - no password
    FAIL = "FAIL"
    ACCEPTED = "ACCEPTED"
    """A PASS of a row whose slow-down was acknowledged. `decide` itself says PASS."""
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True)
class Rule:
    """What the gate tolerates, and how sure a verdict must be.

    Attributes:
        tolerance: A slow-down of up to this share counts as none: 0.01 is 1 %.
        harm: The largest slow-down that a row which passes may have, above the tolerance.
        alpha: The largest probability of a wrong FAIL of any row over a stage's looks.
        looks: Numbers of pairs after which to decide, ascending. With this alpha none of fewer than six decides.
    """

    tolerance: float = 0.01
    harm: float = 0.05
    alpha: float = 0.05
    looks: tuple[int, ...] = tuple(range(6, 31))

    def limits(self, margin: float = 0.0) -> tuple[float, float]:
        """The tolerance and the harm of a row, as shares. An accepted slow-down above the tolerance raises both.

        Args:
            margin: The accepted slow-down, as a share.
        """
        tolerance = max(self.tolerance, margin)
        return tolerance, self.harm + tolerance - self.tolerance

    @property
    def passing(self) -> float:
        """The largest probability of a wrong PASS of a row over a stage's looks."""
        return self.alpha / 2


@dataclass(frozen=True, slots=True)
class Decision:
    """What is known of a row at a look.

    Attributes:
        verdict: INCONCLUSIVE if neither condition is met yet.
        pairs: Number of pairs.
        low: Lower bound of the median of d, at the row's level after Holm's correction; minus infinity if there are
            too few pairs for one.
        high: Upper bound at the level of a wrong PASS; infinity if there are too few pairs for one.
        p: Of the test against the tolerance, one-sided, over all looks: the least level at which the row FAILs now.
    """

    verdict: Verdict
    pairs: int
    low: float
    high: float
    p: float


def crossing(most: Mapping[int, int]) -> float:
    """The exact probability that a walk of fair signs ever has at most so many minus signs.

    Args:
        most: By the number of signs, the largest number of minus signs at which the walk ends.
    """
    paths, total = [1], 0.0  # the walks that have not ended, by their number of minus signs
    for size in range(1, max(most) + 1):
        paths = [one + other for one, other in zip([*paths, 0], [0, *paths], strict=True)]
        ended = paths[: most.get(size, -1) + 1]
        total += sum(ended) / 2**size
        paths[: len(ended)] = [0] * len(ended)
    return total


@cache
def p_values(looks: tuple[int, ...]) -> Mapping[int, tuple[float, ...]]:
    """The p of every outcome over all looks, by the number of pairs and then of those against the slow-down.

    Only the outcomes with all pairs against it are left out. Their p is 1.
    """
    outcomes = sorted((_likelihood(size, against), size, against) for size in looks for against in range(size))
    found: dict[int, list[float]] = {size: [] for size in looks}
    stronger: dict[int, int] = {}
    for _, size, against in outcomes:
        stronger[size] = against
        found[size].append(crossing(stronger))
    return {size: tuple(values) for size, values in found.items()}


def _likelihood(size: int, against: int) -> Fraction:
    """The likelihood of a fair sign over the mean one of the signs whose probability is between one half and one.

    The mean is an incomplete beta function, which is a sum of binomial coefficients.
    """
    mean = sum(math.comb(size + 1, count) for count in range(size - against + 1))
    return Fraction((size + 1) * math.comb(size, against), mean)


def rank(size: int, level: float, looks: tuple[int, ...]) -> int:
    """The largest k for which the k-th smallest of ``size`` values is a lower bound of the median.

    At a single look the k-th smallest lies above the median with probability ``P(B <= k - 1)``, B binomial (n, 1/2)
    (Conover 1999, section 3.2; David and Nagaraja 2003, section 7.1).

    Args:
        size: Number of values in the sample; one of the looks.
        level: The largest probability that the bound is above the median at any look.
        looks: Sizes of the sample at which a bound is computed.

    Returns:
        The rank k, or 0 if even the smallest value is no bound.
    """
    return bisect_right(_at(size, looks), level)


def _at(size: int, looks: tuple[int, ...]) -> tuple[float, ...]:
    if size not in looks:
        raise ValueError(f"the rule has no look after {size} pairs, but after {looks}")
    return p_values(looks)[size]


def bounds(
    ratios: Sequence[float], lower_level: float, upper_level: float, looks: tuple[int, ...]
) -> tuple[float, float]:
    """One-sided bounds of the median, each an order statistic; infinite if the sample is too small.

    Args:
        ratios: Log ratios, one a pair.
        lower_level: The largest probability that the lower bound is above the median at any look.
        upper_level: The largest probability that the upper bound is below the median at any look.
        looks: Numbers of pairs after which bounds are computed.
    """
    ordered = sorted(ratios)
    below, above = rank(len(ordered), lower_level, looks), rank(len(ordered), upper_level, looks)
    return ordered[below - 1] if below else -math.inf, ordered[-above] if above else math.inf


def sign_test(ratios: Sequence[float], bound: float, looks: tuple[int, ...]) -> float:
    """The exact one-sided p of the sign test for "the median is at most the bound", over all looks.

    At a single look it is that of Conover (1999, section 3.4). A ratio that equals the bound counts against the
    slow-down.
    """
    against = sum(ratio <= bound for ratio in ratios)
    return (*_at(len(ratios), looks), 1.0)[against]


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
    rows: Mapping[str, Sequence[float]],
    rule: Rule,
    earlier: Mapping[str, Decision] | None = None,
    margins: Mapping[str, float] | None = None,
) -> dict[str, Decision]:
    """Decide every row at a look, on all pairs so far.

    Args:
        rows: Log ratios by row; for each row as many as the look has pairs. Rows that are decided may be left out.
        rule: The rule.
        earlier: The decisions of the look before. A PASS or a FAIL stands.
        margins: Acknowledged slow-downs by row, as shares: 0.08 is 8 %. Such a row FAILs if it is slower than that. Its
            tolerance rises to the margin, and its harm by as much.

    Raises:
        ValueError: The rule has no look after so many pairs.
    """
    before = {name: one for name, one in (earlier or {}).items() if one.verdict is not Verdict.INCONCLUSIVE}
    shares = {name: rule.limits((margins or {}).get(name, 0.0)) for name in rows}
    limits = {name: (math.log1p(tolerance), math.log1p(harm)) for name, (tolerance, harm) in shares.items()}
    # A row that FAILed stays rejected, and so the others keep the level that it handed on. One that PASSed is never
    # rejected.
    known = {name: 0.0 if one.verdict is Verdict.FAIL else 1.0 for name, one in before.items()}
    p_by_row = known | {
        name: sign_test(ratios, limits[name][0], rule.looks) for name, ratios in rows.items() if name not in before
    }
    found: dict[str, Decision] = {}
    for (name, p), level in zip(p_by_row.items(), holm(list(p_by_row.values()), rule.alpha), strict=True):
        if name in before:
            found[name] = before[name]
            continue
        ratios = rows[name]
        low, high = bounds(ratios, level, rule.passing, rule.looks)
        found[name] = Decision(_verdict(low, high, *limits[name]), len(ratios), low, high, p)
    return found


def _verdict(low: float, high: float, tolerance: float, harm: float) -> Verdict:
    if low > tolerance:
        return Verdict.FAIL
    return Verdict.PASS if high < harm else Verdict.INCONCLUSIVE


def drifted(ratios: Sequence[float], rule: Rule) -> bool:
    """Whether the canary, which is the same code on both sides, became slower or faster by the rule.

    If it did, the pairs do not measure the change. A canary is judged like a row that is alone, in each direction. So
    no row FAILs on evidence with which a canary would not drift. Where its median is within the tolerance, it drifts
    with a probability of at most alpha in each direction over a stage's looks.

    Args:
        ratios: Log ratios of the canary, as many as the look has pairs.
        rule: The rule.
    """
    low, high = bounds(ratios, rule.alpha, rule.alpha, rule.looks)
    return low > math.log1p(rule.tolerance) or high < -math.log1p(rule.tolerance)
