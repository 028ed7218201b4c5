"""All that reaches a terminal, a log or a page passes here, so that no file's text can control who shows it."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, NoReturn, TextIO

from rich.console import Console, ConsoleOptions, RenderableType  # noqa: TID251 - all others use `Terminal`
from rich.segment import Segment
from rich.text import Text

__all__ = ["LOST_OUTPUT", "Terminal", "discard", "secure_streams", "tell", "visible"]

LOST_OUTPUT: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What the system says where standard output cannot hold what is written."""
_UNUSUAL: Final = re.compile(r"[^\n -~]")
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's controls, formats (the directions of text among them), halves of characters, and separators of lines."""
_LAST_TWO: Final = 0xFFFE
_BASIC: Final = 0xFFFF


def visible(text: str) -> str:
    r"""A text in which every character shows itself: one that would control the reader becomes its escape, ``\u001b``.

    Line breaks stay. What is left can be encoded as UTF-8, and XML and JSON hold it.
    """
    return _UNUSUAL.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    character, code = found[0], ord(found[0])
    if unicodedata.category(character) not in _HIDDEN and code & _LAST_TWO != _LAST_TWO:
        return character
    return f"\\u{code:04x}" if code <= _BASIC else f"\\U{code:08x}"


def tell(text: str, *, err: bool = False, end: str = "\n") -> None:
    """Print a text, whatever it holds.

    Args:
        text: The text.
        err: Whether it goes to standard error.
        end: What follows it.

    Raises:
        OSError: Standard output cannot hold it.
    """
    stream: TextIO | None = sys.stderr if err else sys.stdout
    if stream is not None:  # Python's own, where the stream is closed
        stream.write(visible(text) + end)
        stream.flush()


class Terminal(Console):
    """A console of rich's that prints texts as `tell` does; its own styles stay."""

    def __init__(self, **options: Any) -> None:
        super().__init__(emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """A text, made visible before a table measures it."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is printed, with the rest made visible."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))

    def on_broken_pipe(self) -> NoReturn:
        """Tell the caller; rich would exit with 1, which is a verdict."""
        raise  # noqa: PLE0704 - called while the error is handled


class _Forgiving(io.FileIO):
    """Standard error: where it cannot be written there is nobody to tell, and the work goes on."""

    def write(self, data: Any) -> int:
        with suppress(OSError):
            super().write(data)
        return len(data)


def secure_streams() -> None:
    """Make the process's standard streams such that printing a message never ends it.

    A stream that is closed becomes the null device, else the next file that is opened would take its place and get what
    libraries print. A character that an encoding lacks is escaped. Standard error forgives what cannot be written.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stderr is sys.__stderr__:
        raw = _Forgiving(2, "w", closefd=False)
        encoding = sys.stderr.encoding if sys.stderr else "utf-8"
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(raw), encoding, errors="backslashreplace", line_buffering=True, write_through=True
        )


def discard(stream: TextIO | None) -> None:
    """Lead a stream that cannot be written to nowhere, or Python would try again at its end, and exit with 120."""
    with suppress(OSError):  # nor has every stream a number
        if stream is not None:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
