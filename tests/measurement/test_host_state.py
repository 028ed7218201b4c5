from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

import pytest

from lenet.measurement import host_state
from lenet.measurement.host_state import (
    PATIENCE,
    WAITING,
    WAKING,
    HostWatch,
    IdleHostWatch,
    PinnedHostWatch,
    slowed_problem,
)

QUIET = 30e-6

linux = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="wants Linux, where a thread can be told its CPU"
)


class FakeCpus:
    """Four CPUs, of which some are slowed: what a loop takes depends on where the thread is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slow: set[int] = set()
        self.slow_until = float("inf")
        self.allowed = {0, 1, 2, 3}
        self.here = 0
        self.now = 0.0
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(self.allowed), raising=False)
        monkeypatch.setattr(os, "sched_setaffinity", self._move, raising=False)
        monkeypatch.setattr(host_state, "perf_counter", lambda: self.now)

    def _move(self, thread: int, cpus: Any) -> None:
        assert thread == 0
        self.allowed = set(cpus)
        self.here = self.here if self.here in cpus else min(cpus)

    def loop(self) -> float:
        seconds = QUIET * (1.65 if self.here in self.slow and self.now < self.slow_until else 1.0)
        self.now += seconds
        return seconds


@pytest.fixture
def cpus(monkeypatch: pytest.MonkeyPatch) -> FakeCpus:
    return FakeCpus(monkeypatch)


def test_a_slowed_cpu_is_told_by_the_best_that_any_did(cpus: FakeCpus) -> None:
    cpus.slow = {0, 1, 3}
    watch = PinnedHostWatch(cpus.loop, lambda: 0)

    with watch.on_a_quiet_cpu():
        assert cpus.allowed == {2}
        assert not watch.is_slowed()
        cpus.slow = {2}
        assert watch.is_slowed()
        assert watch.move()
        assert cpus.allowed == {3}
        assert not watch.is_slowed()
    cpus.slow = {0, 1}
    assert not watch.move(), "outside of a row"
    assert cpus.allowed == {0, 1, 2, 3}


def test_the_thread_may_go_where_it_might_before(cpus: FakeCpus) -> None:
    def fail() -> None:
        with PinnedHostWatch(cpus.loop, lambda: 0).on_a_quiet_cpu():
            assert len(cpus.allowed) == 1
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    assert cpus.allowed == {0, 1, 2, 3}


def test_a_look_at_every_cpu_that_is_cut_short_leaves_the_thread_free_and_is_made_again(cpus: FakeCpus) -> None:
    whole = False

    def loop() -> float:
        if cpus.here == 2 and not whole:
            raise KeyboardInterrupt
        return cpus.loop()

    watch = PinnedHostWatch(loop, lambda: 0)
    with pytest.raises(KeyboardInterrupt), watch.on_a_quiet_cpu():
        pass
    assert cpus.allowed == {0, 1, 2, 3}
    whole = True
    began = cpus.now
    with watch.on_a_quiet_cpu():
        assert cpus.now - began > 4 * WAKING


def test_where_no_cpu_is_quiet_a_row_waits_once(cpus: FakeCpus) -> None:
    watch = PinnedHostWatch(cpus.loop, lambda: 0)
    with watch.on_a_quiet_cpu():
        pass
    cpus.slow = {0, 1, 2, 3}
    began = cpus.now

    with watch.on_a_quiet_cpu():
        assert PATIENCE <= cpus.now - began < PATIENCE + 2 * WAKING
        assert watch.is_slowed()
        assert not watch.move()
        assert cpus.now - began < PATIENCE + 4 * WAKING


def test_a_host_that_stays_busy_is_waited_for_a_tenth_of_the_time(cpus: FakeCpus) -> None:
    watch = PinnedHostWatch(cpus.loop, lambda: 0)
    with watch.on_a_quiet_cpu():
        pass
    began = cpus.now
    cpus.slow = {0, 1, 2, 3}
    waited = 0.0
    for _ in range(300):
        before = cpus.now
        with watch.on_a_quiet_cpu():
            watch.move()  # a row that is slowed tries once more
            waited += cpus.now - before
            cpus.now += 0.5

    assert waited == pytest.approx(PATIENCE + WAITING * (cpus.now - began), abs=3 * WAKING)


def test_a_thread_that_is_moved_at_once_loses_no_patience(cpus: FakeCpus) -> None:
    """However long a row takes, and however often it is moved: what counts is the waiting in vain."""
    watch = PinnedHostWatch(cpus.loop, lambda: 0)
    for _ in range(7):
        with watch.on_a_quiet_cpu():
            for _ in range(5):
                cpus.now += 1.0
                cpus.slow = {cpus.here}
                assert watch.is_slowed()
                assert watch.move()
        cpus.slow = set()
    cpus.slow = {0, 1, 2, 3}
    began = cpus.now

    with watch.on_a_quiet_cpu():
        assert cpus.now - began >= PATIENCE


def test_a_row_without_patience_begins_on_another_cpu_than_the_one_before(cpus: FakeCpus) -> None:
    watch = PinnedHostWatch(cpus.loop, lambda: 0)
    with watch.on_a_quiet_cpu():
        pass
    cpus.slow = {0, 1, 2, 3}
    for _ in range(10):
        with watch.on_a_quiet_cpu():
            pass
    cpus.slow = {0, 1, 2}
    quiet = []
    for _ in range(4):
        with watch.on_a_quiet_cpu():
            quiet.append(not watch.is_slowed())

    assert any(quiet)


def test_an_idle_cpu_is_given_time_to_raise_its_clock(cpus: FakeCpus) -> None:
    watch = PinnedHostWatch(cpus.loop, lambda: 0)
    with watch.on_a_quiet_cpu():
        pass
    cpus.slow, cpus.slow_until = {0, 1, 2, 3}, cpus.now + WAKING / 2

    with watch.on_a_quiet_cpu():
        assert cpus.allowed == {0}
        assert not watch.is_slowed()


def test_a_thread_that_takes_the_cpu_in_turns_is_noticed(cpus: FakeCpus) -> None:
    """The loop, which is short, need not."""
    preemptions = {0: 3, 1: 0, 2: 0, 3: 0}
    watch = PinnedHostWatch(cpus.loop, lambda: preemptions[cpus.here])

    with watch.on_a_quiet_cpu():
        preemptions[0] += 1
        assert watch.is_slowed()
        assert not watch.is_slowed()
        assert watch.move()
        assert cpus.allowed == {1}


def test_a_thread_that_takes_the_cpu_in_a_pause_slows_no_round(cpus: FakeCpus, monkeypatch: pytest.MonkeyPatch) -> None:
    preemptions = 0

    def pause(seconds: float) -> None:
        nonlocal preemptions
        cpus.now += seconds
        preemptions += 1

    monkeypatch.setattr(host_state, "_spin", pause)
    watch = PinnedHostWatch(cpus.loop, lambda: preemptions)

    with watch.on_a_quiet_cpu():
        watch.pass_time(0.01)
        assert not watch.is_slowed()
        preemptions += 1
        assert watch.is_slowed()


@pytest.mark.programs
@linux
def test_a_real_thread_that_takes_the_cpu_in_turns_is_noticed() -> None:
    allowed = os.sched_getaffinity(0)
    here = min(allowed)
    watch = PinnedHostWatch()
    spin = f"import os; os.sched_setaffinity(0, {{{here}}})\nprint(flush=True)\nwhile True: pass"
    try:
        os.sched_setaffinity(0, {here})
        with subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) as other:
            assert other.stdout
            other.stdout.readline()
            deadline = perf_counter() + 10
            while not watch.is_slowed() and perf_counter() < deadline:
                pass
            other.kill()
        assert perf_counter() < deadline
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("kind", [IdleHostWatch, PinnedHostWatch])
def test_a_pause_is_as_long_as_it_is_told(kind: Callable[[], HostWatch]) -> None:
    began = perf_counter()
    kind().pass_time(0.01)
    assert perf_counter() - began >= 0.01


@linux
def test_an_idle_watch_finds_no_cpu_slowed_and_leaves_the_thread_free() -> None:
    allowed = os.sched_getaffinity(0)
    watch = IdleHostWatch()

    with watch.on_a_quiet_cpu():
        assert os.sched_getaffinity(0) == allowed
        assert not watch.is_slowed()
        assert watch.move()
        assert os.sched_getaffinity(0) == allowed


def test_an_interrupt_is_no_neighbour() -> None:
    """The shortest of a few loops counts."""
    seconds = iter([QUIET, QUIET, QUIET, 9.0, QUIET, 9.0, 9.0, 2 * QUIET, 9.0])
    watch = PinnedHostWatch(lambda: next(seconds), lambda: 0)

    assert [watch.is_slowed() for _ in range(3)] == [False, False, True]


def test_a_thread_that_cannot_be_told_its_cpu_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    seconds = iter([QUIET] * 3)
    watch = PinnedHostWatch(lambda: next(seconds, 2 * QUIET), lambda: 0)

    with watch.on_a_quiet_cpu():
        assert not watch.is_slowed()
        assert watch.is_slowed()
        assert not watch.move()


@linux
def test_the_real_loop_and_the_real_cpus() -> None:
    watch = PinnedHostWatch()
    before = os.sched_getaffinity(0)

    with watch.on_a_quiet_cpu():
        assert len(os.sched_getaffinity(0)) == 1
        assert os.sched_getaffinity(0) <= before
    assert os.sched_getaffinity(0) == before
    assert 1e-6 < host_state._reference_loop() < 1e-1


@pytest.mark.parametrize(("slowed", "unstable"), [(0, False), (20, False), (21, True), (100, True)])
def test_a_row_is_unstable_when_more_than_a_fifth_of_it_was_slowed(slowed: int, *, unstable: bool) -> None:
    problem = slowed_problem(slowed, 100)

    assert (problem is not None) is unstable
    if problem:
        assert f"in {slowed} of 100 rounds" in problem
        assert "end other work" in problem
