from __future__ import annotations

from dataclasses import replace

import pytest

from lenet.report.tables import row_name, speed_sheets
from lenet.vocabulary import Mode
from tests.report.tables.examples import CASE, PUBLISHED, measured
from tests.rows import with_figures


def test_the_speed_table_has_the_coursework_s_form() -> None:
    (sheet,) = speed_sheets(PUBLISHED)
    assert sheet.title == "LeNet, batch 1,000, fp32, a GPU, float32 images, end-to-end from pinned memory"
    assert [column.replace("\n", " ") for column in sheet.columns] == [
        "runtime",
        *("forward ms/batch", "forward ms/image", "forward ratio"),
        *("e2e ms/batch", "e2e ms/image", "e2e ratio"),
    ]
    assert sheet.lines == (
        ("pytorch", "0.814", "0.000814", "1.00", "1.70", "0.00170", "1.00"),
        ("tripy", "0.548", "0.000548", "0.67", "-", "-", "-"),
    )
    assert sheet.caption == "CIFAR-10 test images; median of 100 rounds"


@pytest.mark.parametrize(
    ("rounds", "said"), [((100, 100, 100), "100"), ((100, 64, 100), "64 or 100"), ((100, 64, 15), "15 to 100")]
)
def test_rows_of_unlike_numbers_of_rounds_are_said_to_be(rounds: tuple[int, ...], said: str) -> None:
    rows = [with_figures(row, rounds=count) for row, count in zip(PUBLISHED, rounds, strict=True)]
    assert f"; median of {said} rounds" in speed_sheets(rows)[0].caption


def test_unlike_conditions_stand_in_tables_of_their_own() -> None:
    rows = [measured("a", Mode.FORWARD, 1e-3, 1), measured("a", Mode.FORWARD, 2e-3, 1000)]
    rows += [measured("a", Mode.END_TO_END, 3e-3, 1000, memory) for memory in ("pinned", "pageable")]
    titles = [sheet.title for sheet in speed_sheets(rows)]
    assert titles == [
        "LeNet, batch 1,000, fp32, a GPU, float32 images, end-to-end from pinned memory",
        "LeNet, batch 1,000, fp32, a GPU, float32 images, end-to-end from pageable memory",
        "LeNet, batch 1, fp32, a GPU, float32 images",
    ]


def test_rows_of_two_protocols_stand_in_tables_of_their_own() -> None:
    other = with_figures(replace(PUBLISHED[0], case=replace(CASE, protocol="adaptive")), median=2e-3)
    adaptive, coursework = speed_sheets([PUBLISHED[2], other])
    assert adaptive.title == "LeNet, batch 1,000, fp32, a GPU, float32 images, adaptive"
    assert coursework.title == "LeNet, batch 1,000, fp32, a GPU, float32 images"
    assert coursework.lines == (("tripy", "0.548", "0.000548", "-", "-", "-", "-"),)
    assert row_name(other.case) == "pytorch forward fp32 1000 adaptive"


def test_bytes_and_where_they_lie_are_told() -> None:
    rows = [measured("fused", Mode.END_TO_END, 1e-4, memory="zero-copy"), measured("a", Mode.FORWARD, 1e-3)]
    rows = [replace(row, case=replace(row.case, input="uint8")) for row in rows] + [measured("a", Mode.FORWARD, 2e-3)]
    floats, bytes_ = speed_sheets(rows)
    assert floats.title == "LeNet, batch 1,000, fp32, a GPU, float32 images"
    assert bytes_.title == "LeNet, batch 1,000, fp32, a GPU, uint8 images, end-to-end from pinned memory, zero-copy"
    assert [row_name(row.case) for row in rows] == [
        "fused e2e zero-copy fp32 1000 uint8",
        "a forward fp32 1000 uint8",
        "a forward fp32 1000",
    ]


def test_a_cold_cache_is_told() -> None:
    cold = replace(PUBLISHED[0], case=replace(CASE, cold_cache=True))
    assert [sheet.title.rpartition("images")[2] for sheet in speed_sheets([PUBLISHED[0], cold])] == ["", ", cold cache"]
    assert row_name(cold.case) == "pytorch forward fp32 1000 cold"


def test_a_backend_that_runs_another_precision_says_so() -> None:
    other = measured("tripy", Mode.FORWARD, 1e-3)
    (sheet,) = speed_sheets([replace(other, case=replace(other.case, precision="tf32"))])
    assert sheet.lines[0][0] == "tripy (tf32)"


def test_an_unstable_row_is_marked() -> None:
    (sheet,) = speed_sheets([replace(PUBLISHED[0], unstable=("the median is known to 3 % only",))])
    assert sheet.lines[0][1] == "0.814 !"
    assert "! is unstable" in sheet.caption
