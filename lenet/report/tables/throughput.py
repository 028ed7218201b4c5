"""The table of throughput rows: images a second, and latencies under that load."""

from __future__ import annotations

from collections.abc import Sequence

from lenet.report.language import ENGLISH, Language
from lenet.report.rounding import count, percent, significant, thousands
from lenet.report.tables.names import MARK, limit_name, row_name
from lenet.report.tables.sheet import NOTHING, Sheet
from lenet.results import Row

__all__ = ["throughput_sheet"]


def throughput_sheet(rows: Sequence[Row], language: Language = ENGLISH) -> Sheet | None:
    """A line for each throughput row; None if there is none."""
    text = language.text
    lines = tuple(_line(row, language) for row in rows if row.throughput is not None)
    if not lines:
        return None
    latency = text("latency")
    columns = (
        *(text("row"), text("images/s"), text("in flight"), text("ms/batch")),
        *(f"{latency}\n{share}" for share in ("p50", "p95", "p99")),
        *(text("copies\nalone"), text("passes\nalone"), text("of the floor")),
    )
    caption = text(
        "batches from the host, several in flight; images/s: of the median window; latency: ms from a batch's "
        "submission until its logits are ready; alone: ms/batch of the copies or of the forward passes in the same "
        "ring; of the floor: the rate as a share of what the nearest of the machine's limits allows"
    )
    return Sheet(text("Throughput"), columns, lines, caption)


def _line(row: Row, language: Language) -> tuple[str, ...]:
    number, found = language.number, row.throughput
    assert found is not None

    def milliseconds(seconds: float | None) -> str:
        return NOTHING if seconds is None else number(significant(1e3 * seconds))

    mark = MARK if row.unstable else ""
    share = NOTHING
    if row.floor is not None and row.times_floor is not None:
        limit = limit_name(row.floor.term, language)
        share = f"{number(percent(1 / row.times_floor))} % {limit}{mark}"
    return (
        row_name(row.case),
        number(thousands(row.images_per_second)) + mark,
        number(count(found.depth)),
        milliseconds(row.summary.median) + mark,
        *map(milliseconds, (found.latency_p50, found.latency_p95, found.latency_p99)),
        *map(milliseconds, (found.copy_alone, found.forward_alone)),
        share,
    )
