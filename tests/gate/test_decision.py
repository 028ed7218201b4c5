"""The rule: known answers from published tables, exact error rates, and properties that hold for every sample."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from lenet.gate.decision import Decision, Rule, Verdict, bounds, decide, drifted, holm, rank, sign_test

RULE = Rule()
ratios = st.lists(st.floats(-0.5, 0.5), min_size=10, max_size=10)
levels = st.floats(0.001, 0.4)


@pytest.mark.parametrize(
    ("size", "lower", "percent"),
    [
        # Nair, K. R. (1940), Table of confidence intervals for the median in samples from any continuous population,
        # Sankhya 4, 551-558, as reprinted in Dixon and Massey (1969), Introduction to Statistical Analysis.
        (6, 1, 96.9),
        (10, 2, 97.9),
        (15, 4, 96.5),
        (20, 6, 95.9),
        (30, 10, 95.7),
        (50, 18, 96.7),
    ],
)
def test_the_ranks_are_those_of_the_published_table(size: int, lower: int, percent: float) -> None:
    outside = (1 - percent / 100) / 2
    sample = list(range(1, size + 1))
    assert rank(size, outside + 0.0005) == lower  # the table is rounded to a tenth of a percent
    assert bounds(sample, outside + 0.0005, outside + 0.0005) == (lower, size + 1 - lower)
    # At the level that it has rounded to 95 % a rank more would be too much.
    assert rank(size, 0.025) == lower


def test_few_pairs_have_no_bound() -> None:
    assert rank(9, 0.001) == 0
    assert rank(10, 0.001) == 1  # 2 ** -10 is 0.098 %
    assert bounds([0.1] * 9, 0.001, 0.001) == (-math.inf, math.inf)


def test_the_sign_test_is_that_of_the_textbook() -> None:
    # Conover (1999), section 3.4, example 1: of nine who prefer one, eight prefer B: p = 0.0195.
    assert sign_test([1.0] * 8 + [-1.0], 0.0) == pytest.approx(0.0195, abs=5e-5)


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=30))
def test_the_sign_test_is_scipy_s_with_ties_against_the_slow_down(sample: list[float]) -> None:
    above = sum(value > 0 for value in sample)
    assert sign_test(sample, 0.0) == pytest.approx(binomtest(above, len(sample), alternative="greater").pvalue)


@pytest.mark.parametrize(
    ("p_values", "rejected"),
    [
        # The worked example of Wikipedia's article "Holm-Bonferroni method": the first and the last of four.
        ([0.01, 0.04, 0.03, 0.005], [True, False, False, True]),
        ([0.01, 0.02, 0.03], [True, True, True]),  # 0.0167, 0.025 and 0.05
        ([0.025, 0.04], [True, True]),  # the first is just at its level, and the second below 0.05
        ([0.02, 0.03, 0.04], [False, False, False]),  # where the smallest is not rejected none is
    ],
)
def test_holm_rejects_step_by_step_until_one_is_not(p_values: list[float], rejected: list[bool]) -> None:
    assert [p <= level for p, level in zip(p_values, holm(p_values, 0.05), strict=True)] == rejected


def test_after_the_first_that_is_not_rejected_its_level_holds_for_all() -> None:
    assert holm([0.04, 0.01, 0.02], 0.06) == pytest.approx([0.06, 0.02, 0.03])
    assert holm([0.04, 0.03, 0.035], 0.06) == pytest.approx([0.02, 0.02, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), levels)
def test_holm_rejects_at_least_what_bonferroni_does_and_at_most_what_no_correction_does(
    p_values: list[float], level: float
) -> None:
    for p, own in zip(p_values, holm(p_values, level), strict=True):
        assert level / len(p_values) <= own <= level
        if p <= level / len(p_values):
            assert p <= own


def crossing_probability(rule: Rule) -> float:
    """The exact probability that a row whose median lies at the tolerance FAILs at some look: a walk of fair signs."""
    alive, crossed, size = {0: 1.0}, 0.0, 0
    for look in rule.looks:
        for _ in range(look - size):
            step: dict[int, float] = {}
            for (below, probability), one in product(alive.items(), (0, 1)):
                step[below + one] = step.get(below + one, 0) + probability / 2
            alive = step
        size = look
        most = rank(size, rule.level(size)) - 1
        crossed += sum(probability for below, probability in alive.items() if below <= most)
        alive = {below: probability for below, probability in alive.items() if below > most}
    return crossed


def test_the_looks_together_spend_no_more_than_alpha_and_use_most_of_it() -> None:
    assert sum(RULE.shares) <= 1
    assert 0.5 * RULE.alpha < crossing_probability(RULE) <= RULE.alpha
    assert [rank(look, RULE.level(look)) for look in RULE.looks] == [2, 6, 9]


def test_a_slow_down_fails_and_no_change_passes() -> None:
    noise = [0.001 * number for number in range(-5, 5)]
    found = decide({"slow": [0.05 + d for d in noise], "same": noise}, RULE)
    assert {name: decision.verdict for name, decision in found.items()} == {"slow": "FAIL", "same": "PASS"}
    assert found["slow"].low == pytest.approx(0.045)  # of two rows, at 10 pairs only the smallest is a bound
    assert found["same"].high == pytest.approx(0.003)
    assert found["slow"].p == 2**-10


def test_what_is_too_noisy_is_inconclusive_and_a_decision_stands() -> None:
    wide = [-0.3, 0.3] * 5
    first = decide({"wide": wide, "same": [0.0] * 10}, RULE)
    assert first["wide"].verdict is Verdict.INCONCLUSIVE
    later = decide({"wide": [0.3] * 20, "same": [0.3] * 20}, RULE, first)
    assert later["wide"].verdict is Verdict.FAIL
    assert later["same"] is first["same"]


def test_between_tolerance_and_harm_fail_is_looked_for_first() -> None:
    both = [0.02 + 0.0001 * number for number in range(10)]
    assert decide({"row": both}, RULE)["row"].verdict is Verdict.FAIL
    assert decide({"row": both}, replace(RULE, tolerance=0.04))["row"].verdict is Verdict.PASS


def test_more_rows_want_more_evidence() -> None:
    nine_of_ten = [-0.01] + [0.1] * 9
    alone = decide({"row": nine_of_ten}, RULE)["row"]
    among = decide({"row": nine_of_ten, **{str(number): [0.0] * 10 for number in range(7)}}, RULE)["row"]
    assert (alone.verdict, among.verdict) == ("FAIL", "INCONCLUSIVE")
    assert alone.p == among.p


def verdict(sample: list[float], rule: Rule = RULE) -> Decision:
    return decide({"row": sample}, rule)["row"]


@given(ratios, st.randoms(use_true_random=False))
def test_the_order_of_the_pairs_is_nothing(sample: list[float], draw: object) -> None:
    shuffled = sample[:]
    draw.shuffle(shuffled)  # type: ignore[attr-defined]
    assert verdict(shuffled) == verdict(sample)


@given(ratios, levels, levels)
def test_swapping_base_and_head_mirrors_the_interval(sample: list[float], one: float, other: float) -> None:
    low, high = bounds(sample, one, other)
    assert bounds([-value for value in sample], other, one) == (-high, -low)


@given(ratios)
def test_no_row_is_slower_both_ways(sample: list[float]) -> None:
    both = [verdict(sample).verdict, verdict([-value for value in sample]).verdict]
    assert both != [Verdict.FAIL, Verdict.FAIL]
    assert drifted(sample, RULE) == (Verdict.FAIL in both)


@pytest.mark.parametrize(("change", "found"), [(0.02, True), (-0.02, True), (0.005, False), (-0.005, False)])
def test_a_canary_drifts_both_ways(change: float, found: bool) -> None:
    assert drifted([change] * 10, RULE) is found


@given(ratios, st.integers(-8, 8))
def test_a_constant_shifts_the_bounds(sample: list[float], eighths: int) -> None:
    shift = eighths / 8
    low, high = bounds(sample, 0.02, 0.02)
    assert bounds([value + shift for value in sample], 0.02, 0.02) == pytest.approx((low + shift, high + shift))


@given(ratios, st.floats(0, 0.04), st.floats(0, 0.04))
def test_who_tolerates_more_fails_less(sample: list[float], one: float, other: float) -> None:
    strict, lax = sorted((one, other))
    if verdict(sample, replace(RULE, tolerance=lax)).verdict is Verdict.FAIL:
        assert verdict(sample, replace(RULE, tolerance=strict)).verdict is Verdict.FAIL


@given(ratios, st.floats(0.02, 0.5), st.floats(0.02, 0.5))
def test_who_accepts_more_harm_passes_more(sample: list[float], one: float, other: float) -> None:
    strict, lax = sorted((one, other))
    if verdict(sample, replace(RULE, harm=strict)).verdict is Verdict.PASS:
        assert verdict(sample, replace(RULE, harm=lax)).verdict is Verdict.PASS


@given(st.lists(ratios, min_size=1, max_size=5))
def test_a_row_fails_just_where_its_p_is_at_most_its_level(samples: list[list[float]]) -> None:
    rows = {str(number): sample for number, sample in enumerate(samples)}
    found = decide(rows, RULE)
    p_values = [decision.p for decision in found.values()]
    for decision, level in zip(found.values(), holm(p_values, RULE.level(10)), strict=True):
        assert (decision.verdict is Verdict.FAIL) == (decision.p <= level)


# As logarithms a tolerance of 1 % is 0.00995 and a harm of 5 % is 0.04879: these lie between logarithm and share.
JUST_INTOLERABLE, JUST_HARMFUL = 0.00997, 0.0490


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        # The bounds of ten are the second smallest and the second largest.
        ([0.0, 0.0] + [0.03] * 8, "PASS"),  # above the tolerance and below the harm is harmless
        ([0.0, 0.0] + [0.04878] * 8, "PASS"),
        ([0.0, 0.0] + [JUST_HARMFUL] * 8, "INCONCLUSIVE"),
        ([0.0] * 8 + [JUST_HARMFUL] * 2, "INCONCLUSIVE"),
        ([0.0] * 9 + [JUST_HARMFUL], "PASS"),
        ([JUST_INTOLERABLE] * 10, "FAIL"),
        ([0.0, *[JUST_INTOLERABLE] * 9], "FAIL"),
        ([0.00994] * 10, "PASS"),
    ],
)
def test_both_limits_are_shares_and_d_is_a_logarithm(sample: list[float], expected: str) -> None:
    found = verdict(sample)
    assert found.verdict == expected
    assert found.pairs == 10
    assert (found.low, found.high) == (sorted(sample)[1], sorted(sample)[8])


def test_p_is_that_of_a_median_at_the_tolerance_as_a_logarithm() -> None:
    assert verdict([JUST_INTOLERABLE] * 10).p == 2**-10
    assert verdict([0.00994] * 10).p == 1


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("still", "moved", "found"),
    [
        # At alpha / 3 or so the bounds of 30 are the 9th from either end; at all of alpha they would be the 11th.
        (10, 20, False),
        (9, 21, False),
        (8, 22, True),
    ],
)
def test_a_canary_is_judged_at_the_level_of_its_look(still: int, moved: int, found: bool, sign: int) -> None:
    assert drifted([0.0] * still + [sign * 0.02] * moved, RULE) is found


@pytest.mark.parametrize(("change", "found"), [(JUST_INTOLERABLE, True), (0.00994, False)])
def test_a_canary_drifts_where_it_leaves_the_tolerance_as_a_logarithm(change: float, found: bool) -> None:
    assert drifted([change] * 10, RULE) is found
    assert drifted([-change] * 10, RULE) is found


def test_what_is_just_at_a_limit_has_not_passed_it() -> None:
    tolerance, harm = math.log1p(RULE.tolerance), math.log1p(RULE.harm)
    assert (verdict([tolerance] * 10).verdict, verdict([tolerance] * 10).p) == ("PASS", 1)
    assert verdict([0.0] * 8 + [harm] * 2).verdict == "INCONCLUSIVE"
    assert not drifted([tolerance] * 10, RULE)
    assert not drifted([-tolerance] * 10, RULE)
