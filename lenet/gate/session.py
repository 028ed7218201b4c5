"""A run of the gate: pairs until every row is decided, fresh builds to confirm a FAIL, and why it failed."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Final, NoReturn

from lenet import backends
from lenet.errors import GateError, OutputError
from lenet.gate.acceptance import Acceptance, refuse_unknown
from lenet.gate.checkouts import Commits, checked_out
from lenet.gate.decision import Rule
from lenet.gate.journal import Journal
from lenet.gate.outcome import Outcome, rows_of, verdict_of
from lenet.gate.pairs import Pair
from lenet.gate.processes import ForkServer, WorkerError
from lenet.gate.scratch import bytes_needed, cause_and_remedy, refuse_full_disk, scratch_directory
from lenet.gate.stages import Stage, refuse_unlike
from lenet.gate.trees import Tree
from lenet.gate.why import Explanation, explain
from lenet.gate.workers import fork_servers, measure_pair

__all__ = ["Progress", "TimeLimits", "run"]

Progress = Callable[[Stage, Pair | None, int], None]
"""Called when a stage begins (with None for the pair) and after each pair, with the most pairs that the stage takes."""

STAGES: Final = ("first", "again")
PAIRS_A_SERVER: Final = 3
"""Pairs after which a server is replaced. What its forks share can make all of them a little slower or faster. Even if
they shared all that differs from process to process, false alarms would be rare: see ``docs/results/gate-forks.md``."""
PROBES: Final = 4
"""Processes that say why: on a CPU each side is profiled twice."""
_SHORTEST: Final = 0.1
"""Seconds that a pair gets at least, so that its time-out says that the budget is over."""


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """How long a gate may take.

    Attributes:
        pair: Seconds for a pair of processes.
        budget: Seconds for the gate; None for as long as it takes.
    """

    pair: float
    budget: float | None = None


class _BudgetOverError(Exception):
    """There is no time for another pair. The message says how much more the gate would have needed."""


def run(
    commits: Commits,
    rule: Rule,
    journal: Journal,
    *,
    accepted: Mapping[str, Acceptance],
    limits: TimeLimits,
    tell: Progress,
    note: Callable[[str], None] = lambda _: None,
    options: tuple[str, ...] = (),
) -> Outcome:
    """Measure base and head side by side, and decide.

    A signal, a lost process, a full disk or the end of the budget ends the run early, with what is known until then.

    Args:
        commits: What to compare.
        rule: The rule to decide by.
        journal: Keeps each pair, and has those of an interrupted run.
        accepted: Slow-downs that commits accept, by row.
        limits: How long it may take.
        tell: Called with the progress.
        note: Called with what takes a while beside pairs.
        options: The command's other options, for the outcome.

    Raises:
        GateError: The sides could not be measured, so there is no verdict.
        KeyboardInterrupt: A signal ended it before a pair was counted.
        OutputError: The first pair cannot be kept.
    """
    gate = _Gate(commits, rule, journal, accepted, limits, tell, note)
    stopped = None
    try:
        gate.measure()
    except KeyboardInterrupt:
        if not gate.knows_something:
            raise
        stopped = "a signal ended the gate"
    except _BudgetOverError as error:
        stopped = str(error)
    except (WorkerError, OutputError, OSError) as error:
        if not gate.knows_something:
            if isinstance(error, OSError):
                refuse_full_disk(error, gate.needed)
            raise
        stopped = cause_and_remedy(error, gate.needed)
    return gate.outcome(stopped, options)


@dataclass(slots=True)
class _Gate:
    """A run in progress."""

    commits: Commits
    rule: Rule
    journal: Journal
    accepted: Mapping[str, Acceptance]
    limits: TimeLimits
    tell: Progress
    note: Callable[[str], None]
    stages: list[Stage] = field(default_factory=list)
    why: dict[str, Explanation] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def knows_something(self) -> bool:
        """Whether a pair was counted, or is known to FAIL without times."""
        return any(stage.counted or stage.closed for stage in self.stages)

    def measure(self) -> None:
        """Measure the stages, one after the other."""
        with scratch_directory(self.commits.repository, self.needed) as scratch:
            for name in STAGES:
                with ExitStack() as stack:
                    place = _Place(self, scratch, name, stack)
                    self._measure(place)
                    stage = self.stages[-1]
                    if stage.void or stage.closed or not stage.failing:
                        return
                    if name == STAGES[-1]:
                        self._explain(place)

    def outcome(self, stopped: str | None, options: tuple[str, ...]) -> Outcome:
        """What is known."""
        first = self.stages[0]
        rows = rows_of(self.stages, accepted=self.accepted, why=self.why)
        verdict, reason = verdict_of(self.stages, rows, stopped)
        last = first.pairs[-1].head
        return Outcome(
            verdict=verdict,
            reason=reason,
            rows=rows,
            not_run={**first.pairs[0].base.not_run, **first.pairs[0].head.not_run},
            commits=self.commits,
            rule=self.rule,
            suite=self.journal.plan.suite,
            options=options,
            start=self.journal.plan.start,
            seed=self.journal.plan.seed,
            machine=last.machine,
            fingerprint=last.fingerprint,
            stages=tuple(self.stages),
            started=self.started.strftime("%Y-%m-%dT%H:%M:%SZ"),
            seconds=time.monotonic() - self.began,
            stopped=stopped,
            notes=(*self.journal.dropped, *self.notes),
        )

    def _measure(self, place: _Place) -> None:
        """Measure a stage's pairs until every row is decided: all rows, or those alone that failed earlier."""
        earlier = self.stages[-1] if self.stages else None
        margins = {name: one.bound for name, one in self.accepted.items()}
        stage = Stage(place.name, self.rule, margins, together=earlier is None)
        self.stages.append(stage)
        most = self.rule.looks[-1]
        self.tell(stage, None, most)
        for pair, is_new in self._pairs(place, stage, earlier):
            reference = self.stages[0].pairs[0] if self.stages[0].pairs else pair
            commits = (self.commits.base, self.commits.head)
            refuse_unlike(reference, pair, commits, own_environments=self.commits.own_environments)
            stage.add(pair)
            if is_new:  # and like the others, so that it does not spoil the record
                self.journal.keep(stage.name, pair)
            if len(stage.pairs) == 1 and earlier is None:
                self._check_acceptances(pair)
            self.tell(stage, pair, most)
            if stage.over:
                break

    def _check_acceptances(self, first: Pair) -> None:
        """Refuse an acceptance that names no row of the suite, and note one of a row that is not measured here."""
        measured = first.base.rows.keys() | first.head.rows.keys()
        missing = {name: one for name, one in self.accepted.items() if name not in measured}
        elsewhere = [name for name in missing if name.partition(" ")[0] in backends.names()]
        refuse_unknown({name: one for name, one in missing.items() if name not in elsewhere}, measured)
        self.notes += [
            f"{name}: not measured here, so that its slow-down is accepted has no effect" for name in elsewhere
        ]

    def _pairs(self, place: _Place, stage: Stage, earlier: Stage | None) -> Iterator[tuple[Pair, bool]]:
        """The recorded pairs of the stage, and then new ones, with whether they are new."""
        failing = earlier.failing if earlier else None
        for pair in self.journal.pairs.get(stage.name, ()):
            if failing is None or pair.base.rows.keys() <= set(failing):
                yield pair, False
        compiles = True
        while True:
            number = len(stage.pairs)
            if stage.pairs:
                only: list[str] | None = stage.patterns(stage.open_rows)
            else:
                only = None if earlier is None else earlier.patterns(earlier.failing)
            draw = random.Random(f"{self.journal.plan.seed} {stage.name} {number}")  # noqa: S311 - it keeps no secret
            try:
                trees = place.trees
                servers = place.servers(self._time_for(stage), compiles=compiles)
                pair = measure_pair(
                    trees,
                    self.journal.plan.suite,
                    place.folder / str(number),
                    draw,
                    only=only,
                    rounds=stage.rounds,
                    turns=self.journal.plan.turns,
                    servers=servers,
                    timeout=self._time_for(stage),
                    compiles=compiles,
                    divided=place.divided,
                )
            except (WorkerError, TimeoutError):
                if self._left <= 0:
                    self._end_in_time(stage)
                raise
            yield pair, True
            compiles = False

    @property
    def needed(self) -> int:
        """Bytes that it needs in its temporary directory."""
        both = (self.commits.base, self.commits.head)
        return bytes_needed(self.commits.repository, both, own_environments=self.commits.own_environments)

    @property
    def deadline(self) -> float:
        """When the budget is over, on the clock of `time.monotonic`."""
        return self.began + (self.limits.budget or math.inf)

    @property
    def _left(self) -> float:
        """Seconds of the budget that are left."""
        return self.deadline - time.monotonic()

    def _time_for(self, stage: Stage) -> float:
        """Seconds that the next pair may take.

        Raises:
            _BudgetOverError: It would not end within the budget.
            GateError: No pair would.
        """
        if stage.pairs and stage.pairs[-1].seconds > self._left:
            self._end_in_time(stage)
        return min(self.limits.pair, max(self._left, _SHORTEST))

    def _end_in_time(self, stage: Stage) -> NoReturn:
        if not self.knows_something:
            raise GateError(
                "--budget is shorter than one pair",
                found=f"{self.limits.budget:g} s; no pair that counts would have ended in it",
                wanted="time for two pairs at least, of which the first compiles",
                hint="allow more time, or measure fewer rows; `--resume` goes on",
            )
        last = next(one.pairs[-1] for one in reversed(self.stages) if one.pairs)
        more = (self.rule.looks[-1] - len(stage.counted)) * last.seconds
        raise _BudgetOverError(
            f"the budget of {self.limits.budget:g} s is over, and up to {math.ceil(more / 60)} min more are needed"
        )

    def _explain(self, place: _Place) -> None:
        stage = self.stages[-1]
        rows = {name: stage.pairs[0].head.rows[name].case for name in stage.failing}
        self.note("the FAIL is confirmed: both sides are profiled, to say why")
        timeout = min(self.limits.pair, max(self._left / PROBES, _SHORTEST))
        slowdowns = {}
        for name in rows:
            base, head = zip(*(pair.medians(name) for pair in stage.measured(name)), strict=True)
            slowdowns[name] = (median(map(median, base)), median(map(median, head)))
        self.why |= explain(place.trees, rows, place.folder / "why", timeout=timeout, slowdowns=slowdowns)


class _Place:
    """Where a stage is measured. Its checkouts and servers are made when they are first asked for.

    Args:
        gate: The run in progress.
        scratch: The run's directory.
        name: The stage's.
        stack: Removes them.
    """

    def __init__(self, gate: _Gate, scratch: Path, name: str, stack: ExitStack) -> None:
        self.name = name
        self.folder = scratch / f"{name}-pairs"
        self.divided: set[tuple[str, str]] = set()
        self._gate = gate
        self._scratch = scratch
        self._stack = stack
        self._trees: tuple[Tree, Tree] | None = None
        self._serving = ExitStack()
        self._servers: list[dict[str, ForkServer]] = []
        self._forked = 0

    @property
    def trees(self) -> tuple[Tree, Tree]:
        """The checkouts. The servers begin to import as soon as they are there."""
        if self._trees is None:
            self._gate.note(f"{self.name} builds: base and head are checked out")
            made = checked_out(self._gate.commits, self._scratch / self.name, self._gate.deadline)
            self._trees = self._stack.enter_context(made)
            self._stack.enter_context(self._serving)  # so that no server writes into a checkout that is being removed
            if self._gate.journal.plan.start == "forked":
                self._servers = self._serving.enter_context(fork_servers(self._trees, self.folder))
        return self._trees

    def servers(self, seconds: float, *, compiles: bool) -> dict[str, ForkServer] | None:
        """The servers that fork the next pair, once all have imported their modules; None if processes start afresh.

        Args:
            seconds: How long the imports may take.
            compiles: Whether it is the first pair. Where there are processors for several servers, that is of new
                interpreters, which compile while the servers import.

        Raises:
            TimeoutError: They took so long that the budget is over.
        """
        if not self._servers or (compiles and len(self._servers) > 1):
            return None
        number = self._forked % (PAIRS_A_SERVER * len(self._servers))
        if number == 0:
            if self._forked:
                self._serving.close()
                self._servers = self._serving.enter_context(fork_servers(self.trees, self.folder))
            if reason := self._why_not(seconds):
                self._servers = []
                self._gate.notes.append(f"Processes were not forked but started afresh: the server said that {reason}.")
                return None
        self._forked += 1
        return self._servers[number % len(self._servers)]

    def _why_not(self, seconds: float) -> str | None:
        """Why the servers cannot fork; None if they can. It waits until they have imported their modules."""
        try:
            return next(filter(None, [one.cannot(seconds) for pair in self._servers for one in pair.values()]), None)
        except TimeoutError:
            if time.monotonic() >= self._gate.deadline:
                raise
            return "its imports took too long"
