"""The gate's sign test over several looks, its ranks, and Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate, pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from lenet.gate.decision import bounds, crossing, holm, p_values, rank, sign_test
from tests.gate.test_decision import RULE, levels, most


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
    once = (size,)
    assert rank(size, outside + 0.0005, once) == lower  # the table is rounded to a tenth of a percent
    assert bounds(sample, outside + 0.0005, outside + 0.0005, once) == (lower, size + 1 - lower)
    # At the level that it has rounded to 95 % a rank more would be too much.
    assert rank(size, 0.025, once) == lower


def test_few_pairs_have_no_bound() -> None:
    assert rank(9, 0.001, (9,)) == 0
    assert rank(10, 0.001, (10,)) == 1  # 2 ** -10 is 0.098 %
    assert bounds([0.1] * 9, 0.001, 0.001, (9,)) == (-math.inf, math.inf)


def test_the_sign_test_is_that_of_the_textbook() -> None:
    # Conover (1999), section 3.4, example 1: of nine who prefer one, eight prefer B: p = 0.0195.
    assert sign_test([1.0] * 8 + [-1.0], 0.0, (9,)) == pytest.approx(0.0195, abs=5e-5)


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=30))
def test_the_sign_test_is_scipy_s_with_ties_against_the_slow_down(sample: list[float]) -> None:
    above = sum(value > 0 for value in sample)
    expected = binomtest(above, len(sample), alternative="greater").pvalue
    assert sign_test(sample, 0.0, (len(sample),)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("p_of_rows", "rejected"),
    [
        # The worked example of Wikipedia's article "Holm-Bonferroni method": the first and the last of four.
        ([0.01, 0.04, 0.03, 0.005], [True, False, False, True]),
        ([0.01, 0.02, 0.03], [True, True, True]),  # 0.0167, 0.025 and 0.05
        ([0.025, 0.04], [True, True]),  # the first is just at its level, and the second below 0.05
        ([0.02, 0.03, 0.04], [False, False, False]),  # where the smallest is not rejected none is
    ],
)
def test_holm_rejects_step_by_step_until_one_is_not(p_of_rows: list[float], rejected: list[bool]) -> None:
    assert [p <= level for p, level in zip(p_of_rows, holm(p_of_rows, 0.05), strict=True)] == rejected


def test_after_the_first_that_is_not_rejected_its_level_holds_for_all() -> None:
    assert holm([0.04, 0.01, 0.02], 0.06) == pytest.approx([0.06, 0.02, 0.03])
    assert holm([0.04, 0.03, 0.035], 0.06) == pytest.approx([0.02, 0.02, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), levels)
def test_holm_rejects_at_least_what_bonferroni_does_and_at_most_what_no_correction_does(
    p_of_rows: list[float], level: float
) -> None:
    for p, own in zip(p_of_rows, holm(p_of_rows, level), strict=True):
        assert level / len(p_of_rows) <= own <= level
        if p <= level / len(p_of_rows):
            assert p <= own


def walks(length: int) -> Iterator[list[int]]:
    """Every walk of signs: the numbers of minus signs after one sign, after two, and so on."""
    for signs in product((0, 1), repeat=length):
        yield list(accumulate(signs))


@given(st.dictionaries(st.integers(1, 10), st.integers(-1, 4), min_size=1))
def test_the_crossing_probability_is_that_of_all_walks_counted(ends: dict[int, int]) -> None:
    length = max(ends)
    ended = sum(any(walk[size - 1] <= minus for size, minus in ends.items()) for walk in walks(length))
    assert crossing(ends) == ended / 2**length


def test_every_p_is_the_share_of_walks_that_come_as_far_at_any_look() -> None:
    looks = (3, 5, 6, 10)
    table = p_values(looks)
    least = [min((*table[look], 1.0)[walk[look - 1]] for look in looks) for walk in walks(10)]
    for look in looks:
        for p in table[look]:
            assert p == sum(one <= p for one in least) / len(least)
        assert all(one < other for one, other in pairwise(table[look]))


@pytest.mark.parametrize("rows", [1, 2, 3, 12, 30])
def test_all_looks_together_spend_at_most_their_level_and_most_of_it(rows: int) -> None:
    level = RULE.alpha / rows
    assert 0.9 * level < crossing(most(level)) <= level


def test_no_p_is_above_what_villes_inequality_allows() -> None:
    """At one in the mean likelihood ratio that orders the outcomes, by quadrature."""
    steps = [0.5 + (number + 0.5) / 20_000 for number in range(10_000)]
    for size, against in ((6, 0), (9, 1), (20, 4), (30, 8)):
        mean = sum((2 * p) ** (size - against) * (2 - 2 * p) ** against for p in steps) / len(steps)
        assert p_values(RULE.looks)[size][against] < 1 / mean
