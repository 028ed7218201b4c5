"""Whether other work slows the host's CPU now, and a move to a CPU that it does not slow.

`PinnedHostWatch` looks for two signs. The system counts how often another thread took the CPU. Nothing portable tells
of a busy sibling hyper-thread, of other guests of a hypervisor or of a low clock. So the watch times a short loop of
known work, and compares it with the best time of that loop in this process.

On shared hosts the loop takes either its best time or 1.65 times that. Each CPU changes by itself and stays so for
seconds. PyTorch's launches slow down by the same factor: without a watch, the median of a hundred short rounds can
change by half from one run to the next.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter
from typing import Final, Protocol

from lenet.measurement.statistics import too_many

__all__ = [
    "PATIENCE",
    "SLOWED",
    "WAITING",
    "WAKING",
    "HostWatch",
    "IdleHostWatch",
    "PinnedHostWatch",
    "slowed_problem",
]

SLOWED: Final = 1.25
"""A CPU is slowed when the loop takes more than this many times its best.

Of 6,632 looks on two shared hosts, 28 % took less than 1.25 times the best, and 7 % between 1.25 and 1.55 times.
"""

_LOOP: Final = 1000
"""Additions in the loop. They take 30 us: 0.3 % of the time between two looks."""

_LOOKS: Final = 3
"""Loops in a look. The shortest counts, so that an interrupt does not look like other work."""

QUIET: Final = 0.012
"""Seconds that a CPU must be quiet for. A scheduler gives threads slices of 3 ms, so this spans several."""

WAKING: Final = 0.04
"""Seconds that a CPU gets to become quiet. A governor raises an idle CPU's clock within about 10 ms."""

PATIENCE: Final = 3.0
"""Most seconds that a row waits in vain for a quiet CPU."""

WAITING: Final = 0.1
"""Largest share of the time since its first row that a watch waits in vain, with `PATIENCE` on top.

Without it, a campaign of hundreds of rows on a busy host would spend most of its time waiting.
"""


def slowed_problem(slowed: int, rounds: int) -> str | None:
    """Why a slow host makes a row's wall times unstable, and what to do; None when it does not.

    Args:
        slowed: The number of slowed rounds.
        rounds: The number of all rounds.
    """
    if not too_many(slowed, rounds):
        return None
    return (
        f"the host's CPU was slowed down by others in {slowed} of {rounds} rounds (another thread took it, or a loop "
        f"of known work took over {SLOWED} times its best): end other work on this machine, or leave it a core"
    )


class HostWatch(Protocol):
    """Tells whether the calling thread's CPU is slowed, and moves the thread."""

    def is_slowed(self) -> bool:
        """Whether other work slowed the CPU since the last look."""

    def move(self) -> bool:
        """Move the thread to a CPU that is not slowed; whether one was found."""

    def pass_time(self, seconds: float) -> None:
        """Keep the CPU busy for a while: an idle CPU lowers its clock."""

    def on_a_quiet_cpu(self) -> AbstractContextManager[None]:
        """Keep the thread on a CPU that is not slowed for as long as the context lasts."""


class IdleHostWatch:
    """A `HostWatch` that looks at nothing: no CPU is slowed, and the thread stays free."""

    def is_slowed(self) -> bool:
        """No."""
        return False

    def move(self) -> bool:
        """Yes: there is nothing to move away from."""
        return True

    def pass_time(self, seconds: float) -> None:
        """Keep the CPU busy for a while."""
        _spin(seconds)

    def on_a_quiet_cpu(self) -> AbstractContextManager[None]:
        """Leave the thread where it is."""
        return nullcontext()


class PinnedHostWatch:
    """A `HostWatch` that keeps the calling thread on one CPU, and moves it when that CPU is slowed.

    Use it for calls that one thread makes. Threads that it starts meanwhile are pinned to the same CPU.

    Args:
        loop: Does the work of known length and returns its seconds.
        preemptions: Returns how often another thread has taken the CPU from this one so far.
    """

    def __init__(self, loop: Callable[[], float] | None = None, preemptions: Callable[[], int] | None = None) -> None:
        self._loop = loop or _reference_loop
        self._preemptions = preemptions or _involuntary_switches
        self._seen_preemptions = self._preemptions()
        self._best = math.inf
        self._first_row = 0.0  # when the first row began
        self._waited = 0.0  # seconds waited in vain, over all rows
        self._most = 0.0  # the value of _waited at which this row stops waiting
        self._cpus: deque[int] = deque()  # the thread is kept on the first

    def is_slowed(self) -> bool:
        """Whether the CPU is slowed now, or another thread has taken it since the last look."""
        slow = self._look() > SLOWED * self._best
        earlier, self._seen_preemptions = self._seen_preemptions, self._preemptions()
        return slow or self._seen_preemptions > earlier

    def pass_time(self, seconds: float) -> None:
        """Keep the CPU busy for a while. A thread that takes the CPU meanwhile slows no round, so it does not count."""
        _spin(seconds)
        self._seen_preemptions = self._preemptions()

    def move(self) -> bool:
        """Try the other CPUs in turn, while there is time left to wait; whether a quiet one was found.

        When the time is up the thread stays on the CPU that was tried last.
        """
        while self._waited < self._most:
            self._cpus.rotate(-1)
            os.sched_setaffinity(0, {self._cpus[0]})
            if self._becomes_quiet():
                return True
        return False

    @contextmanager
    def on_a_quiet_cpu(self) -> Iterator[None]:
        """Keep the thread on one CPU for as long as the context lasts: on a quiet one if one is found in time.

        The start and all moves of a row together wait in vain for at most `PATIENCE`, and within `WAITING`. Outside of
        Linux a thread cannot be pinned, and stays free.
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
        """Look at every CPU, to find the loop's best time."""
        cpus = sorted(allowed)
        for cpu in cpus:
            os.sched_setaffinity(0, {cpu})
            awake = perf_counter() + WAKING
            while perf_counter() < awake:
                self._look()
        self._cpus.extend(cpus)

    def _becomes_quiet(self) -> bool:
        self.is_slowed()  # forgets what happened before
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


def _spin(seconds: float) -> None:
    until = perf_counter() + seconds
    while perf_counter() < until:
        pass


def _reference_loop() -> float:
    began = perf_counter()
    total = 0
    for number in range(_LOOP):
        total += number
    return perf_counter() - began


def _involuntary_switches() -> int:
    """How often another thread took the CPU from this one; 0 where the system does not tell (outside of Linux)."""
    try:
        import resource

        return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
    except (ImportError, AttributeError):
        return 0
