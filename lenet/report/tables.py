"""Tables for the terminal, in the coursework's form (sheet 5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lenet.results import Mode, NotRun, Row

__all__ = ["backends_table", "doctor_table", "parity_table", "sheet_5", "significant"]

_MODES: tuple[tuple[Mode, str], ...] = (("forward", "forward"), ("end_to_end", "end-to-end"))


def sheet_5(rows: Sequence[Row], not_run: Iterable[NotRun] = ()) -> RenderableType:
    """The speed table: a line a backend, ms/batch and ms/image in both modes; a table a batch size and precision.

    Args:
        rows: What was measured.
        not_run: What was not, and why; listed below.
    """
    ordered = sorted(rows, key=_conditions)
    parts: list[RenderableType] = [_table(list(group)) for _, group in groupby(ordered, key=_conditions)]
    return Group(*parts, *_not_run({item.name: item.reason for item in not_run}))


def _conditions(row: Row) -> tuple[str, str, int, str]:
    """What two rows must share to stand in one table."""
    return (row.case.device, row.case.images, -row.case.batch_size, row.case.precision)


def _table(rows: list[Row]) -> Table:
    case = rows[0].case
    rounds = sorted({row.rounds for row in rows})
    table = Table(
        title=f"LeNet, batch {case.batch_size:,}, {case.precision}, {case.device}",
        caption=f"{case.images}; median of {' or '.join(map(str, rounds))} rounds",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("runtime")
    for _, label in _MODES:
        table.add_column(f"{label}\nms/batch", justify="right")
        table.add_column(f"{label}\nms/image", justify="right")
    for backend in dict.fromkeys(row.case.backend for row in rows):
        table.add_row(backend, *_cells([row for row in rows if row.case.backend == backend]))
    return table


def _cells(rows: list[Row]) -> list[str]:
    cells: list[str] = []
    for mode, _ in _MODES:
        found = next((row for row in rows if row.case.mode == mode), None)
        if found is None:
            cells += ["-", "-"]
        else:
            cells += [significant(found.milliseconds_per_batch), significant(found.milliseconds_per_image)]
    return cells


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
    if not reasons:
        return []
    return [Text("Not run:", style="bold"), *(Text(f"  {name}: {reason}") for name, reason in reasons.items())]


_STEPS = ("import", "build", "run", "compare")
