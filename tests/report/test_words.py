from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenet.report.language import ENGLISH
from lenet.report.words import changes, copy_share, fastest, published_changes
from lenet.results import Case, Row
from lenet.results.published import FIGURES
from lenet.vocabulary import Mode
from tests.rows import summary, with_figures

CASE = Case("pytorch", Mode.FORWARD, "fp32", "fp32", 1000, "a GPU", "images", None, False, "coursework")  # noqa: FBT003
ROW = Row(CASE, summary(1e-3), None, None, 0, (), {})


def measured(backend: str, median: float, mode: Mode = Mode.FORWARD, half: float = 0.001) -> Row:
    case = replace(CASE, backend=backend, mode=mode)
    ends = {"median_low": median * (1 - half), "median_high": median * (1 + half)}
    return with_figures(replace(ROW, case=case), median=median, **ends)


def said(sentences: list[str]) -> list[str]:
    return [sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in sentences]


def test_the_coursework_s_own_analysis_comes_out() -> None:
    """Sheet 5: -19.9, -32.7 and -16.0 % forward, -4.8 and -13.3 % end to end."""
    assert said(published_changes(ENGLISH)) == [
        "TensorRT, forward: 1.25 times as fast as PyTorch, 19.9 % less time.",
        "TriPy -> TensorRT, forward: 1.49 times as fast as PyTorch, 32.7 % less time.",
        "TriPy -> TensorRT, forward: 1.19 times as fast as TensorRT, 16.0 % less time.",
        "TensorRT, end to end: 1.05 times as fast as PyTorch, 4.8 % less time.",
        "TriPy -> TensorRT, end to end: 1.15 times as fast as PyTorch, 13.3 % less time.",
        "TriPy -> TensorRT, end to end: 1.10 times as fast as TensorRT, 8.9 % less time.",
    ]


def test_the_same_words_are_said_of_one_s_own_rows() -> None:
    rows = [measured(one.backend, one.milliseconds_per_batch / 1e3, one.mode) for one in FIGURES]
    names = {"TriPy -> TensorRT": "tripy", "TensorRT": "tensorrt", "PyTorch": "pytorch"}
    expected = published_changes(ENGLISH)
    for theirs, ours in names.items():
        expected = [sentence.replace(theirs, ours) for sentence in expected]
    assert changes(rows, ENGLISH) == expected
    shares = said(copy_share(rows, ENGLISH))
    assert [re.findall(r"[\d.]+ (?:times|%)", sentence) for sentence in shares] == [
        ["2.09 times", "52.2 %"],
        ["2.48 times", "59.8 %"],
        ["2.69 times", "62.9 %"],
    ]
    assert all("the copy and the synchronisation dominate" in sentence for sentence in shares)


def test_what_is_slower_is_called_so() -> None:
    rows = [measured("pytorch", 1e-3), measured("x", 1.2e-3)]
    assert said(changes(rows, ENGLISH)) == ["x, forward: 1.20 times as slow as pytorch, 20.0 % more time."]


@pytest.mark.parametrize("unknown", [False, True])
def test_no_difference_is_claimed_within_the_intervals(unknown: bool) -> None:
    rows = [measured("pytorch", 1e-3, half=0.02), measured("x", 1.03e-3, half=0.02)]
    if unknown:
        rows[1] = with_figures(rows[1], median=2e-3, median_low=None, median_high=None)
    (sentence,) = said(changes(rows, ENGLISH))
    why = "the rounds give no 95 % interval" if unknown else "the 95 % intervals overlap"
    assert sentence == f"x, forward: no difference from pytorch can be claimed; {why}."
    (sentence,) = said(fastest(rows, ENGLISH))
    named = "the rounds of x give no 95 % interval" if unknown else "the 95 % intervals of pytorch, x overlap"
    assert sentence == f"Forward: no fastest can be claimed; {named}."


def test_a_row_that_may_not_be_trusted_is_named() -> None:
    rows = [replace(measured("pytorch", 1e-3), unstable=("a long tail",)), measured("x", 2e-3)]
    assert changes(rows, ENGLISH)[0].endswith(" Unstable: pytorch.")


def test_a_copy_that_is_less_than_half_does_not_dominate() -> None:
    rows = [measured("x", 0.9e-3), measured("x", 1e-3, Mode.END_TO_END)]
    (sentence,) = said(copy_share(rows, ENGLISH))
    assert sentence.endswith("the copy and the synchronisation take 10.0 % of the time.")


@given(st.floats(1e-7, 1e2), st.floats(1e-7, 1e2))
def test_fast_and_slow_are_told_from_the_medians(one: float, other: float) -> None:
    (sentence,) = changes([measured("pytorch", one, half=0), measured("x", other, half=0)], ENGLISH)
    word = "no difference" if one == other else "as fast as" if other < one else "as slow as"
    assert word in sentence
