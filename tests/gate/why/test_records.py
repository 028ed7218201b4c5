"""Records that a checkout's code may write."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenet.gate.why import Difference, Explanation, to_markdown
from lenet.gate.why.comparison import compare
from lenet.gate.why.records import Record, least, parse
from tests.gate.why.trees import case

PART = {"kind": "kernel", "layer": "conv1", "operator": "", "name": "sgemm", "calls": 1, "seconds": 1e-5}
GOOD: dict[str, Any] = {
    "row": "a row", "problem": None, "missing": [], "seconds": 1e-4, "parts": [PART],
    "layers": [{"name": "conv1", "kind": "conv", "tactic": "t"}],
    "facts": {"level": "3"}, "versions": {"torch": "2.11"},
}  # fmt: skip
HOSTILE = "\x1b[2J\u202e</details><script>|`@all\n# heading [a](http://b)" + 400 * "x"


def test_a_record_is_read() -> None:
    found = parse(json.dumps(GOOD))
    assert (found.row, found.seconds, found.parts[0].layer) == ("a row", 1e-4, "conv1")


def test_of_several_records_the_shortest_times_are_taken() -> None:
    one, other = (
        parse(json.dumps(GOOD)),
        parse(json.dumps(GOOD | {"parts": [PART | {"seconds": 2e-5}], "seconds": 5e-5})),
    )
    assert least([other, one]).parts[0].seconds == 1e-5
    assert least([one, other]).seconds == 5e-5
    unlike = parse(json.dumps(GOOD | {"parts": [PART | {"name": "another", "seconds": 1e-6}]}))
    assert least([one, unlike]).parts[0].name == "another"
    failed = Record("a row", "it crashed")
    assert least([failed, one]) == one
    assert least([failed, failed]) == failed


@pytest.mark.parametrize(
    "change",
    [
        {"parts": [PART | {"seconds": -1}]},
        {"parts": [PART | {"seconds": "1"}]},
        {"parts": [PART | {"seconds": True}]},
        {"parts": [PART | {"seconds": 1e300}]},
        {"parts": [PART | {"kind": "another"}]},
        {"parts": [PART | {"kind": ["kernel"]}]},
        {"parts": [{"kind": "kernel"}]},
        {"parts": 3000 * [PART]},
        {"parts": {"kernel": PART}},
        {"seconds": "soon"},
        {"problem": 7},
        {"facts": ["a"]},
        {"facts": {"level": 3}},
        {"layers": ["conv1"]},
    ],
)
def test_a_record_of_another_form_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^(a|an|it) "):
        parse(json.dumps(GOOD | change))


@pytest.mark.parametrize("line", ["", "null", "[]", "{}", '{"row": "', json.dumps(GOOD).replace("1e-05", "NaN")])
def test_no_record_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse(line)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*GOOD, *PART]), inner, max_size=9),
)


@given(st.dictionaries(st.sampled_from([*GOOD]), json_values))
def test_whatever_is_read_can_be_compared(change: dict[str, Any]) -> None:
    try:
        found = parse(json.dumps(GOOD | change))
    except ValueError:
        return
    assert "\n" not in compare(found, found, case()).line


def test_hostile_texts_are_short_and_harmless() -> None:
    part = PART | {"name": HOSTILE, "layer": HOSTILE}
    found = parse(json.dumps(GOOD | {"parts": [part], "facts": {HOSTILE: HOSTILE}, "problem": HOSTILE}))
    base = Record("a row", None)
    for record in (found, parse(json.dumps(GOOD | {"parts": [part], "facts": {HOSTILE: HOSTILE}}))):
        explanation = compare(base, record, case(device="NVIDIA H200"))
        assert len(explanation.line) <= 300
        page = to_markdown({HOSTILE: explanation})
        assert not set("\x1b\u202e").intersection(page + explanation.line)
        for text in ("<script>", "@all", "`", "[a]", "\n# heading", "http:"):
            assert text not in page


def test_the_page_has_the_line_first_and_a_folded_table() -> None:
    differences = (
        Difference("conv1", 2e-5, 3.82e-5, "3 kernels where base has 2"),
        Difference("triton", None, None, "3 -> 4"),
    )
    page = to_markdown({"pytorch forward fp32 1": Explanation("conv1: +18.2 us", differences)})
    assert page.splitlines()[0] == "- **pytorch forward fp32 1**: conv1: +18.2 us"
    assert "<details><summary>what differs</summary>" in page
    assert "| conv1 | 20.0 | 38.2 | +18.2 | 3 kernels where base has 2 |" in page
    assert "| triton | - | - | - | 3 -> 4 |" in page
    assert to_markdown({}) == ""
