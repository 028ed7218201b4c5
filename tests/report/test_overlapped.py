"""What throughput rows show: their table, their sentences and their part of the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lenet.measurement.floor import floor
from lenet.report import overlapped
from lenet.report.language import ENGLISH
from lenet.report.tables import brief, details, row_name, speed_groups, throughput_sheet
from lenet.results import Row, Throughput
from lenet.results.matching import match
from lenet.vocabulary import Mode
from tests.report import documents
from tests.report.tables.examples import measured, render

FORWARD, COPIED = Mode.FORWARD, Mode.END_TO_END


def sustained(backend: str, seconds: float, copy: float | None = 56e-6, forward: float | None = 35e-6) -> Row:
    row = measured(backend, Mode.THROUGHPUT, seconds, memory="pinned")
    found = Throughput(3, 3 * seconds, 4 * seconds, 5 * seconds, copy, forward)
    return replace(row, case=replace(row.case, depth=3), throughput=found)


def plain(sentences: list[str]) -> list[str]:
    return [sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in sentences]


def test_the_table_has_rates_latencies_and_parts() -> None:
    row = sustained("fused", 60e-6)
    lowest = floor(row.case.workload, documents.LIMITS)
    sheet = throughput_sheet([measured("fused", FORWARD, 1e-3), replace(row, floor=lowest)])
    assert sheet is not None
    assert lowest is not None
    share = f"{100 * lowest.seconds / 60e-6:.1f} %\narithmetic"
    name = "fused throughput pinned fp32 1000 depth 3"
    assert sheet.lines == (
        (name, "16,700,000", "3", "0.0600", "0.180", "0.240", "0.300", "0.0560", "0.0350", share),
    )  # fmt: skip
    assert throughput_sheet([measured("fused", FORWARD, 1e-3)]) is None


def test_a_row_of_a_cpu_has_no_memory_and_no_parts() -> None:
    row = sustained("openvino", 1e-3, None, None)
    row = replace(row, case=replace(row.case, host_memory=None, depth=None), unstable=("why",))
    assert row_name(row.case) == "openvino throughput fp32 1000"
    sheet = throughput_sheet([row])
    assert sheet is not None
    assert sheet.lines[0][1:4] == ("1,000,000 !", "3", "1.00 !")
    assert sheet.columns[-1] == "latency\np99", "what no row has gets no column"
    assert "alone" not in sheet.caption
    assert "floor" not in sheet.caption


def test_the_tables_fit_80_columns() -> None:
    lowest = floor(sustained("fused", 1e-3).case.workload, documents.LIMITS)
    rows = [
        replace(sustained(name, seconds), floor=lowest, unstable=("why",))
        for name, seconds in (("onnxruntime-cudagraph", 12.345e-3), ("fused", 0.0123e-3))
    ]
    for what in brief(rows), details(rows):
        text = render(what, 80)
        assert max(map(len, text.splitlines())) <= 80
        for shown in ("81,300,000 !", "81,000 !", "12.3 !", "arithmetic !"):
            assert shown in text
    assert "0.0350" in render(details(rows), 80)


def test_the_coursework_s_tables_hold_none() -> None:
    rows = [measured("pytorch", FORWARD, 1e-3), sustained("pytorch", 1e-3)]
    assert speed_groups(rows) == [rows[:1]]
    text = render(brief(rows[1:]), 160)
    assert "ms/image" not in text
    assert "pytorch throughput pinned fp32 1000 depth 3" in text


def test_a_gain_is_told_for_each_of_the_three_modes() -> None:
    rows = [
        *(measured("pytorch", FORWARD, 300e-6), measured("pytorch", COPIED, 400e-6, memory="pinned")),
        *(measured("fused", FORWARD, 40e-6), measured("fused", COPIED, 100e-6, memory="pinned")),
        *(sustained("pytorch", 300e-6), sustained("fused", 60e-6)),
    ]
    said = (
        "fused over pytorch, batch 1,000, fp32, float32 images: 7.50 times as fast forward, 4.00 times end to end, "
        "5.00 times in throughput."
    )
    assert plain(overlapped.gains(rows, ENGLISH)) == [said]
    doubtful = [*rows[:3], replace(rows[3], unstable=("why",)), *rows[4:]]
    assert plain(overlapped.gains(doubtful, ENGLISH)) == [said + " Unstable: fused."]
    for place in range(len(rows)):
        assert overlapped.gains(rows[:place] + rows[place + 1 :], ENGLISH) == []


@pytest.mark.parametrize(
    ("seconds", "copy", "forward", "said"),
    [
        (58e-6, 56e-6, 35e-6, "the copies set the pace; without any forward pass a batch would take 3.4 % less time."),
        (
            320e-6,
            56e-6,
            296e-6,
            "the forward passes set the pace; without any copy a batch would take 7.5 % less time.",
        ),
        (20e-6, 8e-6, 10e-6, "neither the copies nor the forward passes alone set the pace; together they take 2.00 "),
        (20e-6, None, 10e-6, None),
    ],
)
def test_what_sets_the_pace_is_told(seconds: float, copy: float | None, forward: float, said: str | None) -> None:
    (*found,) = plain(overlapped.pace([sustained("fused", seconds, copy, forward)], ENGLISH))
    assert [one.partition(": ")[2][: len(said or "")] for one in found] == ([said] if said else [])


def test_rows_of_other_depths_are_not_compared() -> None:
    one = sustained("fused", 1e-3).case
    other = replace(one, depth=4)
    assert one.conditions() != other.conditions()
    assert match({"a": one}, {"b": other}).new == ("a",)


def test_the_page_has_a_part_for_them(tmp_path: Path) -> None:
    from tests.report.test_page import Text, report

    file = documents.measurement(tmp_path / "1.json", modes=list(Mode))
    result, page = report(file, out=tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    text = " ".join(Text(page).text.split())
    assert "the copies set the pace" in text
    assert "times in throughput" in text
    assert "pytorch throughput pinned fp32 1000 depth 3" in text
    assert "a copy runs beside the forward pass" in text
    assert page.count("<figcaption>throughput, fp32, batch 1,000, pinned memory, 3 in flight") == 2  # rates and rounds
    file = documents.measurement(tmp_path / "2.json", modes=[Mode.THROUGHPUT])
    result, page = report(file, out=tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    assert "The file holds no row of one batch at a time." in Text(page).text
    file = documents.measurement(tmp_path / "3.json")
    assert "Throughput" not in Text(report(file, out=tmp_path / "report.html")[1]).text
