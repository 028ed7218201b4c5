"""Tables with a line for each row, the rows' remarks, and the machine's limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lenet.measurement.floor import Limits
from lenet.report.language import ENGLISH, Language
from lenet.report.rounding import ratio, significant, thousands
from lenet.report.tables.names import limit_name, memory_name, row_names, weights_note
from lenet.report.tables.sheet import NOTHING, Sheet
from lenet.results import Row, speedup

__all__ = ["limits_line", "remarks", "rows_sheets"]


def rows_sheets(rows: Sequence[Row], language: Language = ENGLISH, *, others: Sequence[Row] = ()) -> list[Sheet]:
    """Two tables with a line for each row: one of times, one of rates and memory.

    Args:
        rows: The measured rows.
        language: Language of headings and numbers.
        others: As for `speed_sheets`.
    """
    adaptive = {row.case.protocol for row in rows} == {"adaptive"}
    protocol = ", " + language.text("adaptive") if adaptive else ""
    found = (_times_sheet(rows, protocol, language), _rates_sheet(rows, protocol, language, others))
    note = weights_note(rows, language)
    return [replace(sheet, caption="; ".join(filter(None, (sheet.caption, note)))) for sheet in found]


def _times_sheet(rows: Sequence[Row], protocol: str, language: Language) -> Sheet:
    number, text = language.number, language.text
    lines = []
    for row, name in zip(rows, row_names(rows), strict=True):
        wall = NOTHING if row.wall_median is None else number(significant(1e3 * row.wall_median))
        spread = [number(significant(1e3 * value)) for value in (row.summary.p95, row.summary.p99, row.summary.iqr)]
        error = NOTHING if row.max_abs_delta is None else number(f"{row.max_abs_delta:.0e}")
        lines.append((name, number(significant(row.milliseconds_per_batch)), *spread, wall, error))
    return Sheet(
        text("Times, ms/batch") + protocol,
        (text("row"), text("median"), "p95", "p99", text("IQR"), text("wall"), text("error")),
        tuple(lines),
        text(
            "wall: median wall time of the same forward calls, launch included, where device time is what counts; "
            "images are normalised float32 where a row does not say uint8; error: the largest of a logit, against "
            "float64"
        ),
    )


def _rates_sheet(rows: Sequence[Row], protocol: str, language: Language, others: Sequence[Row]) -> Sheet:
    number, text = language.number, language.text
    lines = []
    for row, name in zip(rows, row_names(rows), strict=True):
        rate = number(thousands(row.images_per_second))
        faster = speedup(row, [*rows, *others])
        gain = NOTHING if faster is None else number(ratio(faster)) + "x"
        limit = NOTHING
        if row.floor is not None and row.times_floor is not None:
            limit = f"{number(significant(row.times_floor))}x {limit_name(row.floor.term, language)}"
        memory = NOTHING if row.peak_memory_bytes is None else number(f"{row.peak_memory_bytes / 2**20:,.0f}") + " MiB"
        lines.append((name, number(significant(row.microseconds_per_image)), rate, gain, limit, memory))
    return Sheet(
        text("Rates") + protocol,
        (text("row"), text("us/image"), text("images/s"), text("speed-up"), text("floor"), text("memory")),
        tuple(lines),
        text(
            "of the median; speed-up over PyTorch under the same conditions; floor: how many times longer than the "
            "machine's limits allow, and the limit that is nearest; memory: peak on the device"
        ),
    )


def remarks(rows: Sequence[Row]) -> list[str]:
    """Why each row marked ``!`` is uncertain, and what to do: a line for each row, named as in `rows_sheets`."""
    names = zip(rows, row_names(rows), strict=True)
    return [f"{name}: {'; '.join(row.unstable)}" for row, name in names if row.unstable]


def limits_line(limits: Limits, language: Language = ENGLISH) -> str:
    """The machine's limits in one line: rates of the largest buffers, times of the shortest work."""
    number, text = language.number, language.text
    arithmetic = ", ".join(f"{name} {number(significant(rate / 1e12))}" for name, rate in limits.arithmetic.items())
    copies = "".join(
        text(
            ", from %(memory)s %(rate)s",
            memory=memory_name(kind, language),
            rate=number(significant(max(rates)[1] / 1e9)),
        )
        for kind, rates in limits.copy.items()
    )
    return text(
        "Limits, measured: %(arithmetic)s TFLOP/s; memory %(memory)s%(copies)s GB/s; "
        "launch %(launch)s us, %(wall)s us by the wall clock.",
        arithmetic=arithmetic,
        memory=number(significant(max(limits.memory)[1] / 1e9)),
        copies=copies,
        launch=number(significant(1e6 * limits.launch)),
        wall=number(significant(1e6 * limits.launch_wall)),
    )
