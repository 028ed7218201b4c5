"""Tables with a line for each row, the rows' remarks, and the machine's limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from lenet.measurement.floor import Limits
from lenet.report.language import ENGLISH, Language
from lenet.report.rounding import ratio, significant, thousands
from lenet.report.tables.doubts import doubts
from lenet.report.tables.names import MARK, limit_name, memory_name, ratio_mark, row_names, weights_note
from lenet.report.tables.sheet import NOTHING, Sheet
from lenet.results import Row, speedup

__all__ = ["limits_line", "remarks", "rows_sheets"]

_NAMED_ROWS: Final = 3
"""Most rows that a remark names; of more it tells the number."""


def rows_sheets(rows: Sequence[Row], language: Language = ENGLISH, *, others: Sequence[Row] = ()) -> list[Sheet]:
    """Tables with a line for each row: one of times, one of rates and memory, and one of energy if it was measured.

    Args:
        rows: The measured rows.
        language: Language of headings and numbers.
        others: As for `speed_sheets`.
    """
    adaptive = {row.case.protocol for row in rows} == {"adaptive"}
    protocol = ", " + language.text("adaptive") if adaptive else ""
    found = [_times_sheet(rows, protocol, language), _rates_sheet(rows, protocol, language, others)]
    if any(row.energy or row.energy_missing for row in rows):
        found.append(_energy_sheet(rows, language))
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
        gain = NOTHING if faster is None else number(ratio(faster)) + "x" + ratio_mark(row, [*rows, *others])
        limit = NOTHING
        if row.floor is not None and row.times_floor is not None:
            limit = f"{number(significant(row.times_floor))}x {limit_name(row.floor.term, language)}"
            limit += MARK if row.unstable else ""
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


def _energy_sheet(rows: Sequence[Row], language: Language) -> Sheet:
    number, text = language.number, language.text
    lines = []
    for row, name in zip(rows, row_names(rows), strict=True):
        if (found := row.energy) is None:
            lines.append((name, *[NOTHING] * 5))
            continue
        values = (
            *(found.joules_per_1000_images, found.joules_above_idle_per_1000_images, found.images_per_joule),
            *(found.watts, found.idle_watts),
        )
        lines.append((name, *(number(significant(value)) for value in values)))
    counters = sorted({row.energy.counter for row in rows if row.energy})
    reasons = sorted({row.energy_missing for row in rows if row.energy_missing})
    notes = (
        text(
            "joules for 1,000 images; above idle: without the idle power; W: mean power during the work, and when idle"
        ),
        *(text("counter: %(names)s", names=", ".join(counters)) for _ in counters[:1]),
        *(text("not measured: %(reason)s", reason=language.known(reason)) for reason in reasons),
    )
    heads = (text("J/1000"), text("above idle"), text("images/J"), text("W"), text("idle W"))
    return Sheet(text("Energy"), (text("row"), *heads), tuple(lines), "; ".join(notes))


def remarks(rows: Sequence[Row]) -> list[str]:
    """Why rows marked ``!`` are uncertain, and what to do.

    What several rows share stands once, after their names as in `rows_sheets`.
    """
    names = row_names(rows)
    shared: dict[tuple[int, ...], list[str]] = {}
    for doubt in doubts(rows):
        shared.setdefault(doubt.places, []).append(doubt.text)
    lines = []
    for places, texts in shared.items():
        several = len(places) > _NAMED_ROWS
        who = f"{len(places)} of {len(rows)} rows" if several else ", ".join(names[place] for place in places)
        lines.append(f"{who}: {'; '.join(texts)}")
    return lines


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
