from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenet.report.rounding import significant


@pytest.mark.parametrize(
    ("value", "text"), [(0.0012345, "0.00123"), (12.345, "12.3"), (1234.5, "1230"), (0.0, "0"), (1.70249, "1.7")]
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


@given(st.floats(1e-9, 1e9))
def test_rounding_is_within_half_a_unit_of_the_third_digit(value: float) -> None:
    assert "e" not in significant(value)
    assert float(significant(value)) == pytest.approx(value, rel=5.001e-3)
