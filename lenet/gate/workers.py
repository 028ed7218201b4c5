"""Pairs of processes that run the suite in turns."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import Final

from lenet.gate.pairs import TURNS, Pair
from lenet.gate.processes import ForkServer, processor_seconds, share_of_others
from lenet.gate.trees import Tree, environment, plugins_of
from lenet.gate.worker import Worker, short_name
from lenet.results import Case
from lenet.vocabulary import threads_name

__all__ = ["case_pattern", "fork_servers", "measure_pair"]

PROCESSORS_A_SERVER: Final = 4
MOST_SERVERS: Final = 4
"""Of each side. A server keeps about 400 MB."""


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
        Pairs of servers, each by its side.
    """
    plugins = plugins_of(folder)
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
    divided: set[tuple[str, str]] | None = None,
) -> Pair:
    """Start a process in each tree, let them measure in turns, and read what they measured.

    Args:
        trees: The checkouts of base and of head.
        suite: Options of the suite.
        folder: Directory for the results and logs; it is made here.
        draw: Draws which side is first.
        only: Patterns of the names of the cases to measure (`case_pattern`); None for all.
        rounds: Rounds of a turn by such a pattern; other cases have those of the first pair. The suite's number is the
            most, but for a CPU's forward rows.
        turns: How often each process measures a row.
        servers: Fork the processes; None starts new interpreters.
        timeout: Seconds until both must have ended.
        compiles: Whether this is the first pair of the checkouts.
        divided: The sides' rows that handed over within a turn in earlier pairs. New ones are added.

    Raises:
        WorkerError: A process was killed, hung, or could not measure, or what it measured cannot be read. None is left
            running.
    """
    folder.mkdir(parents=True)
    began = time.monotonic()
    before = processor_seconds(servers)
    workers: list[Worker] = []
    divided = set() if divided is None else divided
    try:
        for tree in draw.sample(trees, len(trees)):
            server = servers[tree.side] if servers else None
            workers.append(Worker(tree, suite, only, folder, turns, began + timeout, server, divided))
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


def _take_turns(base: Worker, head: Worker, draw: random.Random, rounds: Mapping[str, int]) -> dict[str, str]:
    """Run each case that both sides have on one and then the other, in a drawn order, and the other cases alone."""
    first = {}
    cpus = sorted(os.sched_getaffinity(0))
    for worker in base, head:
        worker.start(rounds)
    while base.at or head.at:
        if base.at == head.at:
            order = (base, head) if draw.random() < 0.5 else (head, base)  # noqa: PLR2004 - a fair coin
            cpu = draw.choice(cpus)
            first[short_name(str(base.at))] = order[0].tree.side
            _measure_both(order, cpu)
        elif base.at and (base.at not in head.left or head.at in base.left):
            base.take_whole_turn()
        else:
            head.take_whole_turn()
    return first


def _measure_both(order: tuple[Worker, Worker], cpu: int) -> None:
    """Let both measure a case: one after the other, or in alternation if they hand over within it.

    If they do, nothing is timed before both are ready. Once that is known they therefore prepare at the same time.
    """
    if all(worker.divides for worker in order):
        for worker in order:
            worker.go(cpu)
        for worker in order:
            worker.listen()
    else:
        for worker in order:
            worker.take_turn(cpu)
    while any(worker.within for worker in order):
        for worker in order:
            if worker.within:
                worker.take_turn()
