"""The charts of one machine's rows: spread, batch sizes, roofline, and parts of end-to-end times."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from lenet.architecture import FLOPS_PER_IMAGE
from lenet.measurement.floor import Limits, best_rate, copy_seconds, moved_bytes, peak_rate
from lenet.report.charts import Chart, Painter, Split, Trend, draw_boxes, draw_lines, draw_rates, draw_splits
from lenet.report.language import Language
from lenet.report.page.grouping import grouped
from lenet.report.rounding import count
from lenet.report.tables import conditions_title, memory_name, mode_name
from lenet.results import Row
from lenet.vocabulary import Mode

__all__ = ["boxes", "energies", "mode_title", "parts_and_rounds", "rates", "rooflines", "scaling", "splits", "sweeps"]


def boxes(rows: Sequence[Row], painter: Painter, language: Language) -> list[Chart]:
    """The spread of the rounds, a chart for each group of rows that differ only in the backend."""
    groups = grouped([row for row in rows if row.samples], lambda row: row.case.conditions())
    return [draw_boxes(painter, group, mode_title(group[0], language)) for group in groups]


def scaling(rows: Sequence[Row], painter: Painter, language: Language) -> list[Chart]:
    """Time against the batch size, a chart for each group of rows that differ only in batch size and backend."""
    charts = []
    for group in grouped(rows, _but_batch):
        trends = []
        for line in grouped(group, lambda row: row.case.backend):
            points = sorted((row.case.batch_size, row.milliseconds_per_batch, bool(row.unstable)) for row in line)
            trends.append(Trend(line[0].case.backend, *map(list, zip(*points, strict=True))))
        if any(len(trend.x) > 1 for trend in trends):
            labels = (language.text("images a batch"), language.text("ms/batch"))
            charts.append(draw_lines(painter, trends, mode_title(group[0], language, batch=False), labels))
    return charts


def sweeps(rows: Sequence[Row], painter: Painter, language: Language) -> list[Chart]:
    """Time against the number of CPU threads, a chart for each group of rows that differ only in it and the backend."""
    charts = []
    known = [row for row in rows if row.case.cpu_threads]
    for group in grouped(known, lambda row: replace(row.case, device="").conditions()):
        trends = []
        for line in grouped(group, lambda row: row.case.backend):
            points = sorted((row.case.cpu_threads or 0, row.milliseconds_per_batch, bool(row.unstable)) for row in line)
            trends.append(Trend(line[0].case.backend, *map(list, zip(*points, strict=True))))
        if any(len(trend.x) > 1 for trend in trends):
            labels = (language.text("CPU threads"), language.text("ms/batch"))
            charts.append(draw_lines(painter, trends, mode_title(group[0], language, device=False), labels))
    return charts


def rooflines(rows: Sequence[Row], limits: Limits, painter: Painter, language: Language) -> list[Chart]:
    """Operations a second against operations a byte, with the measured limits; a chart for each precision."""
    text = language.text
    charts = []
    known = [row for row in rows if row.case.mode is Mode.FORWARD and row.floor is not None and not row.case.cold_cache]
    threads = max((row.case.cpu_threads or 0 for row in known), default=0)
    known = [row for row in known if (row.case.cpu_threads or 0) == threads]  # the limits are those of the most threads
    for group in grouped(known, lambda row: (row.case.precision, row.case.input)):
        precision, kind = group[0].case.precision, group[0].case.input
        if (operations := peak_rate(precision, limits)) is None:
            continue
        trends = []
        for line in grouped(group, lambda row: row.case.backend):
            work = [(FLOPS_PER_IMAGE * row.case.batch_size, moved_bytes(row.case.workload), row) for row in line]
            points = sorted(
                (flops / moved, flops / row.summary.median / 1e9, bool(row.unstable)) for flops, moved, row in work
            )
            trends.append(Trend(line[0].case.backend, *map(list, zip(*points, strict=True))))
        peak = operations / 1e9
        least, most = (bound(x for trend in trends for x in trend.x) for bound in (min, max))
        span = (least / 3, most * 3)
        roofs = [Trend(text("arithmetic"), span, (peak, peak))]
        rates = {
            text("main memory"): max(limits.memory)[1] / 1e9,
            text("fastest memory"): best_rate(limits.memory, 0) / 1e9,
        }
        for name, rate in rates.items():
            end = min(span[1], peak / rate)
            if end > span[0]:
                roofs.append(Trend(name, (span[0], end), (span[0] * rate, end * rate)))
        labels = (text("FLOP/byte"), text("GFLOP/s"))
        charts.append(draw_lines(painter, trends, f"{precision}, {kind}", labels, limits=roofs))
    return charts


def splits(groups: Sequence[Sequence[Row]], limits: Limits | None, painter: Painter, language: Language) -> list[Chart]:
    """End-to-end times in parts, for rows whose forward pass was measured as well; a chart for each group.

    The copy's part is the time of its bytes at the measured rate. Copy and synchronisation are one part if no rate was
    measured, or if the parts would exceed the whole, as when the copy overlaps the computation.
    """
    charts = []
    for group in groups:
        forward = {row.case.backend: row for row in group if row.case.mode is Mode.FORWARD}
        splits = []
        for row in group:
            own = forward.get(row.case.backend)
            if row.case.mode is not Mode.END_TO_END or own is None or own.summary.median >= row.summary.median:
                continue
            compute, rest = own.milliseconds_per_batch, row.milliseconds_per_batch - own.milliseconds_per_batch
            copy = 1e3 * copy_seconds(row.case.workload, limits) if limits and limits.copy else None
            if copy is None or copy > rest:
                parts = {"forward": compute, "copy and rest": rest}
            else:
                parts = {"copy": copy, "forward": compute, "rest": rest - copy}
            splits.append(Split(row.case.backend, parts, unstable=bool(row.unstable or own.unstable)))
        if splits:
            charts.append(draw_splits(painter, splits, conditions_title(group, language)))
    return charts


def energies(rows: Sequence[Row], painter: Painter, language: Language) -> list[Chart]:
    """Joules for 1,000 images, a chart for each group of rows that differ only in the backend."""
    charts = []
    for group in grouped([row for row in rows if row.energy], lambda row: row.case.conditions()):
        splits = []
        for row in group:
            assert row.energy is not None
            whole, above = row.energy.joules_per_1000_images, max(row.energy.joules_above_idle_per_1000_images, 0.0)
            splits.append(Split(row.case.backend, {"idle": whole - above, "above idle": above}))
        charts.append(draw_splits(painter, splits, mode_title(group[0], language), language.text("J for 1,000 images")))
    return charts


def rates(rows: Sequence[Row], painter: Painter, language: Language) -> list[Chart]:
    """Images a second of throughput rows, a chart for each group of rows that differ only in the backend."""
    groups = grouped([row for row in rows if row.throughput], lambda row: row.case.conditions())
    return [draw_rates(painter, group, mode_title(group[0], language)) for group in groups]


def parts_and_rounds(group: Sequence[Row], limits: Limits | None, painter: Painter, language: Language) -> list[Chart]:
    """The parts and the spread of rows under one condition."""
    return [*splits([group], limits, painter, language), *boxes(group, painter, language)]


def _but_batch(row: Row) -> Hashable:
    case = row.case
    where = (case.device, case.images, case.weights)
    return (case.mode, case.asked, case.input, *where, case.host_memory, case.cold_cache, case.depth)


def mode_title(row: Row, language: Language, *, batch: bool = True, device: bool = True) -> str:
    """A row's mode and conditions, for a chart of rows that differ in nothing else but the backend."""
    case, text = row.case, language.text
    words_of = [mode_name(case.mode, language), case.asked]
    if case.input != "float32":
        words_of.append(case.input)
    if batch:
        words_of.append(text("batch %(batch)s", batch=language.number(count(case.batch_size))))
    if device and case.threads:
        words_of.append(language.known(case.device))
    if case.host_memory:
        words_of.append(memory_name(case.host_memory, language))
    if case.cold_cache:
        words_of.append(text("cold cache"))
    if case.depth:
        words_of.append(text("%(count)s in flight", count=language.number(count(case.depth))))
    if case.protocol == "adaptive":
        words_of.append(text("adaptive"))
    return ", ".join(words_of)
