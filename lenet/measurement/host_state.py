"""The host's CPU: is it slowed down by others now, and is there one that is not?

A GPU says when it is throttled. What shares a CPU shows in two ways. Another thread that the system runs on it in turns
preempts this one, which the system counts. A sibling hyper-thread at work, a hypervisor's other guests or a governor
are told by nothing that a program could read on every machine: so a short loop of known work is timed, and compared
with the best time that it ever took in this process. Seen on a shared host: the loop takes its best time or 1.65 times
that, for seconds at a time and on each CPU by itself, and PyTorch's launches are slower by the same factor; so the
median of a hundred short rounds could change by half from one run to the next.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final

from lenet.measurement.statistics import too_many

__all__ = ["PATIENCE", "SLOWED", "WAITING", "WAKING", "HostWatch", "NoHostWatch", "slowed_problem"]

SLOWED: Final = 1.25
"""A CPU is slowed where the loop takes this many times its best.

Of 6,632 looks on two shared hosts 28 % were below 1.25 times the best, 7 % between that and 1.55, and the rest above.
"""

_LOOP: Final = 1000
"""Additions; 30 us, a third of a per cent of the time between two looks."""

_LOOKS: Final = 3
"""The shortest of so many loops counts, so that an interrupt is not taken for a neighbour."""

QUIET: Final = 0.012
"""Seconds that a CPU must be quiet for: some slices of time, of 3 ms, that a scheduler gives threads in turns."""

WAKING: Final = 0.04
"""Seconds that a CPU is given to become quiet: where it was idle its governor raises its clock within some 10 ms."""

PATIENCE: Final = 3.0
"""Seconds that a row waits in vain for a quiet CPU, at most."""

WAITING: Final = 0.1
"""Of the time since its first row a watch spends this share at most, and `PATIENCE` besides, on waiting in vain: on a
host that stays busy a campaign of hundreds of rows would else wait for most of its time."""


def slowed_problem(slowed: int, rounds: int) -> str | None:
    """Why a row by the wall clock is unstable because of a slow host, and what to do; None where it is not.

    Args:
        slowed: The number of rounds that were slowed.
        rounds: The number of all rounds.
    """
    if not too_many(slowed, rounds):
        return None
    return (
        f"the host's CPU was slowed down by others in {slowed} of {rounds} rounds (another thread took it, or a loop "
        f"of known work took over {SLOWED} times its best): end other work on this machine, or leave it a core"
    )


class NoHostWatch:
    """Watches nothing: no CPU is ever slowed."""

    def is_slowed(self) -> bool:
        """No."""
        return False

    def move(self) -> bool:
        """There is nothing to move away from."""
        return True

    def pass_time(self, seconds: float) -> None:
        """Wait, at work: an idle CPU would lower its clock."""
        until = perf_counter() + seconds
        while perf_counter() < until:
            pass

    @contextmanager
    def on_a_quiet_cpu(self) -> Iterator[None]:
        """Wherever the thread is."""
        yield


class HostWatch(NoHostWatch):
    """Watches the calling thread's CPU, and moves the thread to one that is not slowed.

    For calls that one thread makes: the threads that it starts while it is moved stay on its CPU.

    Args:
        loop: The work of known length; returns its seconds.
        preemptions: How often another thread took the CPU from this one, since it began.
    """

    def __init__(self, loop: Callable[[], float] | None = None, preemptions: Callable[[], int] | None = None) -> None:
        self._loop = loop or _reference_loop
        self._preemptions = preemptions or _involuntary_switches
        self._seen_preemptions = self._preemptions()
        self._best = math.inf
        self._first_row = 0.0  # when it began
        self._waited = 0.0  # in vain, in all rows
        self._most = 0.0  # of that, until this row gives up
        self._cpus: deque[int] = deque()  # the first is the one that the thread is kept on

    def is_slowed(self) -> bool:
        """Whether the thread's CPU is slowed down now, or was taken from it since the last look."""
        slow = self._look() > SLOWED * self._best
        earlier, self._seen_preemptions = self._seen_preemptions, self._preemptions()
        return slow or self._seen_preemptions > earlier

    def pass_time(self, seconds: float) -> None:
        """Wait, at work; what takes the CPU meanwhile slows no round."""
        super().pass_time(seconds)
        self._seen_preemptions = self._preemptions()

    def move(self) -> bool:
        """Try the other CPUs in turn; whether a quiet one was found.

        They are tried for as long as there is time left to wait; then the thread stays where it is.
        """
        while self._waited < self._most:
            self._cpus.rotate(-1)
            os.sched_setaffinity(0, {self._cpus[0]})
            if self._becomes_quiet():
                return True
        return False

    @contextmanager
    def on_a_quiet_cpu(self) -> Iterator[None]:
        """Keep the thread on one CPU while the context lasts, a quiet one where one is found in time.

        For the start and all moves together it waits in vain for `PATIENCE` at most, and no longer than `WAITING`
        leaves it. Where a thread cannot be told its CPU, as outside of Linux, it stays where it is.
        """
        if not hasattr(os, "sched_setaffinity"):
            yield
            return
        allowed = os.sched_getaffinity(0)
        try:
            if not self._cpus:
                self._survey(allowed)
                self._first_row = perf_counter()
            earned = PATIENCE + WAITING * (perf_counter() - self._first_row)
            self._most = min(self._waited + PATIENCE, earned)
            os.sched_setaffinity(0, {self._cpus[0]})
            if not self._becomes_quiet():
                self.move()
            yield
        finally:
            os.sched_setaffinity(0, allowed)
            if self._waited >= self._most:
                self._cpus.rotate(-1)  # the next row begins elsewhere
            self._most = 0.0

    def _survey(self, allowed: Iterable[int]) -> None:
        """Look at every CPU once, for the best time that the loop can take."""
        cpus = sorted(allowed)
        for cpu in cpus:
            os.sched_setaffinity(0, {cpu})
            awake = perf_counter() + WAKING
            while perf_counter() < awake:
                self._look()
        self._cpus.extend(cpus)

    def _becomes_quiet(self) -> bool:
        self.is_slowed()  # what was before does not count
        quiet_since = began = perf_counter()
        while (now := perf_counter()) - quiet_since < QUIET:
            if now - began >= WAKING:
                self._waited += now - began
                return False
            if self.is_slowed():
                quiet_since = perf_counter()
        return True

    def _look(self) -> float:
        seconds = min(self._loop() for _ in range(_LOOKS))
        self._best = min(self._best, seconds)
        return seconds


def _reference_loop() -> float:
    began = perf_counter()
    total = 0
    for number in range(_LOOP):
        total += number
    return perf_counter() - began


def _involuntary_switches() -> int:
    """Of this thread, where the system tells (Linux); else none."""
    try:
        import resource

        return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
    except (ImportError, AttributeError):
        return 0
