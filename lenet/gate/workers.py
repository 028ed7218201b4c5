"""Pairs of fresh processes that run the suite in turns, and what they measured."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import log
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from statistics import median
from typing import Any, Final

import psutil

from lenet import documents, results
from lenet.errors import GateError, ResultsError
from lenet.provenance import without_git_variables
from lenet.report.tables import row_name
from lenet.results import Case, Measurement, Row

__all__ = ["CANARY", "SIDES", "TURNS", "Pair", "Side", "Tree", "case_pattern", "measure_pair"]

SIDES: Final = ("base", "head")
CANARY: Final = "canary"
TURNS: Final = 5
"""How often each process measures a row, in turns with the other. A disturbance often hits only one of two times that
lie a moment apart, and the median over the turns drops it."""

_CASE_OF_CANARY: Final = "test_canary["
CANARY_FILE: Final = Path(__file__).parents[2] / "benchmarks" / "test_canary.py"
_LOG_LINES: Final = 20


@dataclass(frozen=True, slots=True)
class Tree:
    """A checkout that a process runs in.

    Attributes:
        side: ``base`` or ``head``.
        path: Root of the checkout.
        commit: The commit that is checked out.
        python: Interpreter of its environment.
        caches: Directory of its compile caches.
    """

    side: str
    path: Path
    commit: str
    python: str
    caches: Path


@dataclass(frozen=True, slots=True)
class Side:
    """What one process measured.

    Attributes:
        measurement: The file that it wrote.
        rows: Rows by name, one for each turn; only those measured at every turn.
        canary: Medians of the canary, one for each turn, in seconds.
        not_run: Reasons by the name of the case.
    """

    measurement: Measurement
    rows: Mapping[str, tuple[Row, ...]]
    canary: tuple[float, ...]
    not_run: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """What a pair of processes measured.

    Attributes:
        base: What the process of base measured.
        head: What the process of head measured.
        first: Which of them ran first, by the case's name; without cases that only one has.
        seconds: From the start of the processes until both had ended.
        others: The share of the processors' time that other programs took, or other machines on the same host.
    """

    base: Side
    head: Side
    first: Mapping[str, str]
    seconds: float
    others: float

    def medians(self, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Base's and head's medians of a row, or of `CANARY`, one for each turn, in seconds."""
        if name == CANARY:
            return self.base.canary, self.head.canary
        base, head = (tuple(row.summary.median for row in side.rows[name]) for side in (self.base, self.head))
        return base, head

    def ratio(self, name: str) -> float:
        """``log(head / base)`` of a row or of `CANARY`: the median over the turns."""
        return median(log(head / base) for base, head in zip(*self.medians(name), strict=True))


def case_pattern(case: Case) -> str:
    """A pattern for the beginning of a case's names in the suite, such as ``pytorch-forward-1000-fp32-(?!.*-uint8)``.

    A forward row does not record the host memory that is in its name. A suite of the first schema names no input type.
    """
    beginning = "-".join([case.backend, case.mode, str(case.batch_size), case.asked, case.host_memory or ""])
    return beginning + ("(?!.*-uint8)" if case.input == "float32" else f".*-{case.input}")


def measure_pair(
    trees: tuple[Tree, Tree],
    suite: Sequence[str],
    folder: Path,
    draw: random.Random,
    *,
    only: Sequence[str] | None = None,
    timeout: float,
) -> Pair:
    """Start a process in each tree, let them measure in turns, and read what they measured.

    Args:
        trees: The checkouts of base and of head.
        suite: Options of the suite.
        folder: Directory for the results and logs; it is made here.
        draw: Draws which side is first.
        only: Patterns of the names of the cases to measure (`case_pattern`); None for all.
        timeout: Seconds until both must have ended.

    Raises:
        GateError: A process was killed, hung, or could not measure at all. None is left running.
    """
    folder.mkdir(parents=True)
    began = time.monotonic()
    before = _processor_seconds()
    workers: list[_Worker] = []
    try:
        for tree in draw.sample(trees, len(trees)):
            workers.append(_Worker(tree, suite, only, folder, began + timeout))  # noqa: PERF401 - each is to be killed
        workers.sort(key=lambda worker: worker.tree.side)
        first = _take_turns(workers[0], workers[1], draw)
        for worker in workers:
            worker.go()
        base, head = (worker.read() for worker in workers)
    finally:
        for worker in workers:
            worker.kill()
    seconds = time.monotonic() - began
    others = _share_of_others(before, _processor_seconds(), seconds * len(os.sched_getaffinity(0)))
    return Pair(base, head, first, seconds, others)


def _processor_seconds() -> tuple[float, float]:
    """Busy and stolen seconds of the processors that this process may use, and the seconds of it and its workers.

    Workers count once they have ended.
    """
    usable = os.sched_getaffinity(0)
    each = [times for number, times in enumerate(psutil.cpu_times(percpu=True)) if number in usable]
    return sum(sum(times[:3]) + times.irq + times.softirq + times.steal for times in each), sum(os.times()[:4])


def _share_of_others(before: tuple[float, float], after: tuple[float, float], seconds: float) -> float:
    """The share of the processors' time that others took between two readings of `_processor_seconds`."""
    busy, own = (late - early for early, late in zip(before, after, strict=True))
    return min(max((busy - own) / seconds, 0.0), 1.0)


def _take_turns(base: _Worker, head: _Worker, draw: random.Random) -> dict[str, str]:
    """Run each case that both sides have on one and then the other, in a drawn order, and the other cases alone."""
    first = {}
    for worker in base, head:
        worker.start()
    while base.at or head.at:
        if base.at == head.at:
            order = (base, head) if draw.random() < 0.5 else (head, base)  # noqa: PLR2004 - a fair coin
            first[_short(str(base.at))] = order[0].tree.side
            for worker in order:
                worker.take_turn()
        elif base.at and (base.at not in head.left or head.at in base.left):
            base.take_turn()
        else:
            head.take_turn()
    return first


def _short(case: str) -> str:
    return case.rpartition("::")[2]


class _Worker:
    """A process of the suite in its own process group, and the pipes for its turns."""

    def __init__(
        self, tree: Tree, suite: Sequence[str], only: Sequence[str] | None, folder: Path, deadline: float
    ) -> None:
        self.tree = tree
        self.at: str | None = None
        self.left: list[str] = []
        self._deadline = deadline
        self._json = folder / f"{tree.side}.json"
        self._log = folder / f"{tree.side}.log"
        plugins = folder.parent / "plugins"
        if not plugins.exists():
            plugins.mkdir()
            shutil.copy(Path(__file__).with_name("turns.py"), plugins / "lenet_gate_turns.py")
            shutil.copy(CANARY_FILE, plugins)
        hears, self._tell = os.pipe()
        listen, says = os.pipe()
        self._listen = os.fdopen(listen, encoding="utf-8")
        environment = {**without_git_variables(), **_environment(tree, plugins), "LENET_GATE_SAY": f"{says:04d}"}
        environment["LENET_GATE_TURNS"] = str(TURNS)
        environment["LENET_GATE_HEAR"] = f"{hears:04d}"  # equally long on both sides, like the rest of the environment
        if only is not None:
            environment["LENET_GATE_ONLY"] = documents.to_json(only)
        environment.pop("LENET_COMMIT", None)
        environment.pop("PYTEST_ADDOPTS", None)
        plain = ("-p", "lenet_gate_turns", "-p", "no:cacheprovider", "-p", "no:hypothesispytest")
        cases = ("benchmarks/test_inference.py", str(plugins / "test_canary.py"))
        command = [tree.python, "-m", "pytest", *plain, "-c", "pyproject.toml", *cases, *suite]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [*command, f"--benchmark-json={self._json}"],
                cwd=tree.path,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(hears, says),
                start_new_session=True,
            )
        os.close(hears)
        os.close(says)

    def start(self) -> None:
        """Wait until the cases are collected, and then until the first case waits for its turn."""
        self.left = self._next()["cases"]
        self.take_turn()

    def take_turn(self) -> None:
        """Let the process run until the next case waits for its turn."""
        if self.at in self.left:
            self.left.remove(self.at)
        self.go()
        self.at = self._next()["at"]

    def go(self) -> None:
        """Let the process run on. After its last case it writes its results and ends."""
        try:
            os.write(self._tell, b"go\n")
        except BrokenPipeError:
            raise self._ended() from None

    def read(self) -> Side:
        """What the process measured; it must have ended."""
        if self._wait() not in {0, 1} or not self._json.exists() or not self._json.stat().st_size:
            raise self._ended()
        try:
            measurement = results.load(self._json)
            document = documents.parse(self._json.read_text(encoding="utf-8"))
        except ResultsError as error:
            raise GateError(
                f"what the process of {self.tree.side} measured cannot be read",
                found=error.found,
                wanted=error.wanted,
                hint="base and head must hold suites of one schema",
            ) from error
        benchmarks = document["benchmarks"]
        canary = tuple(one["stats"]["median"] for one in benchmarks if one["name"].startswith(_CASE_OF_CANARY))
        if len(canary) != TURNS or measurement.partial:
            raise self._ended()
        rows: dict[str, tuple[Row, ...]] = {}
        for row in measurement.rows:
            name = row_name(row.case)
            rows[name] = (*rows.get(name, ()), row)
        whole = {name: turns for name, turns in rows.items() if len(turns) == TURNS}
        return Side(measurement, whole, canary, {item.name: item.reason for item in measurement.not_run})

    def kill(self) -> None:
        """End the process and all that it started, unless it has ended."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._tell)
        self._listen.close()

    def _wait(self) -> int:
        try:
            return self._process.wait(max(self._deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            raise self._hung() from None

    def _next(self) -> dict[str, Any]:
        with DefaultSelector() as selector:
            selector.register(self._listen, EVENT_READ)
            if not selector.select(max(self._deadline - time.monotonic(), 0)):
                raise self._hung()
        line = self._listen.readline()
        if not line:
            raise self._ended()
        return dict(documents.parse(line))

    def _hung(self) -> GateError:
        return GateError(
            f"the process of {self.tree.side} hung",
            found=f"no answer in time{self._where()}",
            wanted="an answer within --worker-timeout",
            hint="allow more time, or measure fewer rows" + self._tail(),
        )

    def _ended(self) -> GateError:
        code = self._wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return GateError(
            f"the process of {self.tree.side} did not measure",
            found=f"{how}{self._where()}",
            wanted="a run of the suite to its end",
            hint=f"run the suite in a checkout of {self.tree.commit[:12]} to see why" + self._tail(),
        )

    def _where(self) -> str:
        return f", at {_short(self.at)}" if self.at else ""

    def _tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return "".join(f"\n  | {line}" for line in lines)


def _environment(tree: Tree, plugins: Path) -> dict[str, str]:
    """The variables by which a process finds its source, its caches and the images."""
    named, data = os.environ.get("LENET_DATA"), Path("data")
    found = Path(named) if named else data if any(data.glob("cifar-10-batches-*")) else None
    return {
        "PYTHONPATH": os.pathsep.join([str(tree.path), str(plugins), *_inherited_path(tree)]),
        "LENET_CACHE": str(tree.caches / "lenet"),
        "TORCHINDUCTOR_CACHE_DIR": str(tree.caches / "inductor"),
        "TRITON_CACHE_DIR": str(tree.caches / "triton"),
        # The trees hold no data. An empty LENET_DATA counts as unset, as a directory that is named must hold data.
        "LENET_DATA": str(found.resolve()) if found else "",
    }


def _inherited_path(tree: Tree) -> list[str]:
    """The user's PYTHONPATH, which may hold torch. An environment of the tree's own needs none of it."""
    inherited = os.environ.get("PYTHONPATH", "") if tree.python == sys.executable else ""
    return [os.path.abspath(entry) for entry in inherited.split(os.pathsep) if entry]  # noqa: PTH100 - not resolved
