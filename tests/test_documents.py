from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenet.documents import finite, parse, to_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
)


@given(VALUES)
def test_what_is_written_is_read_again_and_has_no_number_that_json_has_not(value: Any) -> None:
    text = to_json(finite(value))
    assert parse(text) == finite(value)
    json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_neither_written_nor_read(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"loss": value})
    with pytest.raises(ValueError, match="which is no JSON"):
        parse(json.dumps({"loss": value}))
    assert finite({"loss": [value, 1.5]}) == {"loss": [None, 1.5]}


def test_a_number_that_is_too_large_is_not_read() -> None:
    with pytest.raises(ValueError, match="1e999, which is too large a number"):
        parse("[1e999]")
