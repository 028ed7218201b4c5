"""A table of texts, and its forms for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult  # noqa: TID251 - for a type
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from lenet.terminal import Terminal, visible

__all__ = ["NOTHING", "Sheet", "of_columns", "print_whole", "to_markdown", "to_rich", "without_empty_columns"]

NOTHING: Final = "-"
"""The cell of a value that is not known."""

_UNBOUNDED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table of texts, for the terminal, Markdown or a page.

    Attributes:
        title: What it shows.
        columns: Headings; they may hold a line break.
        lines: Cells of each line, as many as there are columns.
        caption: Conditions and notes.
    """

    title: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    caption: str = ""


def without_empty_columns(sheet: Sheet) -> Sheet:
    """The sheet without the columns in which no line has a value."""
    columns = range(len(sheet.columns))
    return of_columns(sheet, [place for place in columns if any(line[place] != NOTHING for line in sheet.lines)])


def of_columns(sheet: Sheet, places: Sequence[int]) -> Sheet:
    """The sheet with some of its columns, counted from 0."""
    lines = tuple(tuple(line[place] for place in places) for line in sheet.lines)
    return replace(sheet, columns=tuple(sheet.columns[place] for place in places), lines=lines)


def to_rich(sheet: Sheet, *, prose: Collection[int] = ()) -> Table:
    """The sheet for the terminal: the first column to the left, numbers to the right.

    Args:
        sheet: The table.
        prose: Other columns, counted from 0, to the left, whose cells may take several lines.

    Print it with ``crop=False``, and nothing is cut off.
    """
    # Names come from files, so rich's markup in them is text.
    title, caption = escape(sheet.title), escape(sheet.caption)
    table = _FittingTable(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.box = SIMPLE_HEAD
    for number, heading in enumerate(sheet.columns):
        left = number == 0 or number in prose
        table.add_column(heading, justify="left" if left else "right", overflow="fold", no_wrap=not left)
    names = [_Name(visible(line[0])) for line in sheet.lines]
    table.columns[0].min_width = max((name.least for name in names), default=0)
    for name, line in zip(names, sheet.lines, strict=True):
        table.add_row(name, *map(escape, line[1:]))
    return table


def to_markdown(sheet: Sheet) -> str:
    """The sheet as a Markdown table under a heading."""
    columns = [heading.replace("\n", " ") for heading in sheet.columns]
    rule = ["---", *["---:"] * (len(columns) - 1)]
    lines = [
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
        for line in (columns, rule, *sheet.lines)
    ]
    return "\n".join([f"### {sheet.title}", "", *lines, "", *([sheet.caption, ""] if sheet.caption else [])])


def print_whole(*what: RenderableType) -> None:
    """Print to standard output. In a log or a file, lines are 120 columns wide."""
    console = Terminal()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    console.print(*what, crop=False)


@dataclass(frozen=True, slots=True)
class _Name:
    """A row's name. It breaks at a space, and where a word is too long after a hyphen."""

    text: str

    @property
    def least(self) -> int:
        """Columns that it needs."""
        return max(map(len, _hyphens_broken(self.text).split()), default=0)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(self.least, max(map(len, self.text.split("\n"))))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        words = self.text.split(" ")
        yield Text(" ".join(word if len(word) <= options.max_width else _hyphens_broken(word) for word in words))


def _hyphens_broken(text: str) -> str:
    return text.replace("-", "-\n")


class _FittingTable(Table):
    """A table that never cuts a cell. In a narrow terminal its columns move together, or its lines are too long.

    rich's own table drops the first column and then the ends of numbers.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unbounded = options.update(width=_UNBOUNDED)
        if self.__rich_measure__(console, unbounded).maximum > options.max_width:
            self.padding, self.show_edge = (0, 0, 0, 0), False
            yield ""
        least = self.__rich_measure__(console, unbounded).minimum
        yield from super().__rich_console__(console, options.update(width=max(options.max_width, least)))
