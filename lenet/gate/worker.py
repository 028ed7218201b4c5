"""A process that runs the suite in turns with another."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import Any, Final

from lenet import documents, results
from lenet.errors import ResultsError, how_it_ended
from lenet.gate.pairs import Side, Turns
from lenet.gate.processes import ForkServer, FreshProcess, WorkerError, WorkerProcess, log_tail
from lenet.gate.rounds import rounds_needed
from lenet.gate.trees import Tree, environment, plugins_of
from lenet.report.tables import row_name
from lenet.results import Row

__all__ = ["Worker", "short_name"]

ROUNDS_AT_FIRST: Final = 20
"""Of a turn of the first pair, whose rounds tell how many the later ones need."""

_CASE_OF_CANARY: Final = "test_canary["


class Worker:
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
        divided: set[tuple[str, str]],
    ) -> None:
        self.tree = tree
        self.at: str | None = None
        self.within = False
        self._divided = divided
        self.left: list[str] = []
        self._rounds: Mapping[str, int] = {}
        self._turns = turns
        self._deadline = deadline
        self._json = folder / f"{tree.side}.json"
        self._log = folder / f"{tree.side}.log"
        plugins = plugins_of(folder.parent)
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

    def take_whole_turn(self) -> None:
        """Let the process run until the next case waits for its turn."""
        self.take_turn()
        while self.within:
            self.take_turn()

    def take_turn(self, cpu: int | None = None) -> None:
        """Let the process run until it waits again: the next case for its turn, or this one within it."""
        self.go(cpu)
        self.listen()

    def listen(self) -> None:
        """Wait until it waits."""
        message = self._next()
        self.within = "within" in message
        self.at = message.get("at", self.at)
        if self.within and not message["alone"]:
            self._divided.add(self._side_and_row)

    @property
    def divides(self) -> bool:
        """Whether the case that waits hands over before anything of it is timed, as it did in an earlier turn."""
        return self._side_and_row in self._divided

    @property
    def _side_and_row(self) -> tuple[str, str]:
        """The side, and the name of the case that waits without its turn."""
        return self.tree.side, str(self.at).rpartition("turn")[0]

    def go(self, cpu: int | None = None) -> None:
        """Let the process run on. After its last case it writes its results and ends.

        A case is told its rounds and its CPU when its turn begins, and nothing when it goes on within it.

        Args:
            cpu: Where a GPU's work is launched from, and where one thread computes.
        """
        told: dict[str, int | None] = {}
        if self.at in self.left:
            self.left.remove(self.at)
            name = short_name(self.at).partition("[")[2]
            found = (number for pattern, number in self._rounds.items() if re.match(pattern, name))
            told = {"rounds": next(found, ROUNDS_AT_FIRST), "cpu": cpu}
        try:
            os.write(self._tell, f"{documents.to_json(told)}\n".encode())
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
        return f", at {short_name(self.at)}" if self.at else ""


def _turns(rows: Sequence[Row], *, on_a_cpu: bool) -> Turns:
    shares = [row.throttled / max(row.summary.rounds + row.throttled, 1) for row in rows]
    rounds = max(rounds_needed(row.summary, on_a_cpu=on_a_cpu) for row in rows)
    return Turns(rows[0].case, tuple(row.summary.median for row in rows), max(shares), rounds)


def short_name(case: str) -> str:
    """The name of a case without its file."""
    return case.rpartition("::")[2]
