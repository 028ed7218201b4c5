"""Output with control characters escaped, so that no file's text controls a terminal, a log or a page."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, NoReturn, TextIO

from rich.console import Console, ConsoleOptions, RenderableType  # noqa: TID251 - all others use `Terminal`
from rich.segment import Segment
from rich.text import Text

__all__ = ["LOST_OUTPUT", "Terminal", "discard", "forgive_output", "secure_streams", "tell", "visible"]

LOST_OUTPUT: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Error numbers of a standard output that cannot take what is written."""
_UNUSUAL: Final = re.compile(r"[^\n -~]")
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's controls, formats (such as directions of text), surrogates, and separators of lines."""
_LAST_TWO: Final = 0xFFFE
_BASIC: Final = 0xFFFF


def visible(text: str) -> str:
    r"""The text with control characters escaped: ESC becomes ``\u001b``.

    Line breaks stay. The result can be encoded as UTF-8, and XML and JSON can hold it.
    """
    return _UNUSUAL.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    character, code = found[0], ord(found[0])
    if unicodedata.category(character) not in _HIDDEN and code & _LAST_TWO != _LAST_TWO:
        return character
    return f"\\u{code:04x}" if code <= _BASIC else f"\\U{code:08x}"


def tell(text: str, *, err: bool = False, end: str = "\n") -> None:
    """Print a text, made `visible`.

    Args:
        text: The text.
        err: Print to standard error.
        end: What follows the text.

    Raises:
        OSError: Standard output cannot take it.
    """
    stream: TextIO | None = sys.stderr if err else sys.stdout
    if stream is not None:  # Python sets None for a closed stream
        stream.write(visible(text) + end)
        stream.flush()


class Terminal(Console):
    """A console of rich that prints texts as `tell` does, and keeps its own styles."""

    def __init__(self, **options: Any) -> None:
        super().__init__(emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """A text, made visible before a table measures its width."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What to print, made visible."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))

    def on_broken_pipe(self) -> NoReturn:
        """Raise the error. rich would exit with 1, which is a verdict."""
        raise  # noqa: PLE0704 - called while the error is handled


class _Forgiving(io.FileIO):
    """A standard stream. If it cannot be written, the work continues.

    Attributes:
        lost: Whether something could not be written.
    """

    lost = False

    def write(self, data: Any) -> int:
        try:
            super().write(data)
        except OSError:
            self.lost = True
        return len(data)


def _forgiving(descriptor: int, stream: TextIO | None) -> tuple[TextIO, _Forgiving]:
    """A stream to write on in the place of a standard one, and what is below it."""
    raw = _Forgiving(descriptor, "w", closefd=False)
    encoding = stream.encoding if stream else "utf-8"
    buffer = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, encoding, errors="backslashreplace", line_buffering=True, write_through=True), raw


def forgive_output() -> Callable[[], bool]:
    """Let the work go on if standard output cannot be written.

    Returns:
        A function that tells whether something was lost.
    """
    if sys.stdout is not sys.__stdout__:  # it is captured
        return lambda: False
    sys.stdout, raw = _forgiving(1, sys.stdout)
    return lambda: raw.lost


def secure_streams() -> None:
    """Set up the process's standard streams, so that printing a message never ends the process.

    A closed stream becomes the null device. Otherwise the next opened file would take its number, and get what
    libraries print. A character that the encoding lacks is escaped. Errors of standard error are ignored.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stderr is sys.__stderr__:
        sys.stderr, _ = _forgiving(2, sys.stderr)


def discard(stream: TextIO | None) -> None:
    """Send a broken stream to the null device, or Python would try again when it ends, and exit with 120."""
    with suppress(OSError):  # not every stream has a number
        if stream is not None:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
