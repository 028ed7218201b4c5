"""Pairs of processes that run the suite in turns."""

from __future__ import annotations

import os
import random
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import Any, Final

from lenet import documents, results
from lenet.errors import ResultsError, how_it_ended
from lenet.gate.pairs import TURNS, Pair, Side, Turns
from lenet.gate.processes import (
    ForkServer,
    FreshProcess,
    WorkerError,
    WorkerProcess,
    log_tail,
    processor_seconds,
    share_of_others,
)
from lenet.gate.rounds import rounds_needed
from lenet.provenance import without_git_variables
from lenet.report.tables import row_name
from lenet.results import Case, Row
from lenet.vocabulary import threads_name

__all__ = ["Tree", "case_pattern", "environment", "fork_servers", "measure_pair"]

PROCESSORS_A_SERVER: Final = 4
MOST_SERVERS: Final = 4
"""Of each side. A server keeps about 400 MB."""
ROUNDS_AT_FIRST: Final = 20
"""Of a turn of the first pair, whose rounds tell how many the later ones need."""

_CASE_OF_CANARY: Final = "test_canary["
CANARY_FILE: Final = Path(__file__).parents[2] / "benchmarks" / "test_canary.py"
_PLUGINS: Final = "plugins"


@dataclass(frozen=True, slots=True)
class Tree:
    """A checkout that a process runs in.

    Attributes:
        side: ``base`` or ``head``.
        path: Root of the checkout.
        commit: The commit that is checked out.
        python: Interpreter of its environment.
        caches: Directory of its own caches.
    """

    side: str
    path: Path
    commit: str
    python: str
    caches: Path

    @property
    def compilers(self) -> Path:
        """Directory of the caches of TorchInductor and Triton, which both sides of a stage share.

        They choose kernels by timing them, so another compilation of one graph may be 10 % slower. The caches are keyed
        by the graph, the settings and the versions: what is alike on both sides is compiled once.
        """
        return self.caches.parent / "compilers"


def case_pattern(case: Case) -> str:
    """A pattern for the beginning of a case's names in the suite, such as ``pytorch-forward-1000-fp32-(?!.*-uint8)``.

    A forward row does not record the host memory that is in its name. A suite of the first schema names no input type.
    """
    beginning = "-".join([case.backend, case.mode, str(case.batch_size), case.asked, case.host_memory or ""])
    rest = "(?!.*-uint8)" if case.input == "float32" else f".*-{case.input}"
    return beginning + rest + (f".*-{threads_name(case.threads)}" if case.threads else "")


@contextmanager
def fork_servers(trees: tuple[Tree, Tree], folder: Path) -> Iterator[list[dict[str, ForkServer]]]:
    """Servers that fork the processes of base and of head. They import the suite's modules meanwhile.

    What a server's forks share, such as the layout of their memory, can make all of them a little slower or faster. So
    there are several for each side where there are processors enough, the pairs use them in turns, and the session soon
    replaces them.

    Args:
        trees: The checkouts of base and of head.
        folder: Directory for the servers' logs and plugins.

    Yields:
        A server for each side, as often as there are.
    """
    plugins = _plugins(folder)
    count = min(max(len(os.sched_getaffinity(0)) // PROCESSORS_A_SERVER, 1), MOST_SERVERS)
    with ExitStack() as stack:
        servers: list[dict[str, ForkServer]] = [{} for _ in range(count)]
        for number, tree in product(range(count), trees):
            log = folder / f"{tree.side}-server-{number}.log"
            variables = environment(tree, plugins)
            server = ForkServer(tree.side, tree.python, plugins / "fork_server.py", tree.path, variables, log)
            stack.callback(server.close)
            servers[number][tree.side] = server
        yield servers


def measure_pair(
    trees: tuple[Tree, Tree],
    suite: Sequence[str],
    folder: Path,
    draw: random.Random,
    *,
    only: Sequence[str] | None = None,
    rounds: Mapping[str, int] | None = None,
    turns: int = TURNS,
    servers: Mapping[str, ForkServer] | None = None,
    timeout: float,
    compiles: bool = False,
) -> Pair:
    """Start a process in each tree, let them measure in turns, and read what they measured.

    Args:
        trees: The checkouts of base and of head.
        suite: Options of the suite.
        folder: Directory for the results and logs; it is made here.
        draw: Draws which side is first.
        only: Patterns of the names of the cases to measure (`case_pattern`); None for all.
        rounds: Rounds of a turn by such a pattern, if the suite has more. Other cases have `ROUNDS_AT_FIRST`.
        turns: How often each process measures a row.
        servers: Fork the processes; None starts new interpreters.
        timeout: Seconds until both must have ended.
        compiles: Whether this is the first pair of the checkouts.

    Raises:
        WorkerError: A process was killed, hung, or could not measure, or what it measured cannot be read. None is left
            running.
    """
    folder.mkdir(parents=True)
    began = time.monotonic()
    before = processor_seconds(servers)
    workers: list[_Worker] = []
    try:
        for tree in draw.sample(trees, len(trees)):
            server = servers[tree.side] if servers else None
            workers.append(_Worker(tree, suite, only, folder, turns, began + timeout, server))
        workers.sort(key=lambda worker: worker.tree.side)
        first = _take_turns(workers[0], workers[1], draw, rounds or {})
        for worker in workers:
            worker.go()
        base, head = (worker.read() for worker in workers)
    finally:
        for worker in workers:
            worker.kill()
    seconds = time.monotonic() - began
    others = share_of_others(before, processor_seconds(servers), seconds * len(os.sched_getaffinity(0)))
    return Pair(base, head, first, seconds, others, compiles)


def environment(tree: Tree, plugins: Path) -> dict[str, str]:
    """The variables of a process in a tree, by which it finds its source, its caches, the plugins and the images."""
    named, data = os.environ.get("LENET_DATA"), Path("data")
    found = Path(named) if named else data if any(data.glob("cifar-10-batches-*")) else None
    variables = {
        **without_git_variables(),
        "PYTHONPATH": os.pathsep.join([str(tree.path), str(plugins), *_inherited_path(tree)]),
        "LENET_CACHE": str(tree.caches / "lenet"),
        "TORCHINDUCTOR_CACHE_DIR": str(tree.compilers / "inductor"),
        "TRITON_CACHE_DIR": str(tree.compilers / "triton"),
        "TMPDIR": str(tree.caches),  # a process that is killed removes no temporary file
        # The trees hold no data. An empty LENET_DATA counts as unset, as a directory that is named must hold data.
        "LENET_DATA": str(found.resolve()) if found else "",
    }
    variables.pop("LENET_COMMIT", None)
    variables.pop("PYTEST_ADDOPTS", None)
    return variables


def _inherited_path(tree: Tree) -> list[str]:
    """The user's PYTHONPATH, which may hold torch. An environment of the tree's own needs none of it."""
    inherited = os.environ.get("PYTHONPATH", "") if tree.python == sys.executable else ""
    return [os.path.abspath(entry) for entry in inherited.split(os.pathsep) if entry]  # noqa: PTH100 - not resolved


def _plugins(folder: Path) -> Path:
    """The directory of the files that both sides' processes load, also those of a base that lacks them."""
    plugins = folder / _PLUGINS
    if not plugins.exists():
        plugins.mkdir(parents=True)
        here = Path(__file__)
        shutil.copy(here.with_name("turns.py"), plugins / "lenet_gate_turns.py")
        shutil.copy(here.with_name("fork_server.py"), plugins)
        shutil.copy(CANARY_FILE, plugins)
    return plugins


def _take_turns(base: _Worker, head: _Worker, draw: random.Random, rounds: Mapping[str, int]) -> dict[str, str]:
    """Run each case that both sides have on one and then the other, in a drawn order, and the other cases alone."""
    first = {}
    cpus = sorted(os.sched_getaffinity(0))
    for worker in base, head:
        worker.start(rounds)
    while base.at or head.at:
        if base.at == head.at:
            order = (base, head) if draw.random() < 0.5 else (head, base)  # noqa: PLR2004 - a fair coin
            cpu = draw.choice(cpus)
            first[_short(str(base.at))] = order[0].tree.side
            for worker in order:
                worker.take_turn(cpu)
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
        self,
        tree: Tree,
        suite: Sequence[str],
        only: Sequence[str] | None,
        folder: Path,
        turns: int,
        deadline: float,
        server: ForkServer | None,
    ) -> None:
        self.tree = tree
        self.at: str | None = None
        self.left: list[str] = []
        self._rounds: Mapping[str, int] = {}
        self._turns = turns
        self._deadline = deadline
        self._json = folder / f"{tree.side}.json"
        self._log = folder / f"{tree.side}.log"
        plugins = _plugins(folder.parent)
        variables = {"LENET_GATE_TURNS": str(turns)}
        if only is not None:
            variables["LENET_GATE_ONLY"] = documents.to_json(only)
        plain = ("-p", "lenet_gate_turns", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "--assert=plain")
        cases = ("benchmarks/test_inference.py", str(plugins / "test_canary.py"))
        arguments = [*plain, "-c", "pyproject.toml", *cases, *suite, f"--benchmark-json={self._json}"]
        hears, self._tell = os.pipe()
        listen, says = os.pipe()
        self._listen = os.fdopen(listen, encoding="utf-8")
        try:
            with self._log.open("wb") as log:
                self._process: WorkerProcess = (
                    server.start(arguments, variables, (hears, says), log)
                    if server
                    else FreshProcess(
                        [tree.python, "-m", "pytest", *arguments],
                        tree.path,
                        environment(tree, plugins) | variables,
                        (hears, says),
                        log,
                    )
                )
        except BaseException:
            self._close()
            raise
        finally:
            os.close(hears)
            os.close(says)

    def start(self, rounds: Mapping[str, int]) -> None:
        """Wait until the cases are collected, and then until the first case waits for its turn."""
        self._rounds = rounds
        self.left = self._next()["cases"]
        self.take_turn()

    def take_turn(self, cpu: int | None = None) -> None:
        """Let the process run until the next case waits for its turn."""
        if self.at in self.left:
            self.left.remove(self.at)
        self.go(cpu)
        self.at = self._next()["at"]

    def go(self, cpu: int | None = None) -> None:
        """Let the process run on. After its last case it writes its results and ends.

        Args:
            cpu: Where a GPU's work is launched from.
        """
        name = _short(self.at or "").partition("[")[2]
        rounds = next((number for pattern, number in self._rounds.items() if re.match(pattern, name)), ROUNDS_AT_FIRST)
        try:
            os.write(self._tell, f"{documents.to_json({'rounds': rounds, 'cpu': cpu})}\n".encode())
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
            raise WorkerError(
                f"what the process of {self.tree.side} measured cannot be read",
                found=error.found,
                wanted=error.wanted,
                hint="base and head must hold suites of one schema",
            ) from error
        benchmarks = document["benchmarks"]
        canary = tuple(one["stats"]["median"] for one in benchmarks if one["name"].startswith(_CASE_OF_CANARY))
        if len(canary) != self._turns or measurement.partial:
            raise self._ended()
        rows: dict[str, list[Row]] = {}
        for row in measurement.rows:
            rows.setdefault(row_name(row.case), []).append(row)
        on_a_cpu = measurement.machine["gpu"] is None
        whole = {name: _turns(turns, on_a_cpu=on_a_cpu) for name, turns in rows.items() if len(turns) == self._turns}
        not_run = {item.name: item.reason for item in measurement.not_run}
        return Side(measurement.commit, measurement.machine, measurement.fingerprint, whole, canary, not_run)

    def kill(self) -> None:
        """End the process and all that it started, unless it has ended."""
        self._process.kill()
        self._close()

    def _close(self) -> None:
        os.close(self._tell)
        self._listen.close()

    def _wait(self) -> int:
        try:
            return self._process.wait(max(self._deadline - time.monotonic(), 0))
        except TimeoutError:
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

    def _hung(self) -> WorkerError:
        return WorkerError(
            f"the process of {self.tree.side} hung",
            found=f"no answer in time{self._where()}",
            wanted="an answer within --worker-timeout",
            hint="allow more time, or measure fewer rows" + log_tail(self._log),
        )

    def _ended(self) -> WorkerError:
        how = how_it_ended(self._wait())
        return WorkerError(
            f"the process of {self.tree.side} did not measure",
            found=f"{how}{self._where()}",
            wanted="a run of the suite to its end",
            hint=f"run the suite in a checkout of {self.tree.commit[:12]} to see why" + log_tail(self._log),
        )

    def _where(self) -> str:
        return f", at {_short(self.at)}" if self.at else ""


def _turns(rows: Sequence[Row], *, on_a_cpu: bool) -> Turns:
    shares = [row.throttled / max(row.summary.rounds + row.throttled, 1) for row in rows]
    rounds = max(rounds_needed(row.summary, on_a_cpu=on_a_cpu) for row in rows)
    return Turns(rows[0].case, tuple(row.summary.median for row in rows), max(shares), rounds)
