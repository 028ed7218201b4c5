from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenet.report.rounding import significant, tick


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0012345, "0.00123"),
        (12.345, "12.3"),
        (1234.5, "1230"),
        (0.0, "0"),
        (1.70249, "1.70"),
        (0.6, "0.600"),
        (99.96, "100"),
        (math.inf, "inf"),
    ],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


@given(st.floats(1e-9, 1e9))
def test_rounding_is_within_half_a_unit_of_the_third_digit(value: float) -> None:
    assert "e" not in significant(value)
    assert float(significant(value)) == pytest.approx(value, rel=5.001e-3)


@given(st.floats(1e-6, 1e6), st.integers(3, 8))
def test_an_axis_has_no_zeros_at_the_end(value: float, digits: int) -> None:
    text = tick(value, digits)
    assert float(text) == float(significant(value, digits))
    assert not ("." in text and text.endswith(("0", ".")))
