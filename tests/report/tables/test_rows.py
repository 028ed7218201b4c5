from __future__ import annotations

from dataclasses import replace

from lenet.measurement.energy import Energy
from lenet.measurement.floor import Floor, Limits
from lenet.report.tables import fastest, limits_line, remarks, row_names, rows_sheets, speed_sheets
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


def test_energy_has_a_table_and_a_column_where_it_was_measured_and_else_a_reason() -> None:
    first, second, third = PUBLISHED
    joules = Energy("NVML", joules=1000.0, seconds=2.0, images=5000, idle_watts=50.0)
    rows = [replace(first, energy=joules), replace(second, energy_missing="it stood still"), third]
    *_, sheet = rows_sheets(rows)
    assert sheet.columns == ("row", "J/1000", "above idle", "images/J", "W", "idle W")
    assert [line[1:] for line in sheet.lines] == [("200", "180", "5.00", "500", "50.0"), ("-",) * 5, ("-",) * 5]
    assert sheet.caption.endswith("counter: NVML; not measured: it stood still")
    (speed,) = speed_sheets(rows)
    columns = [column.replace("\n", " ") for column in speed.columns]
    assert dict(zip(columns, speed.lines[0], strict=True))["forward J/1000"] == "200"
    assert speed.lines[0][columns.index("e2e J/1000")] == "-"
    assert "J/1000: joules for 1,000 images" in speed.caption
    assert len(rows_sheets(PUBLISHED)) == 2
    assert "J/1000" not in "".join(speed_sheets(PUBLISHED)[0].columns)


def test_rows_of_several_weights_are_told_apart() -> None:
    rows = [replace(PUBLISHED[0], case=replace(PUBLISHED[0].case, weights=digit * 64)) for digit in "ab"]
    assert row_names(rows) == [f"pytorch forward fp32 1000 {digit * 12}" for digit in "ab"]
    assert [sheet.caption.rpartition("; ")[2] for sheet in speed_sheets(rows)] == [f"weights {d * 12}" for d in "ab"]
    (told,) = fastest([*rows, replace(rows[0], case=replace(rows[0].case, backend="tripy"))])
    where = "forward, batch 1,000, weights aaaaaaaaaaaa"
    assert told == f"No fastest can be claimed, {where}: the 95 % intervals of pytorch, tripy overlap"
