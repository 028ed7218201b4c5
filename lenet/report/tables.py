"""Tables in the coursework's form, for the terminal and as Markdown. Numbers are rounded here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lenet.measurement.floor import Limits
from lenet.measurement.modes import Mode
from lenet.published import BATCH_SIZE, FIGURES, MACHINE, Figure, ratio_to_pytorch
from lenet.results import BASELINE_BACKEND, Case, Measurement, NotRun, Row, speedup

__all__ = [
    "Sheet",
    "backends_table",
    "doctor_table",
    "limits_line",
    "parity_table",
    "published_sheet",
    "results_markdown",
    "row_name",
    "rows_sheets",
    "sheet_5",
    "significant",
    "speed_sheets",
    "to_markdown",
    "to_rich",
]

_MODES = ((Mode.FORWARD, "forward"), (Mode.END_TO_END, "e2e"))
_NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table of texts, in no form yet.

    Attributes:
        title: What it shows.
        columns: Headings, a line break allowed.
        lines: Cells, as many a line as there are columns.
        caption: Conditions and notes.
    """

    title: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    caption: str = ""


def sheet_5(rows: Sequence[Row], not_run: Iterable[NotRun] = ()) -> RenderableType:
    """The speed tables, then the published one, then what was not run and why.

    Args:
        rows: What was measured.
        not_run: What was not, and why.
    """
    sheets = [*speed_sheets(rows), *([published_sheet()] if rows else [])]
    return Group(*map(to_rich, sheets), *_not_run({item.name: item.reason for item in not_run}))


def speed_sheets(rows: Sequence[Row]) -> list[Sheet]:
    """The coursework's speed table for each batch size, precision and condition: a line a backend, both modes.

    Ratios are of medians, to PyTorch's row under the same conditions.
    """
    ordered = sorted(rows, key=lambda row: _conditions(row.case))
    sheets = []
    for _, group in groupby(ordered, key=lambda row: _conditions(row.case)):
        alike = list(group)
        memories = dict.fromkeys(row.case.host_memory for row in alike if row.case.mode is Mode.END_TO_END)
        sheets += [
            _speed_sheet([row for row in alike if row.case.host_memory in {None, memory}], rows)
            for memory in memories or (None,)
        ]
    return sheets


def published_sheet() -> Sheet:
    """The coursework's own figures, in the same form; they were measured elsewhere."""
    lines = []
    for runtime, group in groupby(FIGURES, key=lambda figure: figure.runtime):
        figures: dict[Mode, Figure] = {figure.mode: figure for figure in group}
        cells = []
        for mode, _ in _MODES:
            figure = figures[mode]
            batch, image = f"{figure.milliseconds_per_batch:.3f}", f"{figure.milliseconds_per_image:.4f}"
            cells += [batch, image, f"{ratio_to_pytorch(figure):.2f}"]
        lines.append((runtime, *cells))
    title = f"Published by the coursework: batch about {BATCH_SIZE:,}, {MACHINE}"
    return Sheet(title, _SPEED_COLUMNS, tuple(lines), "mean of 100 runs after 5 warm-ups; not measured here")


def rows_sheets(rows: Sequence[Row]) -> list[Sheet]:
    """Every row with the columns that people tune by: one sheet of times, one of rates and memory."""
    times, rates = [], []
    for row in rows:
        name = row_name(row.case)
        faster = speedup(row, rows)
        wall = _NOTHING if row.wall_median is None else significant(1e3 * row.wall_median)
        memory = _NOTHING if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 2**20:,.0f} MiB"
        spread = [significant(1e3 * value) for value in (row.p95, row.p99, row.iqr)]
        times.append((name, significant(row.milliseconds_per_batch), *spread, wall))
        rate = f"{float(significant(row.images_per_second)):,.0f}"
        ratio = _NOTHING if faster is None else f"{faster:.2f}x"
        limit = _NOTHING
        if row.floor is not None and row.times_floor is not None:
            limit = f"{significant(row.times_floor)}x {row.floor.term}"
        rates.append((name, significant(row.microseconds_per_image), rate, ratio, limit, memory))
    return [
        Sheet(
            "Times, ms/batch",
            ("row", "median", "p95", "p99", "IQR", "wall"),
            tuple(times),
            "wall: median wall time of the same forward calls, launch included, where device time is what counts; "
            "images are normalised float32 where a row does not say uint8",
        ),
        Sheet(
            "Rates",
            ("row", "us/image", "images/s", "speed-up", "floor", "memory"),
            tuple(rates),
            "of the median; speed-up over PyTorch under the same conditions; floor: how many times longer than the "
            "machine's limits allow, and the limit that is nearest; memory: peak on the device",
        ),
    ]


def limits_line(limits: Limits) -> str:
    """The machine's limits, in one line: rates of the largest buffers, times of the shortest work."""
    arithmetic = ", ".join(f"{name} {significant(rate / 1e12)}" for name, rate in limits.arithmetic.items())
    copies = "".join(f", from {kind} memory {significant(max(rates)[1] / 1e9)}" for kind, rates in limits.copy.items())
    return (
        f"Limits, measured: {arithmetic} TFLOP/s; memory {significant(max(limits.memory)[1] / 1e9)}{copies} GB/s; "
        f"launch {significant(1e6 * limits.launch)} us, {significant(1e6 * limits.launch_wall)} us by the wall clock."
    )


def to_rich(sheet: Sheet) -> Table:
    """For the terminal: the first column to the left, numbers to the right; nothing is cut off."""
    table = Table(title=sheet.title, caption=sheet.caption, title_justify="left", caption_justify="left")
    table.box = SIMPLE_HEAD
    for number, heading in enumerate(sheet.columns):
        table.add_column(heading, justify="right" if number else "left", overflow="fold", no_wrap=number > 0)
    for line in sheet.lines:
        table.add_row(*line)
    return table


def to_markdown(sheet: Sheet) -> str:
    """As a Markdown table under a heading."""
    columns = [heading.replace("\n", " ") for heading in sheet.columns]
    rule = ["---", *["---:"] * (len(columns) - 1)]
    lines = [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (columns, rule, *sheet.lines)
    ]
    return "\n".join([f"### {sheet.title}", "", *lines, "", *([sheet.caption, ""] if sheet.caption else [])])


def results_markdown(measurements: Sequence[Measurement], rows: Sequence[Row]) -> str:
    """Measurements as a Markdown page: the conditions, the speed tables, all rows, and what was not run.

    Args:
        measurements: The files, of one machine and commit.
        rows: Their rows, put together.
    """
    machine = measurements[0].machine
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    gpu = machine["gpu"]
    parts = [
        f"# LeNet on {gpu['name'] if gpu else machine['cpu']['model']}",
        "",
        "Generated by `lenet results --markdown`; times are medians. Files:",
        "",
        *(f"- {measurement.describe()}" for measurement in measurements),
        "",
        f"Machine: {machine['cpu']['model']}, {machine['cpu']['usable']} CPUs, {machine['system']['distribution']};",
        f"Python {machine['python']['version']}, {packages}.",
    ]
    if gpu:
        parts.append(
            f"GPU: {gpu['name']}, compute capability {gpu['compute_capability']}, limit {gpu['power_limit_w']} W, "
            f"driver {gpu['driver']}, CUDA {machine['cuda']['runtime']}, cuDNN {machine['cuda']['cudnn']}."
        )
    limits = next((measurement.limits for measurement in measurements if measurement.limits), None)
    if limits:
        parts.append(limits_line(limits))
    sheets = [*speed_sheets(rows), published_sheet(), *rows_sheets(rows)]
    not_run = {item.name: item.reason for measurement in measurements for item in measurement.not_run}
    missing = [f"- {text.plain.strip()}" for text in _not_run(not_run)[1:]]
    return "\n".join([*parts, "", *map(to_markdown, sheets), *(["### Not run", "", *missing] if missing else [])])


_SPEED_COLUMNS = (
    "runtime",
    *(f"{label}\n{unit}" for _, label in _MODES for unit in ("ms/batch", "ms/image", "ratio")),
)


def _conditions(case: Case) -> tuple[str, str, int, str, bool, str]:
    """What two rows must share to stand in one table; a forward row stands in that of each kind of host memory."""
    return (case.device, case.images, -case.batch_size, case.asked, case.cold_cache, case.input)


def _speed_sheet(group: list[Row], rows: Sequence[Row]) -> Sheet:
    case = group[0].case
    lines = []
    for backend, label in dict.fromkeys((row.case.backend, _runtime(row.case)) for row in group):
        cells = [cell for mode, _ in _MODES for cell in _cells(group, backend, mode, rows)]
        lines.append((label, *cells))
    rounds = sorted({row.rounds for row in group})
    notes = [case.images, f"median of {' or '.join(map(str, rounds))} rounds"]
    if any(row.unstable for row in group):
        notes.append("! is unstable: see its row")
    title = f"LeNet, batch {case.batch_size:,}, {case.asked}, {case.device}, {case.input} images"
    for memory in sorted({row.case.host_memory for row in group if row.case.host_memory}):
        title += f", end-to-end from {'pinned memory, zero-copy' if memory == 'zero-copy' else f'{memory} memory'}"
    return Sheet(title + (", cold cache" if case.cold_cache else ""), _SPEED_COLUMNS, tuple(lines), "; ".join(notes))


def _cells(group: list[Row], backend: str, mode: Mode, rows: Sequence[Row]) -> list[str]:
    found = next((row for row in group if row.case.backend == backend and row.case.mode == mode), None)
    if found is None:
        return [_NOTHING] * 3
    faster = speedup(found, rows)
    mark = " !" if found.unstable else ""
    ratio = _NOTHING if faster is None else f"{1 / faster:.2f}"
    return [
        significant(found.milliseconds_per_batch) + mark,
        significant(found.milliseconds_per_image),
        ratio if backend != BASELINE_BACKEND else "1.00",
    ]


def _runtime(case: Case) -> str:
    return case.backend if case.precision == case.asked else f"{case.backend} ({case.precision})"


def row_name(case: Case) -> str:
    """A case in a few words."""
    mode = "forward" if case.mode is Mode.FORWARD else f"e2e {case.host_memory}"
    kind = f"{' uint8' if case.input == 'uint8' else ''}{' cold' if case.cold_cache else ''}"
    return f"{_runtime(case)} {mode} {case.asked} {case.batch_size}{kind}"


def significant(value: float, digits: int = 3) -> str:
    """A positive number to so many significant digits, without an exponent: 12.3, 0.0123, 1230."""
    if value <= 0:
        return f"{value:g}"
    text = f"{value:.{digits}g}"
    if "e" in text:
        text = f"{float(text):.12f}".rstrip("0").rstrip(".")
    return text


def backends_table(lines: Sequence[Mapping[str, str | None]], *, probed: bool) -> Table:
    """The table of backends: name, what it is, its library's version, and whether it is there.

    Args:
        lines: ``name``, ``summary``, ``version`` and ``reason`` (None where nothing is in the way) of each.
        probed: Whether the backends were probed, or only looked up among the installed distributions.
    """
    table = Table()
    table.add_column("backend", style="bold", no_wrap=True)
    table.add_column("what it is")
    table.add_column("version")
    table.add_column("runs here" if probed else "installed", overflow="fold")
    for line in lines:
        state = f"no: {line['reason']}" if line["reason"] else "yes"
        table.add_row(line["name"], line["summary"], line["version"] or "-", Text(state))
    return table


def parity_table(lines: Sequence[Mapping[str, Any]], not_run: Mapping[str, str]) -> RenderableType:
    """The coursework's quality table (sheet 4): loss and accuracy of each backend, and how far its logits are off.

    Args:
        lines: `lenet.comparison.Agreement` as JSON.
        not_run: Backends that did not run, with the reason.
    """
    images = lines[0]["images"] if lines else 0
    table = Table(
        title=f"LeNet on {images:,} images",
        title_justify="left",
        caption="delta: against PyTorch; logits: largest difference from float64, and its share of the tolerance",
        caption_justify="left",
    )
    table.add_column("runtime", style="bold", no_wrap=True)
    for heading in ("runs", "loss", "accuracy", "delta\nloss", "delta\naccuracy", "logits", "of tol.", "right"):
        table.add_column(heading, justify="right")
    for line in lines:
        table.add_row(
            line["backend"],
            line["precision"],
            f"{line['loss']:.7f}",
            f"{line['accuracy']:.4f}",
            *("-" if line[key] is None else f"{line[key]:.1e}" for key in ("delta_loss", "delta_accuracy")),
            f"{line['max_abs_delta']:.1e}",
            f"{line['share_of_tolerance']:.2g}",
            "yes" if line["right"] else f"NO: {line['diverging_layer'] or 'unknown layer'}",
        )
    parts: list[RenderableType] = [table] if lines else []
    return Group(*parts, *_not_run(not_run))


def doctor_table(machine: Mapping[str, str | None], lines: Sequence[Mapping[str, Any]]) -> RenderableType:
    """What worked of each backend, then what to do and the log's tail for each that did not.

    Args:
        machine: Versions and the device.
        lines: `lenet.doctor.Examination` as JSON.
    """
    present = ", ".join(f"{name} {version}" for name, version in machine.items() if version)
    table = Table()
    table.add_column("backend", style="bold", no_wrap=True)
    table.add_column("version")
    table.add_column("runs")
    for step in _STEPS:
        table.add_column(step, justify="right")
    for line in lines:
        steps = {step["name"]: f"{step['seconds']:.1f} s" if step["passed"] else "no" for step in line["steps"]}
        cells = [steps.get(step, "-") for step in _STEPS]
        table.add_row(line["backend"], line["version"] or "-", line["precision"] or "-", *cells)
    details: list[RenderableType] = []
    for line in lines:
        if line["passed"]:
            details.append(Text(f"{line['backend']}: {line['steps'][-1]['message']}"))
            continue
        failed = line["steps"][-1]
        details.append(Text(f"{line['backend']}: {failed['name']}: {failed['message']}", style="bold"))
        if line["advice"] and line["advice"] != failed["message"]:
            details.append(Text(f"  next: {line['advice']}"))
        if failed["name"] != "import":
            details += [Text(f"  | {text}") for text in line["log"]]
    return Group(Text(present), table, *details)


def _not_run(reasons: Mapping[str, str]) -> list[Text]:
    """Each reason once, with all that it kept from running."""
    if not reasons:
        return []
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    lines = [Text(f"  {', '.join(names)}: {reason}") for reason, names in by_reason.items()]
    return [Text("Not run:", style="bold"), *lines]


_STEPS = ("import", "build", "run", "compare")
