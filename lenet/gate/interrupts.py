"""Signals that end the gate. It cleans up after the first, and ignores the ones that follow."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

__all__ = ["SIGNALS", "hear", "held", "interruptible", "uninterrupted"]

SIGNALS: Final = tuple(one for one in signal.Signals if one.name in {"SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"})
"""Sent by Ctrl-C, a cancelled job, a closed terminal, and Ctrl-\\. Windows lacks the last two."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the first signal raise KeyboardInterrupt, and ignore those that follow.

    A signal that the caller of the gate ignores, as nohup does, stays ignored.
    """
    before = {number: signal.getsignal(number) for number in _heard()}

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    try:
        for number in before:
            signal.signal(number, interrupt)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held() -> Iterator[None]:
    """Let signals wait until `hear` is called, or the context is left: for the gate's start, before it can handle them.

    Unlike a handler, this costs no import and leaves no moment between two handlers.
    """
    if not hasattr(signal, "pthread_sigmask"):  # on Windows, where the gate does not run
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def hear() -> None:
    """Let the signals through that `held` keeps waiting."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay signals until the context is left."""
    late: list[int] = []
    before = {number: signal.signal(number, lambda number, _: late.append(number)) for number in _heard()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if late:
            signal.raise_signal(late[0])


def _heard() -> list[signal.Signals]:
    return [number for number in SIGNALS if signal.getsignal(number) not in {signal.SIG_IGN, None}]
