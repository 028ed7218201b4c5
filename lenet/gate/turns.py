"""A pytest plugin for the gate's workers: each case waits until its turn.

Both processes of a pair start together, and run their cases in turns, each case several times. So the two times of a
row lie a moment apart, and one process waits while the other measures. If a row's time is that of one thread of a CPU,
they also alternate within a turn, after each chunk of about 10 ms: the CPU's speed changes in less time than a turn
takes. The workers load a copy of this file, also those of a base that lacks it. It therefore imports nothing of lenet.

A worker writes lines of JSON to one pipe, and continues for each line that it reads from another. Such a line may say
how many rounds the case has, and on which CPU it runs.
"""

from __future__ import annotations

import gc
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

gc.disable()  # until all is imported, which stays: to look for garbage in it takes a quarter of the imports' time

_say = int(os.environ["LENET_GATE_SAY"])
_SESSION = pytest.StashKey[pytest.Session]()
_TURN = pytest.StashKey[dict[str, Any]]()
_hear = os.fdopen(int(os.environ["LENET_GATE_HEAR"]), encoding="utf-8")
_CHUNK = 0.004
"""Seconds of the canary's rounds between two hand-overs. The suite's rows have chunks of 0.01 s."""


class _NoLimits:
    """In the place of the suite's fixture `limits`."""

    def find(self) -> None:
        """Rows have no floor."""


class _GivenHost:
    """In the place of the suite's fixture `host`: the two sides' turns of a case are launched from one CPU.

    CPUs of a shared host differ in speed, since each has a neighbour of its own. No CPU counts as slowed, so no round
    waits for a quiet one. Where a row's time is one thread's, the sides alternate at each look at the host, which the
    suite takes before the first round and after each chunk. Several threads wait for work by spinning for a while, and
    would disturb the other side's chunk.

    Args:
        cpu: The CPU. On a CPU as the device the thread is kept there if it computes alone: others would share it.
        mode: The case's mode. On a CPU threads of its own compute the batches of a throughput row.
    """

    def __init__(self, cpu: int | None, mode: str | None) -> None:
        self._cpu = cpu
        self._mode = mode

    def is_slowed(self) -> bool:
        """No. But it may be the other side's turn first.

        A throughput row prepares alone: it may have looked for its number of runners, by their times.
        """
        if self._mode == "end_to_end" or (_has_one_thread() and not _on_a_gpu()):
            _wait(within=True, alone=self._mode == "throughput")
        return False

    def move(self) -> bool:
        """Yes: there is nothing to move away from."""
        return True

    def pass_time(self, seconds: float) -> None:
        """Go on at once."""

    @contextmanager
    def on_a_quiet_cpu(self) -> Iterator[None]:
        """Keep the calling thread on the CPU for as long as the context lasts."""
        allowed = os.sched_getaffinity(0)
        if self._cpu not in allowed or not (_on_a_gpu() or (_has_one_thread() and self._mode != "throughput")):
            yield
            return
        os.sched_setaffinity(0, {self._cpu})
        try:
            yield
        finally:
            os.sched_setaffinity(0, allowed)


def _wait(**message: object) -> dict[str, Any]:
    with suppress(BrokenPipeError):
        os.write(_say, f"{json.dumps(message)}\n".encode())
    answer = _hear.readline()
    if not answer:
        pytest.exit("the gate is gone")
    return dict(json.loads(answer))


def _on_a_gpu() -> bool:
    """Whether the process uses a GPU."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_initialized()


def _has_one_thread() -> bool:
    """Whether PyTorch computes in the calling thread alone."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.get_num_threads() == 1


class _Chunks:
    """Divides the canary's rounds into chunks, by looks at the host as the suite's rows take them.

    Args:
        host: The host.
    """

    def __init__(self, host: _GivenHost) -> None:
        self._host = host
        self._began = 0.0

    def __call__(self) -> None:
        """Before a round: look if the chunk is over."""
        if time.perf_counter() - self._began > _CHUNK:
            self._host.is_slowed()
            self._began = time.perf_counter()


@pytest.fixture
def _lenet_gate_turn(request: pytest.FixtureRequest) -> int:
    """The number of a case's turn."""
    return int(request.param)


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat each case for its turns, one right after the other. The names end in the turn's number."""
    metafunc.fixturenames.append("_lenet_gate_turn")
    turns = range(int(os.environ["LENET_GATE_TURNS"]))
    metafunc.parametrize("_lenet_gate_turn", turns, indirect=True, ids=[f"turn{number}" for number in turns])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the wanted cases of the suite, and the canary."""
    only = json.loads(os.environ.get("LENET_GATE_ONLY", "null"))
    if only is not None:
        wanted = re.compile("|".join(["turn", *only]))  # the canary's names hold only the turn
        kept = [item for item in items if wanted.match(item.name.partition("[")[2])]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    """Send the cases, and wait for the other process before the results are written, which takes a processor too."""
    session.config.stash[_SESSION] = session
    gc.freeze()
    gc.enable()
    _wait(cases=[item.nodeid for item in session.items])
    try:
        return (yield)
    finally:
        _wait(at=None)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End the process once its results are written: to take all that it imported apart takes longer than to measure.

    A process that could not measure ends as usual, so that its log is whole.
    """
    session = config.stash.get(_SESSION, None)
    if session is not None and session.exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        config.get_terminal_writer().flush()
        os._exit(session.exitstatus)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Wait for the case's turn."""
    item.stash[_TURN] = _wait(at=item.nodeid)
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_benchmark_generate_commit_info() -> dict[str, Any]:
    """Nothing: pytest-benchmark would start git twice, and the suite records the commit."""
    return {}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """Give the case its CPU and its number of rounds, and leave out what the gate does not use.

    Both sides measure in turns and in a drawn order. So a busy CPU harms neither side more.
    """
    given, turn = pyfuncitem.funcargs, pyfuncitem.stash[_TURN]
    mode = getattr(given.get("case"), "mode", None)
    host = _GivenHost(turn.get("cpu"), mode)
    for name, other in (("limits", _NoLimits()), ("host", host)):
        if name in given:
            given[name] = other
    protocol: Any = given.get("protocol")
    rounds = turn.get("rounds")
    if rounds and hasattr(protocol, "rounds") and not hasattr(protocol, "precision"):  # else it chooses their number
        timed = mode == "forward" and getattr(given.get("device"), "type", "") == "cpu"  # its turn lasts a fixed time
        given["protocol"] = replace(protocol, rounds=rounds if timed else min(rounds, protocol.rounds))
    instruments: Any = given.get("instruments")
    if instruments:  # they hold what the suite made of these
        given["instruments"] = replace(instruments, protocol=given["protocol"], host=host)
    if "host" in given:  # the suite's cases pin their rounds alone: the threads of what they compute before would share
        return (yield)
    benchmark: Any = given.get("benchmark")
    if benchmark:
        benchmark.pedantic = partial(benchmark.pedantic, setup=_Chunks(host))
    with host.on_a_quiet_cpu():
        return (yield)
