"""Progress on standard error: a bar or a step on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Final, Self

from rich.progress import Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn

from lenet.terminal import Terminal

__all__ = ["Display", "Steps"]

_LONG: Final = 2.0
"""Seconds after which a finished step gets a line where there is no terminal."""


class Display:
    """A bar on a terminal, and lines. Without a terminal on standard error only the lines are printed.

    Args:
        columns: The bar's columns.
        console: Where to print; standard error if there is none.
        options: Those of rich's bar.
    """

    def __init__(self, *columns: ProgressColumn, console: Terminal | None = None, **options: Any) -> None:
        self.console = console or Terminal(stderr=True)
        self.bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal, **options)

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def note(self, text: str, style: str | None = None) -> None:
        """Print a line."""
        self.console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


class Steps(Display):
    """Shows the step of a command that is under way, with its number. The last one disappears.

    Meanwhile no library's log and no library's warning is shown.

    Args:
        total: The number of steps.
        console: As for `Display`.
    """

    def __init__(self, total: int, console: Terminal | None = None) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        super().__init__(*columns, console=console, transient=True)
        self._total = total
        self._number = 0
        self._name = ""
        self._began = 0.0
        self._task = self.bar.add_task("", total=None)
        self._quiet = ExitStack()

    def __enter__(self) -> Self:
        self._quiet.enter_context(_quiet_libraries())
        return super().__enter__()

    def begin(self, name: str) -> None:
        """End the step under way, and begin another."""
        self._end()
        self._number += 1
        self._name = f"[{self._number}/{self._total}] {name}"
        self._began = time.monotonic()
        self.bar.reset(self._task, description=self._name, total=None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        super().__exit__(kind, error, trace)
        self._quiet.close()

    def _end(self) -> None:
        seconds = time.monotonic() - self._began
        if self._name and seconds > _LONG and not self.console.is_terminal:
            self.note(f"{self._name}: {seconds:.1f} s")
        self._name = ""


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Hide libraries' warnings, unless Python's options ask for them, and what torch logs below an error."""
    torch = logging.getLogger("torch")
    level = torch.level
    torch.setLevel(max(level, logging.ERROR))
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", module=r"lenet\.")
        try:
            yield
        finally:
            torch.setLevel(level)
