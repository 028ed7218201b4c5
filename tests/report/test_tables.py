from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import RenderableType

from lenet.measurement.floor import Floor, Limits
from lenet.report import tables
from lenet.report.tables import (
    Sheet,
    limits_line,
    parity_sheet,
    row_name,
    rows_sheets,
    sheet_5,
    significant,
    speed_sheets,
    to_markdown,
    to_rich,
)
from lenet.results import Case, NotRun, Row
from lenet.terminal import Terminal
from lenet.vocabulary import Mode
from tests.rows import summary, with_figures

CASE = Case("pytorch", Mode.FORWARD, "fp32", "fp32", 1000, "a GPU", "CIFAR-10 test images", None, False, "coursework")  # noqa: FBT003
ROW = Row(CASE, summary(1e-3), None, None, 0, (), {})


def measured(backend: str, mode: Mode, median: float, batch_size: int = 1000, memory: str | None = None) -> Row:
    case = replace(CASE, backend=backend, mode=mode, batch_size=batch_size, host_memory=memory)
    return with_figures(replace(ROW, case=case), median=median)


def render(what: RenderableType, width: int = 80) -> str:
    console = Terminal(width=width, color_system=None)
    with console.capture() as capture:
        console.print(what, crop=False)
    return capture.get()


PUBLISHED = [
    measured("pytorch", Mode.FORWARD, 0.814e-3),
    measured("pytorch", Mode.END_TO_END, 1.702e-3, memory="pinned"),
    measured("tripy", Mode.FORWARD, 0.548e-3),
]


def test_the_speed_table_has_the_coursework_s_form() -> None:
    (sheet,) = speed_sheets(PUBLISHED)
    assert sheet.title == "LeNet, batch 1,000, fp32, a GPU, float32 images, end-to-end from pinned memory"
    assert [column.replace("\n", " ") for column in sheet.columns] == [
        "runtime",
        *("forward ms/batch", "forward ms/image", "forward ratio"),
        *("e2e ms/batch", "e2e ms/image", "e2e ratio"),
    ]
    assert sheet.lines == (
        ("pytorch", "0.814", "0.000814", "1.00", "1.7", "0.0017", "1.00"),
        ("tripy", "0.548", "0.000548", "0.67", "-", "-", "-"),
    )
    assert sheet.caption == "CIFAR-10 test images; median of 100 rounds"


@pytest.mark.parametrize(
    ("rounds", "said"), [((100, 100, 100), "100"), ((100, 64, 100), "64 or 100"), ((100, 64, 15), "15 to 100")]
)
def test_rows_of_unlike_numbers_of_rounds_are_said_to_be(rounds: tuple[int, ...], said: str) -> None:
    rows = [with_figures(row, rounds=count) for row, count in zip(PUBLISHED, rounds, strict=True)]
    assert f"; median of {said} rounds" in speed_sheets(rows)[0].caption


def test_the_published_table_stands_beside_and_is_marked() -> None:
    text = render(sheet_5(PUBLISHED), 120)
    assert "Published by the coursework: batch about 1,000, NVIDIA GeForce RTX 4060 Ti" in text
    assert "not measured here" in text
    lines = [line.split() for line in text.splitlines() if line.split()[-6:-3] == ["0.548", "0.0005", "0.67"]]
    assert lines == [["TriPy", "->", "TensorRT", "0.548", "0.0005", "0.67", "1.476", "0.0015", "0.87"]]


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


def test_a_protocol_that_all_rows_share_is_told_once() -> None:
    other = replace(PUBLISHED[0], case=replace(CASE, protocol="adaptive"), unstable=("scatter",))
    for rows, name, title in (
        ([other], "pytorch forward fp32 1000", ", adaptive"),
        ([other, PUBLISHED[2]], "pytorch forward fp32 1000 adaptive", ""),
        ([replace(other, case=CASE)], "pytorch forward fp32 1000", ""),
    ):
        times, rates = rows_sheets(rows)
        assert (times.title, rates.title) == (f"Times, ms/batch{title}", f"Rates{title}")
        assert times.lines[0][0] == rates.lines[0][0] == name
        assert tables.remarks(rows) == [f"{name}: scatter"]


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


def test_the_quality_table_has_the_coursework_s_form_and_names_the_layer_at_fault() -> None:
    right = {"backend": "pytorch", "precision": "fp32", "loss": 0.81234, "accuracy": 0.7251, "images": 10_000}
    right |= {"delta_loss": None, "delta_accuracy": None, "max_abs_delta": 9.5e-6, "share_of_tolerance": 0.113}
    right |= {"right": True, "diverging_layer": None}
    wrong = right | {
        "backend": "tripy",
        "precision": "tf32",
        "delta_loss": 2e-4,
        "delta_accuracy": 1e-4,
        "right": False,
    }
    sheet = parity_sheet([right, wrong, wrong | {"diverging_layer": "conv2"}])
    assert sheet.title == "LeNet on 10,000 images"
    assert sheet.lines == (
        ("pytorch", "fp32", "0.8123400", "0.7251", "-", "-", "9.5e-06", "0.11", "yes"),
        ("tripy", "tf32", "0.8123400", "0.7251", "2.0e-04", "1.0e-04", "9.5e-06", "0.11", "NO: unknown layer"),
        ("tripy", "tf32", "0.8123400", "0.7251", "2.0e-04", "1.0e-04", "9.5e-06", "0.11", "NO: conv2"),
    )


def test_the_doctor_says_what_worked_and_of_what_did_not_what_to_do_and_the_log_s_end() -> None:
    def line(backend: str, *steps: tuple[str, bool, str], advice: str = "") -> dict[str, Any]:
        found = [{"name": name, "passed": passed, "seconds": 1.25, "message": text} for name, passed, text in steps]
        common = {"version": None, "precision": None, "log": [f"{backend} {number}" for number in range(21)]}
        return common | {"backend": backend, "passed": steps[-1][1], "steps": found, "advice": advice}

    lines = [
        line("fine", ("import", True, ""), ("compare", True, "it is right")),
        line("absent", ("import", False, "install it"), advice="install it"),
        line("broken", ("import", True, ""), ("build", False, "no kernel"), advice="update the driver"),
    ]
    text = render(tables.doctor_table({"torch": "2.14", "gpu": None}, lines), 120)
    head, _, details = text.partition("fine: it is right\n")
    cells = [row.replace("│", " ").split() for row in head.splitlines() if row.startswith("│")]
    assert cells == [
        ["fine", "-", "-", "1.2", "s", "-", "-", "1.2", "s"],
        ["absent", "-", "-", "no", "-", "-", "-"],
        ["broken", "-", "-", "1.2", "s", "no", "-", "-"],
    ]
    assert head.startswith("torch 2.14\n")
    log = "".join(f"  | broken {number}\n" for number in range(1, 21))
    assert details == f"absent: import: install it\nbroken: build: no kernel\n  next: update the driver\n{log}"


def test_the_limits_are_one_line() -> None:
    limits = Limits(
        arithmetic={"fp32": 51.24e12, "fp16": 650e12},
        memory=((1 << 20, 5e12), (1 << 29, 2.61e12)),
        copy={"pinned": ((1 << 26, 55e9),), "pageable": ((1 << 26, 9e9),)},
        launch=6.7e-6,
        launch_wall=11.2e-6,
    )
    assert limits_line(limits) == (
        "Limits, measured: fp32 51.2, fp16 650 TFLOP/s; "
        "memory 2610, from pinned memory 55, from pageable memory 9 GB/s; "
        "launch 6.7 us, 11.2 us by the wall clock."
    )


def test_a_backend_that_runs_another_precision_says_so() -> None:
    other = measured("tripy", Mode.FORWARD, 1e-3)
    (sheet,) = speed_sheets([replace(other, case=replace(other.case, precision="tf32"))])
    assert sheet.lines[0][0] == "tripy (tf32)"


def test_an_unstable_row_is_marked() -> None:
    (sheet,) = speed_sheets([replace(PUBLISHED[0], unstable=("the median is known to 3 % only",))])
    assert sheet.lines[0][1] == "0.814 !"
    assert "! is unstable" in sheet.caption


def test_what_was_not_run_is_listed_once_a_reason() -> None:
    missing = (NotRun("tripy-1", "not installed"), NotRun("x", "no GPU"), NotRun("tripy-2", "not installed"))
    assert "Not run:\n  tripy-1, tripy-2: not installed\n  x: no GPU\n" in render(sheet_5((), missing))


def test_the_rows_have_the_columns_that_people_tune_by() -> None:
    row = with_figures(measured("tripy", Mode.FORWARD, 0.5e-3), p95=0.7e-3)
    row = replace(
        row, wall_median=0.6e-3, peak_memory_bytes=3 << 20, floor=Floor(40e-6, "launch"), max_abs_delta=1.2e-5
    )
    times, rates = rows_sheets([PUBLISHED[0], row])
    assert rates.lines[0][4] == "-", "a row without limits"
    assert dict(zip(times.columns, times.lines[1], strict=True)) == {
        "row": "tripy forward fp32 1000",
        "median": "0.5",
        "p95": "0.7",
        "p99": "1",
        "IQR": "0",
        "wall": "0.6",
        "error": "1e-05",
    }
    assert dict(zip(rates.columns, rates.lines[1], strict=True)) == {
        "row": "tripy forward fp32 1000",
        "us/image": "0.5",
        "images/s": "2,000,000",
        "speed-up": "1.63x",
        "floor": "12.5x launch",
        "memory": "3 MiB",
    }


@pytest.mark.parametrize("width", [80, 120])
def test_every_sheet_fits_the_terminal_and_nothing_is_cut_off(width: int) -> None:
    rows = [measured("pytorch-cudagraph", Mode.FORWARD, 1.23e-6), measured("x", Mode.END_TO_END, 12.0, memory="pinned")]
    floor = Floor(1e-7, "arithmetic")
    rows = [replace(row, floor=floor, peak_memory_bytes=10 << 30, max_abs_delta=1.2e-5) for row in rows]
    for sheet in [*speed_sheets(rows), tables.published_sheet(), *rows_sheets(rows)]:
        text = render(to_rich(sheet), width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        for cell in (cell for line in sheet.lines for cell in line[1:]):
            assert cell in text


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_narrow_terminal_loses_no_column(width: int) -> None:
    """Rich's own table gives up the names, then the last digits."""
    line = {"backend": "pytorch-cudagraph", "precision": "fp16", "loss": 0.79971234, "accuracy": 0.7223, "images": 10}
    line |= {"delta_loss": 5.1e-9, "delta_accuracy": 1e-4, "max_abs_delta": 9.5e-6, "share_of_tolerance": 0.095}
    text = render(to_rich(sheet := tables.parity_sheet([line | {"right": True, "diverging_layer": None}])), width)
    assert all(cell in text for cell in sheet.lines[0])
    assert max(map(len, text.splitlines())) <= max(width, 80)


def test_a_mark_is_explained() -> None:
    rows = [replace(PUBLISHED[0], unstable=("scatter", "a tail")), PUBLISHED[1]]
    assert tables.remarks(rows) == ["pytorch forward fp32 1000: scatter; a tail"]


def test_markdown_is_a_table_whose_cells_cannot_break_it() -> None:
    text = to_markdown(Sheet("Title", ("a\nb", "c"), (("x|y", "1"),), "caption"))
    assert text == "### Title\n\n| a b | c |\n| --- | ---: |\n| x\\|y | 1 |\n\ncaption\n"


@pytest.mark.parametrize(
    ("value", "text"), [(0.0012345, "0.00123"), (12.345, "12.3"), (1234.5, "1230"), (0.0, "0"), (1.70249, "1.7")]
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


@given(st.floats(1e-9, 1e9))
def test_rounding_is_within_half_a_unit_of_the_third_digit(value: float) -> None:
    assert "e" not in significant(value)
    assert float(significant(value)) == pytest.approx(value, rel=5.001e-3)


def test_many_cases_that_were_not_run_are_counted() -> None:
    text = render(sheet_5([], [NotRun(f"case-{number}", "no time") for number in range(10)]), 200)
    assert "case-7 and 2 more: no time" in text
    assert "case-8" not in text
