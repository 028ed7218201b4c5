"""Error handling for every command: print each error, and exit with a code that no command uses for a verdict."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import StringIO
from typing import Any, Final

import click

from lenet.errors import LenetError, OutputError
from lenet.terminal import LOST_OUTPUT, discard, secure_streams, tell

__all__ = ["INTERRUPTED", "UNFORESEEN", "GuardedGroup"]

UNFORESEEN: Final = 70
"""The exit code of an unexpected error, as in ``sysexits.h``. Python's own would be 1, which is a verdict."""
_WHOLE: Final = 1000
"""More characters than a sentence has."""
INTERRUPTED: Final = 130
"""The exit code after Ctrl-C, as in a shell."""


class _Failure(click.ClickException):
    """Why a command ends, and its exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class GuardedGroup(click.Group):
    """A group of commands that always exits with one of this project's codes."""

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        *,
        standalone_mode: bool = True,
        **more: Any,
    ) -> Any:
        """Run a command and end the process. Without the standalone mode, do as click does."""
        if not standalone_mode:
            return super().main(args, prog_name, standalone_mode=False, **more)
        code = UNFORESEEN
        try:
            secure_streams()
            code = self._run(args, prog_name, **more)
        except SystemExit:  # a shell's completion
            raise
        except (KeyboardInterrupt, click.Abort):
            code = INTERRUPTED
        except BaseException:  # noqa: BLE001 - for example out of memory while the error is formatted
            with suppress(OSError):
                os.write(2, b"lenet: failed, and the error cannot be told\n")
        sys.exit(code)

    def _run(self, args: Sequence[str] | None, prog_name: str | None, **more: Any) -> int:
        try:
            code = super().main(args, prog_name, standalone_mode=False, **more) or 0
            with _told():
                if sys.stdout is not None:
                    sys.stdout.flush()  # an error here can be printed; at Python's exit the code would be 120
        except click.ClickException as error:
            with suppress(Exception):
                _show(error)
            return error.code if isinstance(error, _Failure) else LenetError.exit_code
        return int(code)

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        """As in click. ``--help`` and ``--version`` print here."""
        with _told():
            return super().make_context(*args, **more)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, each with its first sentence. Click would cut long ones; here they are wrapped."""
        shown = [(name, found) for name in self.list_commands(ctx) if (found := self.get_command(ctx, name))]
        with formatter.section("Commands"):
            formatter.write_dl([(name, found.get_short_help_str(_WHOLE)) for name, found in shown])

    def invoke(self, ctx: click.Context) -> Any:
        """As in click."""
        with _told():
            return super().invoke(ctx)


def _show(error: click.ClickException) -> None:
    if isinstance(error, _Failure):
        text = error.message
    else:
        shown = StringIO()
        error.show(shown)
        text = shown.getvalue().rstrip("\n").expandtabs(4)  # click lists choices behind tabs
    if text:
        tell(text, err=True)


@contextmanager
def _told() -> Iterator[None]:
    """Turn every error into a `_Failure`. Click would exit with 1 for some of them."""
    try:
        yield
    except (click.ClickException, click.exceptions.Exit):
        raise
    except LenetError as error:
        raise _Failure(error.told, error.exit_code) from error
    except KeyboardInterrupt:
        raise _Failure("lenet: interrupted", INTERRUPTED) from None
    except BrokenPipeError:
        discard(sys.stdout)
        raise _Failure("", LenetError.exit_code) from None
    except (Exception, SystemExit) as error:
        if isinstance(error, OSError) and error.errno in LOST_OUTPUT and error.filename is None:
            discard(sys.stdout)
            raise _Failure(_lost(error).told, LenetError.exit_code) from error
        raise _Failure("".join(traceback.format_exception(error)) + _unforeseen(error).told, UNFORESEEN) from error


def _lost(error: OSError) -> OutputError:
    return OutputError(
        "the output cannot be written",
        found=error.strerror or str(error),
        wanted="room for all of it",
        hint="free some space and run it again",
    )


def _unforeseen(error: BaseException) -> LenetError:
    hint = "report it with the traceback above"
    if isinstance(error, MemoryError):
        hint = "end other programs, or ask for less at a time, such as a smaller batch"
    elif isinstance(error, OSError):
        hint = f"mend what the system names; if nothing is wrong there, {hint}"
    return LenetError(
        "lenet failed, or the system did",
        found=f"{type(error).__name__}: {error}",
        wanted="a run to its end",
        hint=hint,
    )
