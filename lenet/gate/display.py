"""The gate's progress: a bar on a terminal, a line for each pair elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lenet.gate.session import Stage
from lenet.gate.workers import Pair
from lenet.terminal import Terminal

__all__ = ["GateDisplay"]


class GateDisplay:
    """Shows each pair as it is measured, on standard error."""

    def __init__(self) -> None:
        self._console = Terminal(stderr=True)
        self._began = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("pairs, {task.fields[pair]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None, pair="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def tell(self, stage: Stage, pair: Pair | None, look: int) -> None:
        """Show how far a stage is.

        Args:
            stage: The stage in progress.
            pair: The pair just measured; None at the stage's beginning.
            look: The number of pairs at the next look.
        """
        counted = len(stage.counted)
        what = "compiling" if not counted and len(stage.pairs) < 2 else f"{stage.discarded} discarded"  # noqa: PLR2004
        last = f"{pair.seconds:.1f} s a pair" if pair else "starting"
        if self._console.is_terminal:
            text = f"{stage.name} builds"
            self._progress.update(self._task, description=text, completed=counted, total=look, pair=f"{last}, {what}")
        elif pair:
            elapsed = time.monotonic() - self._began
            line = f"{elapsed:6.1f} s  {stage.name} builds  {counted:2d} of {look} pairs  {last}, {what}"
            self._console.print(line, highlight=False, soft_wrap=True)
