"""The tests that start programs are marked `programs`. `nox -s programs` runs them, `nox -s tests` all others.

Programs are Python, a compiler, a browser, or a fork of the tests' own process. A test that starts one and is not
marked fails.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any, Final

import pytest

__all__ = ["COMPILED", "MARKER", "check", "forget", "kept_compiler", "notice"]

MARKER: Final = "programs"
COMPILED: Final = {"pytorch-aot", "pytorch-compile"}
"""The backends whose build starts g++, by TorchInductor."""
_SLOW: Final = re.compile(r"python.*|lenet|[cg]\+\+|g?cc|clang.*|chromium.*|google-chrome.*")
"""Interpreters, compilers and browsers, by name. What git and the shell's tools take is milliseconds."""
_QUESTIONS: Final = frozenset({"--version", "-###"})
"""With them a compiler says what it is or would do, and compiles nothing."""
_EVENTS: Final = {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}

_started: list[str] = []
_kept = False


def pytest_configure() -> None:
    """Notice from now on what this process starts. Python can remove no audit hook."""
    sys.addaudithook(_hear)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    forget()
    yield
    check(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    yield
    check(item)


def notice(program: str) -> None:
    """Note a program whose start Python does not audit."""
    _started.append(program)


@contextmanager
def kept_compiler() -> Iterator[None]:
    """Around a compiler whose result is kept from one run of the tests to the next: not to be marked."""
    global _kept  # noqa: PLW0603 - of the process, as the hook is
    _kept = True
    try:
        yield
    finally:
        _kept = False


def forget() -> None:
    """What was started so far is no program of the next test."""
    _started.clear()


def check(item: pytest.Item) -> None:
    """Fail a test without the mark that has started a program."""
    started = ", ".join(dict.fromkeys(_started))
    if started and item.get_closest_marker(MARKER) is None:
        pytest.fail(
            f"a test that starts programs is not marked so\n  found:  {started}\n"
            f"  wanted: @pytest.mark.{MARKER}, for `nox -s {MARKER}`, or no program: `nox -s tests` is to be quick",
            pytrace=False,
        )


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen":
        program = PurePath(str(arguments[0])).name
        if _SLOW.fullmatch(program) and not _kept and not _QUESTIONS.intersection(arguments[1]):
            _started.append(program)
    elif event in _EVENTS:
        _started.append(event)
