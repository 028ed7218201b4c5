"""The end of a run in a few lines."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from lenet.report import words
from lenet.report.language import ENGLISH
from lenet.report.tables import brief, fastest, rows_sheets, speed_sheets
from lenet.report.tables.brief import noise, not_run_in_short
from lenet.report.tables.doubts import doubts
from lenet.results import NotRun, Row
from lenet.vocabulary import Mode
from tests.report.tables.examples import PUBLISHED, measured, render


def certain(row: Row, low: float | None = None) -> Row:
    """The row with an interval that ends at its median."""
    middle = row.summary.median
    return replace(row, summary=replace(row.summary, median_low=low or middle, median_high=middle))


PYTORCH, TRIPY = certain(PUBLISHED[0]), certain(PUBLISHED[2])


def doubtful(row: Row, *reasons: str) -> Row:
    return replace(row, unstable=reasons or ("scatter",))


def test_the_fastest_runtime_is_told_in_a_sentence() -> None:
    assert fastest([PYTORCH, PUBLISHED[1], TRIPY]) == [
        "Fastest here, forward, batch 1,000: tripy, 1.49 times as fast as pytorch"
    ]
    assert fastest([PYTORCH]) == [], "nothing to compare"
    slower = certain(measured("tripy", Mode.FORWARD, 2e-3))
    assert fastest([PYTORCH, slower]) == ["Fastest here, forward, batch 1,000: pytorch, 2.46 times as fast as tripy"]
    assert fastest([TRIPY], others=[PYTORCH]) == []


def test_no_sentence_rests_on_an_unstable_row_without_its_mark() -> None:
    where = "forward, batch 1,000: "
    assert fastest([PYTORCH, doubtful(TRIPY)]) == [
        f"Fastest here (unstable), {where}tripy !, 1.49 ! times as fast as pytorch"
    ]
    assert fastest([doubtful(PYTORCH), TRIPY]) == [f"Fastest here, {where}tripy, 1.49 ! times as fast as pytorch !"]
    wide = doubtful(certain(measured("fused", Mode.FORWARD, 0.549e-3), low=0.5e-3))
    assert fastest([PYTORCH, TRIPY, wide]) == [
        f"No fastest can be claimed, {where}the 95 % intervals of tripy, fused ! overlap"
    ]
    without = doubtful(measured("fused", Mode.FORWARD, 3e-3))
    without = replace(without, summary=replace(without.summary, median_low=None, median_high=None))
    assert fastest([PYTORCH, TRIPY, without]) == [
        f"No fastest can be claimed, {where}the rounds of fused ! give no 95 % interval"
    ]


@given(st.lists(st.tuples(st.integers(1, 9), st.none() | st.integers(0, 3), st.booleans()), min_size=2, max_size=4))
def test_the_terminal_and_the_report_claim_a_fastest_by_one_rule(
    known: list[tuple[int, int | None, bool]],
) -> None:
    rows = []
    for name, (median, half, unstable) in zip(("pytorch", "tripy", "fused", "jax"), known, strict=False):
        row = measured(name, Mode.FORWARD, median / 1e3)
        low, high = (None, None) if half is None else ((median - half) / 1e3, (median + half) / 1e3)
        summary = replace(row.summary, median_low=low, median_high=high)
        rows.append(replace(row, summary=summary, unstable=("scatter",) if unstable else ()))
    (terminal,) = fastest(rows)
    (report,) = words.fastest(rows, ENGLISH)
    refused = re.compile(r"o fastest can be claimed.*(the rounds|the 95 % intervals) of (.*) (give|overlap)")
    here, there = refused.search(terminal.replace(" !", "")), refused.search(report.replace("\xa0", " "))
    assert (here and here.groups()) == (there and there.groups())
    assert ("Fastest here" in terminal) == ("is the fastest" in report)


def test_conditions_that_differ_are_named() -> None:
    half = [replace(row, case=replace(row.case, asked="fp16", precision="fp16")) for row in (PYTORCH, TRIPY)]
    assert [line.partition(":")[0] for line in fastest([PYTORCH, TRIPY, *half])] == [
        "Fastest here, forward, batch 1,000, fp32",
        "Fastest here, forward, batch 1,000, fp16",
    ]
    cold = [replace(row, case=replace(row.case, cold_cache=True)) for row in (PYTORCH, TRIPY)]
    told = [line.partition(":")[0] for line in fastest([PYTORCH, TRIPY, *cold])]
    assert sorted(told) == ["Fastest here, forward, batch 1,000", "Fastest here, forward, batch 1,000, cold cache"]


def test_only_the_conditions_next_to_the_coursework_s_have_a_sentence() -> None:
    asked = ("bf16", "fp16", "fp32", "tf32", "fp16x2", "int8")
    rows = [replace(row, case=replace(row.case, asked=one, precision=one)) for one in asked for row in (PYTORCH, TRIPY)]
    for shown, more in (5, "1 more condition"), (6, "2 more conditions"):
        text = render(brief(rows[: 2 * shown]), 120)
        assert text.count("Fastest here") == 4
        assert text.partition("Fastest here")[2].startswith(", forward, batch 1,000, fp32: ")
        assert f"\n{more}: see the tables.\n" in text


def test_noise_is_said_once() -> None:
    rows = [doubtful(PYTORCH, "known to ±20.5% only: go on", "a tail"), doubtful(TRIPY, "known to ±3% only: go on")]
    assert noise([PYTORCH]) == []
    assert noise([*rows, PUBLISHED[1]]) == ["! 2 of 3 rows are unstable: known to ±3 to 20.5% only: go on."]
    assert noise([*rows, doubtful(PUBLISHED[1], "a tail")]) == [
        "! 3 of 3 rows are unstable: in 2 of them known to ±3 to 20.5% only: go on."
    ]
    assert noise(rows[:1]) == ["! 1 of 1 row is unstable: known to ±20.5% only: go on."]
    assert noise(rows, "others were busy") == ["! 2 of 2 rows are unstable: others were busy."]
    text = render(brief(rows))
    assert text.count("go on") == 1
    assert text.count("unstable:") == 1


@given(st.lists(st.lists(st.sampled_from(["a 1", "a 2.5", "a 30", "b", "c fp16 4"]), max_size=3, unique=True)))
def test_each_kind_of_doubt_stands_once_with_all_its_rows(reasons: list[list[str]]) -> None:
    rows = [replace(PYTORCH, unstable=tuple(some)) for some in reasons]
    found = doubts(rows)
    assert len({doubt.text[0] for doubt in found}) == len(found)
    for doubt in found:
        assert list(doubt.places) == [
            place for place, some in enumerate(reasons) if any(one[0] == doubt.text[0] for one in some)
        ]
    assert sorted((len(doubt.places) for doubt in found), reverse=True) == [len(doubt.places) for doubt in found]


def test_what_did_not_run_is_two_lines() -> None:
    cases = "forward-1-fp32-pinned-float32", "end_to_end-1-fp32-pinned-float32"
    missing = [
        *(
            NotRun(f"{name}-{case}", f"{name} runs on cuda alone")
            for name in ("pytorch-cudagraph", "tripy")
            for case in cases
        ),
        NotRun(f"pytorch-{cases[1]}", "on a CPU nothing is copied: end-to-end would repeat forward"),
        *(NotRun(f"openvino-{case}", "openvino is not installed") for case in cases),
        NotRun(f"onnxruntime-{cases[0]}", "failed: RuntimeError: x"),
    ]
    assert not_run_in_short(missing) == [
        "Needs an NVIDIA GPU: pytorch-cudagraph, tripy, end-to-end.",
        f"Did not run: openvino: openvino is not installed; onnxruntime-{cases[0]}: failed: RuntimeError: x",
    ]
    assert not_run_in_short([]) == []


def test_columns_without_a_value_are_left_out_and_a_narrow_terminal_loses_none() -> None:
    for width in (40, 80, 120):
        text = render(brief([PYTORCH, TRIPY]), width)
        assert "e2e" not in text
        assert " - " not in text
        lines = text.splitlines()
        assert max(map(len, lines)) <= width
        assert {"0.814", "0.548", "0.67"} <= set(text.split())
        assert len(lines) <= 11
        assert lines[0].startswith("LeNet, batch 1,000")
        assert "forward" in lines[0 if width > 40 else 1]


def test_what_lies_under_several_tables_is_told_once() -> None:
    """Each table has its own number of rounds."""
    other = measured("pytorch", Mode.FORWARD, 1e-3)
    small = replace(other, case=replace(other.case, batch_size=1), summary=replace(other.summary, rounds=37))
    text = " ".join(render(brief([PYTORCH, small])).split())
    assert text.count("median of") == 1
    assert "; median of 37 or 100 rounds" in text


def test_a_ratio_to_an_unstable_row_is_marked_in_each_table() -> None:
    rows = [doubtful(PYTORCH), TRIPY]
    (speed,) = speed_sheets(rows)
    assert speed.lines[1][3] == "0.67 !"
    _, rates = rows_sheets(rows)
    assert rates.lines[1][3] == "1.49x !"
