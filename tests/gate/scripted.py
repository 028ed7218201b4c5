"""The gate on scripted pairs, in the place of processes that measure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from lenet.gate import session
from lenet.gate.acceptance import Acceptance
from lenet.gate.checkouts import Commits
from lenet.gate.decision import Rule
from lenet.gate.journal import Journal, Plan
from lenet.gate.outcome import Outcome
from lenet.gate.pairs import TURNS, Pair
from lenet.gate.session import TimeLimits
from lenet.gate.trees import Tree
from lenet.results import Case
from tests.gate.fakes import COMMITS, MACHINE, plain

NOISE = [1 + 0.001 * number for number in range(10)]
Script = Callable[[str, int], Pair]
FOREVER = TimeLimits(pair=1)
ANOTHER_CPU = MACHINE | {"cpu": {"model": "another CPU", "usable": 2}}


class Gate:
    """Runs the gate on a script, a function of the stage and the number of the pair, and notes what it asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, own_environments: bool) -> None:
        self.commits = Commits(tmp_path, COMMITS["base"], COMMITS["head"], "main", own_environments)
        self.out = tmp_path
        self.accepted: dict[str, Acceptance] = {}
        self.script: Script = lambda _stage, _number: plain({1: 1.0})
        self.stages: list[str] = []
        self.only: list[Sequence[str] | None] = []
        self.start = "fresh"
        self.servers: list[Any] = []
        self.made: list[Any] = []
        monkeypatch.setattr(session, "checked_out", self._checked_out)
        monkeypatch.setattr(session, "measure_pair", self._measure_pair)
        monkeypatch.setattr(session, "explain", lambda *_, **__: {})

    @contextmanager
    def _checked_out(self, commits: Commits, stage: Path, _deadline: float) -> Iterator[tuple[Tree, Tree]]:
        self.stages.append(stage.name)
        pythons = ("python", "another python" if commits.own_environments else "python")
        base, head = (
            Tree(which, stage / which, COMMITS[which], python, stage)
            for which, python in zip(("base", "head"), pythons, strict=True)
        )
        yield base, head
        for server in self.made:
            assert server.closed, "a checkout is removed while a server may write into it"

    def _measure_pair(self, _trees: Any, _suite: Any, folder: Path, *_: Any, only: Any, **more: Any) -> Pair:
        self.only.append(only)
        self.servers.append(more["servers"])
        found = self.script(self.stages[-1], int(folder.name))
        wanted = {
            which: {name: row for name, row in side.rows.items() if only is None or is_wanted(row.case, only)}
            for which, side in (("base", found.base), ("head", found.head))
        }
        sides = [replace(side, rows=wanted[which]) for which, side in (("base", found.base), ("head", found.head))]
        return replace(found, base=sides[0], head=sides[1], compiles=more["compiles"])

    def plan(self, rule: Rule) -> Plan:
        """What the gate measures."""
        return Plan(self.commits.base, self.commits.head, ("--x",), asdict(rule), self.start, TURNS, 1)

    def run(
        self, script: Script, rule: Rule | None = None, *, resume: bool = False, limits: TimeLimits = FOREVER
    ) -> Outcome:
        self.script = script
        rule = rule or Rule()
        journal = (Journal.go_on if resume else Journal.begin)(self.out, self.plan(rule))
        return session.run(self.commits, rule, journal, accepted=self.accepted, limits=limits, tell=lambda *_: None)


def is_wanted(case: Case, only: Sequence[str]) -> bool:
    """Whether the patterns choose the case's name in the suite."""
    name = f"{case.backend}-{case.mode}-{case.batch_size}-{case.asked}-pinned-{case.input}-turn0"
    return any(re.match(pattern, name) for pattern in only)


def quiet(number: int) -> Pair:
    """A pair of two rows whose times did not change."""
    return plain({1: NOISE[number % 10], 2: NOISE[number % 10]})


def failing_at(number: int, error: BaseException) -> Script:
    """A script of quiet pairs whose measuring fails at one of them."""

    def script(_stage: str, at: int) -> Pair:
        if at == number:
            raise error
        return quiet(at)

    return script
