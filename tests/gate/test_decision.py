"""The rule: known answers from published tables, exact error rates, and properties that hold for every sample."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import pairwise
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from lenet.gate.decision import Decision, Rule, Verdict, bounds, decide, drifted, holm, p_values, rank

RULE = Rule()
ratios = st.lists(st.floats(-0.5, 0.5), min_size=10, max_size=10)
levels = st.floats(0.001, 0.4)


def most(level: float, rule: Rule = RULE) -> dict[int, int]:
    """The largest number of pairs against a slow-down at which a level finds one, by the number of pairs."""
    return {look: rank(look, level, rule.looks) - 1 for look in rule.looks}


def test_a_verdict_is_possible_early() -> None:
    """After so many pairs that all agree: a FAIL of one row of so many, and a PASS."""
    first = {
        rows: min(look for look, against in most(RULE.alpha / rows).items() if against >= 0) for rows in (1, 2, 12)
    }
    assert first == {1: 6, 2: 7, 12: 9}
    assert min(look for look, against in most(RULE.passing).items() if against >= 0) == 7
    assert RULE.looks == tuple(range(6, 31))


def test_a_higher_level_rejects_all_that_a_lower_one_does() -> None:
    levels_of_holm = [most(RULE.alpha / rows) for rows in range(1, 31)]
    for higher, lower in pairwise(levels_of_holm):
        assert all(higher[look] >= lower[look] for look in RULE.looks)


def test_a_slow_down_fails_and_no_change_passes() -> None:
    noise = [0.001 * number for number in range(-5, 5)]
    found = decide({"slow": [0.05 + d for d in noise], "same": noise}, RULE)
    assert {name: decision.verdict for name, decision in found.items()} == {"slow": "FAIL", "same": "PASS"}
    assert found["slow"].low == pytest.approx(0.046)  # the bounds of ten are the second from either end
    assert found["same"].high == pytest.approx(0.003)
    assert found["slow"].p == p_values(RULE.looks)[10][0]


def test_what_is_too_noisy_is_inconclusive_and_a_decision_stands() -> None:
    wide = [-0.3, 0.3] * 5
    first = decide({"wide": wide, "same": [0.0] * 10}, RULE)
    assert first["wide"].verdict is Verdict.INCONCLUSIVE
    later = decide({"wide": [0.3] * 20, "same": [0.3] * 20}, RULE, first)
    assert later["wide"].verdict is Verdict.FAIL
    assert later["same"] is first["same"]


def test_a_row_that_failed_hands_its_level_on_for_good() -> None:
    """Whatever it measures later."""
    eight_of_nine = [-0.01] + [0.1] * 8
    first = decide({"slow": [0.1] * 7, "other": [-0.01] + [0.1] * 6}, RULE)
    assert [one.verdict for one in first.values()] == ["FAIL", "INCONCLUSIVE"]
    later = {"slow": [0.0] * 9, "other": eight_of_nine}
    assert decide(later, RULE, first)["other"].verdict is Verdict.FAIL
    assert decide(later, RULE)["other"].verdict is Verdict.INCONCLUSIVE


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


def test_there_is_nothing_to_decide_without_rows() -> None:
    assert decide({}, RULE) == {}


def test_what_no_look_has_is_refused() -> None:
    with pytest.raises(ValueError, match="no look after 5 pairs"):
        decide({"row": [0.0] * 5}, RULE)
    with pytest.raises(ValueError, match="no look after 31 pairs"):
        drifted([0.0] * 31, RULE)


def test_a_rule_is_written_as_json() -> None:
    assert json.loads(json.dumps(asdict(RULE))) == asdict(RULE) | {"looks": list(RULE.looks)}


@pytest.mark.parametrize(
    ("slower", "margin", "expected"),
    [
        (0.07, 0.0, "FAIL"),
        (0.07, 0.08, "PASS"),
        (0.085, 0.08, "FAIL"),
        (0.15, 0.08, "FAIL"),
        (0.005, 0.0, "PASS"),
        (0.02, 0.005, "FAIL"),  # no margin makes a rule stricter or laxer than its tolerance
        (0.007, 0.005, "PASS"),
        (-0.2, 0.08, "PASS"),
    ],
)
def test_a_row_fails_if_it_is_slower_than_was_acknowledged(slower: float, margin: float, expected: str) -> None:
    sample = [math.log1p(slower)] * 10
    found = decide({"row": sample, "other": [0.0] * 10}, RULE, margins={"row": margin, "unknown": 0.5})
    assert [one.verdict for one in found.values()] == [expected, "PASS"]


def test_the_harm_of_an_acknowledged_row_grows_by_as_much_as_its_tolerance() -> None:
    """From 1 and 5 % to 8 and 12 %: between the two a noisy row is undecided, and PASSes below."""
    for harmful, expected in ((0.1199, "PASS"), (0.1201, "INCONCLUSIVE")):
        sample = [0.0, 0.0] + [math.log1p(harmful)] * 8
        assert decide({"row": sample}, RULE, margins={"row": 0.08})["row"].verdict == expected


def verdict(sample: list[float], rule: Rule = RULE) -> Decision:
    return decide({"row": sample}, rule)["row"]


@given(ratios, st.randoms(use_true_random=False))
def test_the_order_of_the_pairs_is_nothing(sample: list[float], draw: object) -> None:
    shuffled = sample[:]
    draw.shuffle(shuffled)  # type: ignore[attr-defined]
    assert verdict(shuffled) == verdict(sample)


@given(ratios, levels, levels)
def test_swapping_base_and_head_mirrors_the_interval(sample: list[float], one: float, other: float) -> None:
    low, high = bounds(sample, one, other, RULE.looks)
    assert bounds([-value for value in sample], other, one, RULE.looks) == (-high, -low)


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
    low, high = bounds(sample, 0.02, 0.02, RULE.looks)
    moved = bounds([value + shift for value in sample], 0.02, 0.02, RULE.looks)
    assert moved == pytest.approx((low + shift, high + shift))


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
    p_of_rows = [decision.p for decision in found.values()]
    for decision, level in zip(found.values(), holm(p_of_rows, RULE.alpha), strict=True):
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
    assert verdict([JUST_INTOLERABLE] * 10).p == p_values(RULE.looks)[10][0]
    assert verdict([0.00994] * 10).p == 1


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("still", "moved", "found"),
    [
        # The bounds of 30 are the 9th from either end.
        (10, 20, False),
        (9, 21, False),
        (8, 22, True),
    ],
)
def test_a_canary_is_judged_at_the_level_of_a_row_that_is_alone(still: int, moved: int, found: bool, sign: int) -> None:
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


ORDER = {Verdict.PASS: 0, Verdict.INCONCLUSIVE: 1, Verdict.FAIL: 2}


@given(st.data())
def test_a_slower_pair_never_makes_a_verdict_better(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from(RULE.looks))
    sample = data.draw(st.lists(st.floats(-0.2, 0.2), min_size=size, max_size=size))
    place, slower = data.draw(st.integers(0, size - 1)), data.draw(st.floats(0, 0.2))
    worse = [*sample[:place], sample[place] + slower, *sample[place + 1 :]]
    before, after = verdict(sample), verdict(worse)
    assert ORDER[after.verdict] >= ORDER[before.verdict]
    assert (after.low, after.high) >= (before.low, before.high)
    assert after.p <= before.p


@given(st.lists(ratios, min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_is_nothing(samples: list[list[float]], draw: random.Random) -> None:
    rows = {str(number): sample for number, sample in enumerate(samples)}
    names = list(rows)
    draw.shuffle(names)
    assert decide({name: rows[name] for name in names}, RULE) == decide(rows, RULE)


@given(st.lists(ratios, min_size=1, max_size=5))
def test_a_verdict_is_what_its_bounds_say(samples: list[list[float]]) -> None:
    for one in decide({str(number): sample for number, sample in enumerate(samples)}, RULE).values():
        fails, passes = one.low > math.log1p(RULE.tolerance), one.high < math.log1p(RULE.harm)
        assert one.verdict == ("FAIL" if fails else "PASS" if passes else "INCONCLUSIVE")


def stage(rows: Mapping[str, list[float]]) -> dict[str, Decision]:
    """The decisions of a stage that measures until every row is decided."""
    found: dict[str, Decision] = {}
    for look in RULE.looks:
        found = decide({name: ratios[:look] for name, ratios in rows.items()}, RULE, found)
        if all(one.verdict is not Verdict.INCONCLUSIVE for one in found.values()):
            break
    return found


@pytest.mark.parametrize(
    ("count", "slower", "verdict", "bound"),
    [
        (1, 0.01, Verdict.FAIL, RULE.alpha),
        (3, 0.01, Verdict.FAIL, RULE.alpha),
        (1, 0.05, Verdict.PASS, RULE.passing),
    ],
)
def test_simulated_errors_keep_their_bounds(count: int, slower: float, verdict: Verdict, bound: float) -> None:
    """Of rows whose median is at the limit, with noise so wide that the other verdict is rare."""
    draw = random.Random(count)  # noqa: S311
    noise = NormalDist(math.log1p(slower), 0.5)
    gates = 400
    wrong = 0
    for _ in range(gates):
        rows = {str(row): [noise.inv_cdf(draw.random()) for _ in range(30)] for row in range(count)}
        wrong += any(one.verdict is verdict for one in stage(rows).values())
    assert binomtest(wrong, gates, bound, alternative="greater").pvalue > 1e-4
    assert wrong  # a rule that never errs decides nothing


def test_a_quiet_row_passes_and_a_slow_one_fails_at_the_first_pairs_that_can_tell() -> None:
    found = stage({"slow": [0.0488] * 30, **{str(number): [0.0] * 30 for number in range(11)}})
    assert found["slow"].verdict is Verdict.FAIL
    assert found["slow"].pairs == 9
    assert {one.pairs for name, one in found.items() if name != "slow"} == {7}
