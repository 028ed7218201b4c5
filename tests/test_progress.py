"""Progress of the commands, on a terminal and elsewhere."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable

import pytest

from lenet.progress import Steps
from lenet.terminal import Terminal


def nothing() -> None:
    """No work."""


def shown(monkeypatch: pytest.MonkeyPatch, *, terminal: bool, seconds: float, work: Callable[[], None]) -> str:
    """What two steps show, each of so many seconds."""
    now = [0.0]
    monkeypatch.setattr("lenet.progress.time.monotonic", lambda: now[0])
    console = Terminal(file=io.StringIO(), force_terminal=terminal, width=80)
    with Steps(2, console) as steps:
        for name in ("a [red]", "b"):
            steps.begin(name)
            steps.bar.refresh()
            work()
            now[0] += seconds
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_without_a_terminal_a_long_step_is_a_plain_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, terminal=False, seconds=3, work=nothing) == "[1/2] a [red]: 3.0 s\n[2/2] b: 3.0 s\n"
    assert shown(monkeypatch, terminal=False, seconds=1, work=nothing) == ""


def test_on_a_terminal_the_step_under_way_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, terminal=True, seconds=3, work=nothing)
    assert "[1/2] a [red]" in text
    assert "[2/2] b" in text


def test_no_log_of_a_library_is_shown_between(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.warnoptions", [])
    log = logging.getLogger("torch.for_a_test")
    handler = logging.StreamHandler()
    log.addHandler(handler)

    def noisy() -> None:
        log.warning("a library's log")
        warnings.warn("a library's warning", stacklevel=1)

    try:
        shown(monkeypatch, terminal=False, seconds=0, work=noisy)
        assert capsys.readouterr().err == ""
        log.warning("afterwards")
        assert capsys.readouterr().err
    finally:
        log.removeHandler(handler)
