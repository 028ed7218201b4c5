"""The gate's progress: a bar on a terminal, a line for each pair elsewhere."""

from __future__ import annotations

import time

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from lenet.gate.decision import Verdict
from lenet.gate.pairs import Pair
from lenet.gate.stages import Stage
from lenet.progress import Display

__all__ = ["GateDisplay"]


class GateDisplay(Display):
    """Shows each pair as it is measured, on standard error."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("pairs, {task.fields[pair]}"),
            TimeElapsedColumn(),
        )
        self._task = self.bar.add_task("", total=None, pair="")

    def tell(self, stage: Stage, pair: Pair | None, most: int) -> None:
        """Show how far a stage is.

        Args:
            stage: The stage in progress.
            pair: The pair just measured; None at the stage's beginning.
            most: The most pairs that the stage takes.
        """
        counted = len(stage.counted)
        open_rows = sum(one.verdict is Verdict.INCONCLUSIVE for one in stage.decisions.values())
        what = f"{open_rows} of {len(stage.decisions)} rows undecided" if stage.decisions else "no row decided"
        if not counted:
            what = "compiling"
        if stage.discarded:
            what += f", {stage.discarded} discarded"
        last = f"{pair.seconds:.1f} s a pair" if pair else "starting"
        if self.console.is_terminal:
            text = f"{stage.name} builds"
            self.bar.update(self._task, description=text, completed=counted, total=most, pair=f"{last}, {what}")
        elif pair:
            elapsed = time.monotonic() - self._began
            line = f"{elapsed:6.1f} s  {stage.name} builds  {counted:2d} of at most {most} pairs  {last}, {what}"
            self.note(line)
