from __future__ import annotations

from dataclasses import replace

from lenet.measurement.floor import Floor, Limits
from lenet.report.tables import limits_line, remarks, rows_sheets
from lenet.vocabulary import Mode
from tests.report.tables.examples import CASE, PUBLISHED, measured
from tests.rows import with_figures


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
        assert remarks(rows) == [f"{name}: scatter"]


def test_the_rows_have_the_columns_that_people_tune_by() -> None:
    row = with_figures(measured("tripy", Mode.FORWARD, 0.5e-3), p95=0.7e-3)
    row = replace(
        row, wall_median=0.6e-3, peak_memory_bytes=3 << 20, floor=Floor(40e-6, "launch"), max_abs_delta=1.2e-5
    )
    times, rates = rows_sheets([PUBLISHED[0], row])
    assert rates.lines[0][4] == "-", "a row without limits"
    assert dict(zip(times.columns, times.lines[1], strict=True)) == {
        "row": "tripy forward fp32 1000",
        "median": "0.500",
        "p95": "0.700",
        "p99": "1.00",
        "IQR": "0",
        "wall": "0.600",
        "error": "1e-05",
    }
    assert dict(zip(rates.columns, rates.lines[1], strict=True)) == {
        "row": "tripy forward fp32 1000",
        "us/image": "0.500",
        "images/s": "2,000,000",
        "speed-up": "1.63x",
        "floor": "12.5x launch",
        "memory": "3 MiB",
    }


def test_a_mark_is_explained() -> None:
    rows = [replace(PUBLISHED[0], unstable=("scatter", "a tail")), PUBLISHED[1]]
    assert remarks(rows) == ["pytorch forward fp32 1000: scatter; a tail"]


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
        "memory 2610, from pinned memory 55.0, from pageable memory 9.00 GB/s; "
        "launch 6.70 us, 11.2 us by the wall clock."
    )
