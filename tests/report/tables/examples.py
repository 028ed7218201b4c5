"""Rows for the tests of the tables, and a table as a terminal shows it."""

from __future__ import annotations

from dataclasses import replace

from rich.console import RenderableType

from lenet.results import Case, Row
from lenet.terminal import Terminal
from lenet.vocabulary import Mode
from tests.rows import summary, with_figures

CASE = Case("pytorch", Mode.FORWARD, "fp32", "fp32", 1000, "a GPU", "CIFAR-10 test images", None, False, "coursework")  # noqa: FBT003


ROW = Row(CASE, summary(1e-3), None, None, 0, (), {})


def measured(backend: str, mode: Mode, median: float, batch_size: int = 1000, memory: str | None = None) -> Row:
    case = replace(CASE, backend=backend, mode=mode, batch_size=batch_size, host_memory=memory)
    return with_figures(replace(ROW, case=case), median=median)


PUBLISHED = [
    measured("pytorch", Mode.FORWARD, 0.814e-3),
    measured("pytorch", Mode.END_TO_END, 1.702e-3, memory="pinned"),
    measured("tripy", Mode.FORWARD, 0.548e-3),
]


def render(what: RenderableType, width: int = 80) -> str:
    console = Terminal(width=width, color_system=None)
    with console.capture() as capture:
        console.print(what, crop=False)
    return capture.get()
