"""Tables with a line for each backend: what is installed, what works, and how well it agrees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.text import Text

from lenet.report.language import ENGLISH, Language
from lenet.report.rounding import accuracy, delta, loss, share
from lenet.report.tables.not_run import not_run_lines
from lenet.report.tables.sheet import NOTHING, Sheet, to_rich

__all__ = ["backends_table", "doctor_table", "parity_sheet", "parity_table"]

_STEPS: Final = ("import", "build", "run", "compare")
_LOG_LINES: Final = 20
"""Number of a log's last lines to show; ``--json`` has all."""


def backends_table(lines: Sequence[Mapping[str, Any]], *, probed: bool) -> RenderableType:
    """The table of backends: name, summary, the library's version, and whether the backend is available, or why not.

    Args:
        lines: ``name``, ``summary``, ``version`` and ``reason`` (None if it is available) of each.
        probed: Whether the backends were probed, or only looked up among the installed distributions.
    """
    columns = ("backend", "version", "runs here" if probed else "installed", "what it is")
    cells = [
        (line["name"], line["version"] or NOTHING, "no" if line["reason"] else "yes", line["summary"]) for line in lines
    ]
    # Commands to copy stand below the table, unbroken.
    reasons = [_unbroken(f"{line['name']}: {line['reason']}") for line in lines if line["reason"]]
    return Group(to_rich(Sheet("", columns, tuple(cells)), prose={3}), *reasons)


def doctor_table(machine: Mapping[str, str | None], lines: Sequence[Mapping[str, Any]]) -> RenderableType:
    """What worked of each backend, then advice and the log's tail for each that failed; last what needs a GPU.

    Args:
        machine: Versions and the device.
        lines: `lenet.comparison.doctor.Examination` as JSON.
    """
    present = ", ".join(f"{name} {version}" for name, version in machine.items() if version)
    cells = []
    for line in lines:
        steps = {step["name"]: f"{step['seconds']:.1f} s" if step["passed"] else "no" for step in line["steps"]}
        known = (line["version"] or NOTHING, line["precision"] or NOTHING)
        cells.append((line["backend"], *known, *(steps.get(step, NOTHING) for step in _STEPS)))
    table = to_rich(Sheet("", ("backend", "version", "runs", *_STEPS), tuple(cells)))
    details: list[RenderableType] = []
    of_gpu = []
    for line in lines:
        if line["steps"][-1]["message"] == f"{line['backend']} runs on cuda alone":
            of_gpu.append(line["backend"])
            continue
        if line["passed"]:
            details.append(Text(f"{line['backend']}: {line['steps'][-1]['message']}"))
            continue
        failed = line["steps"][-1]
        details.append(Text(f"{line['backend']}: {failed['name']}: {failed['message']}", style="bold"))
        if line["advice"] and line["advice"] != failed["message"]:
            details.append(_unbroken(f"  next: {line['advice']}"))
        if line["advice"] != failed["message"]:
            details += [Text(f"  | {text}") for text in line["log"][-_LOG_LINES:]]
    needs = [Text(f"Needs an NVIDIA GPU: {', '.join(of_gpu)}.")] if of_gpu else []
    return Group(Text(present), table, *details, *needs)


def _unbroken(text: str) -> Text:
    """A line that holds a command to copy, which the terminal may wrap and rich may not."""
    return Text(text, no_wrap=True, overflow="ignore")


def parity_table(lines: Sequence[Mapping[str, Any]], not_run: Mapping[str, str], data: str = "") -> RenderableType:
    """`parity_sheet` for the terminal, and the backends that did not run, with the reason."""
    return Group(*([to_rich(parity_sheet(lines, data=data))] if lines else []), *not_run_lines(not_run))


def parity_sheet(lines: Sequence[Mapping[str, Any]], language: Language = ENGLISH, data: str = "") -> Sheet:
    """The coursework's quality table (sheet 4): loss and accuracy of each backend, and how far its logits are off.

    Args:
        lines: `lenet.comparison.Agreement` as JSON, at least one.
        language: Language of headings and numbers.
        data: What the images are, if it is known.
    """
    number, text = language.number, language.text

    def shown(value: float | None, rounded: Callable[[float], str]) -> str:
        return stacked(text("not finite")) if value is None else number(rounded(value))

    def stacked(words: str) -> str:
        return words.replace(" ", "\n")  # 80 columns have room for one word

    cells = []
    for line in lines:
        layer = line["diverging_layer"] or text("unknown layer")
        deltas = (line["delta_loss"], line["delta_accuracy"])
        cells.append(
            (
                line["backend"],
                line["precision"],
                shown(line["loss"], loss),
                number(accuracy(line["accuracy"])),
                *(NOTHING if value is None else number(delta(value)) for value in deltas),
                shown(line["max_abs_delta"], delta),
                shown(line["share_of_tolerance"], share),
                text("yes") if line["right"] else stacked(text("NO: %(layer)s", layer=layer)),
            )
        )
    headings = (
        *(text("runtime"), text("runs"), text("loss"), text("accuracy"), text("delta\nloss"), text("delta\naccuracy")),
        *(text("logits"), text("of tol."), text("right")),
    )
    return Sheet(
        language.plural("LeNet on %(count)s image", "LeNet on %(count)s images", lines[0]["images"]),
        headings,
        tuple(cells),
        "; ".join(
            (
                *([language.known(data)] if data else []),
                text("delta: against PyTorch; logits: largest difference from float64, and its share of the tolerance"),
                *(f"{line['backend']}: {language.known(line['reason'])}" for line in lines if line.get("reason")),
            )
        ),
    )
