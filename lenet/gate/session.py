"""A run of the gate: pairs until every row is decided, fresh builds to confirm a FAIL, and the outcome."""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from lenet.errors import GateError
from lenet.gate.checkouts import Commits, checked_out
from lenet.gate.decision import Decision, Rule, Verdict, decide, drifted
from lenet.gate.scratch import scratch_directory
from lenet.gate.workers import CANARY, Pair, Tree, case_pattern, measure_pair
from lenet.measurement.environment import describe_difference
from lenet.results import FAILED

__all__ = ["Outcome", "Progress", "RowOutcome", "Stage", "run"]

THROTTLED_SHARE: Final = 0.05
"""A pair is discarded if either process had more than this share of a row's rounds throttled."""

PAIRS_FOR_ONE_DISCARDED: Final = 4
"""A run is inconclusive with over 20 % discarded pairs: more than one for four that count."""


@dataclass(slots=True)
class Stage:
    """The pairs of one set of checkouts.

    Attributes:
        name: ``first``, or ``again`` for the stage that confirms a FAIL.
        pairs: All pairs, in order. The first is not counted: it compiles what the later ones load.
        counted: The pairs that count.
        discarded: Number of pairs discarded because the GPU was throttled.
        decisions: By row.
        void: Why no verdict may rest on this stage; None if it is valid.
        closed: Cases that head failed, skipped or no longer has, with the reason. They FAIL without a time.
    """

    name: str
    pairs: list[Pair] = field(default_factory=list)
    counted: list[Pair] = field(default_factory=list)
    discarded: int = 0
    decisions: dict[str, Decision] = field(default_factory=dict)
    void: str | None = None
    closed: dict[str, str] = field(default_factory=dict)

    def ratios(self, name: str) -> list[float]:
        """``log(head / base)`` of a row or of the canary, one for each counted pair."""
        return [pair.ratio(name) for pair in self.counted]

    @property
    def failing(self) -> list[str]:
        """The rows that FAIL."""
        return [name for name, decision in self.decisions.items() if decision.verdict is Verdict.FAIL]


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """The outcome of a row.

    Attributes:
        name: As in the suite's tables.
        verdict: Also INCONCLUSIVE if a FAIL was not confirmed, or if the run is void.
        reason: Why.
        base: Median over the counted pairs of base's medians, in seconds; None if not both sides measured the row.
        head: The same for head.
        ratio: The median of head / base over the pairs.
        low: Lower bound of that median at the look that decided; None if there are too few pairs for one.
        high: Upper bound, likewise.
        pairs: Number of pairs of the decision.
        again: The decision of the stage that confirms a FAIL.
    """

    name: str
    verdict: Verdict
    reason: str
    base: float | None = None
    head: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    pairs: int = 0
    again: Decision | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a run.

    Attributes:
        verdict: The gate's verdict.
        reason: Why, in one sentence.
        rows: Every row that base or head measured.
        not_run: Cases that neither side measured, with the reason.
        commits: What was compared.
        rule: The rule that decided.
        suite: The options of the suite.
        seed: Seed of the orders.
        machine: Facts of the machine.
        fingerprint: Fingerprint of the machine.
        stages: What was measured.
        seconds: Duration of the run.
    """

    verdict: Verdict
    reason: str
    rows: tuple[RowOutcome, ...]
    not_run: Mapping[str, str]
    commits: Commits
    rule: Rule
    suite: tuple[str, ...]
    seed: int
    machine: Mapping[str, Any]
    fingerprint: str
    stages: tuple[Stage, ...]
    seconds: float


Progress = Callable[[Stage, Pair | None, int], None]
"""Called when a stage begins (with None for the pair) and after each pair, with the next look's number of pairs."""


def run(commits: Commits, rule: Rule, suite: Sequence[str], *, seed: int, timeout: float, tell: Progress) -> Outcome:
    """Measure base and head side by side, and decide.

    Args:
        commits: What to compare.
        rule: The rule to decide by.
        suite: Options of the suite, such as ``--backend=pytorch``.
        seed: Seed of the orders.
        timeout: Seconds that a pair of processes may take.
        tell: Called with the progress.

    Raises:
        GateError: The sides could not be measured, so there is no verdict.
    """
    began = time.monotonic()
    draw = random.Random(seed)  # noqa: S311 - nothing is kept secret by it
    stages: list[Stage] = []
    with scratch_directory(commits.repository) as scratch:
        for name in ("first", "again"):
            earlier = stages[0] if stages else None
            with checked_out(commits, scratch / name) as trees:
                stage = _measure(name, trees, rule, suite, scratch, earlier, draw, timeout, tell)
            stages.append(stage)
            if stage.void or stage.closed or not stage.failing:
                break
    rows = _rows(stages, rule)
    verdict, reason = _gate(stages, rows)
    last = stages[0].pairs[-1].head.measurement
    return Outcome(
        verdict=verdict,
        reason=reason,
        rows=rows,
        not_run={**stages[0].pairs[0].base.not_run, **stages[0].pairs[0].head.not_run},
        commits=commits,
        rule=rule,
        suite=tuple(suite),
        seed=seed,
        machine=last.machine,
        fingerprint=last.fingerprint,
        stages=tuple(stages),
        seconds=time.monotonic() - began,
    )


def _measure(
    name: str,
    trees: tuple[Tree, Tree],
    rule: Rule,
    suite: Sequence[str],
    folder: Path,
    earlier: Stage | None,
    draw: random.Random,
    timeout: float,
    tell: Progress,
) -> Stage:
    """Measure pairs until every row is decided or the last look is over.

    All rows are measured, or those alone that failed earlier.
    """
    stage = Stage(name)
    only = None if earlier is None else _cases(earlier)
    tell(stage, None, rule.looks[0])
    own_environments = trees[0].python != trees[1].python
    for look in rule.looks:
        while len(stage.counted) < look:
            place = folder / f"{name}-pairs" / str(len(stage.pairs))
            pair = measure_pair(trees, suite, place, draw, only=only, timeout=timeout)
            stage.pairs.append(pair)
            _refuse_rowless(stage.pairs)
            _refuse_unlike((earlier or stage).pairs[0], pair, trees, own_environments=own_environments)
            stage.closed = _closed(stage.pairs)
            if stage.closed:
                return stage
            if _throttled(pair):
                stage.discarded += len(stage.pairs) > 1
            elif len(stage.pairs) > 1:
                stage.counted.append(pair)
            tell(stage, pair, look)
            if stage.discarded * PAIRS_FOR_ONE_DISCARDED > look:
                stage.void = f"{stage.discarded} of {len(stage.pairs) - 1} pairs were throttled"
                return stage
        if _look(stage, rule, together=earlier is None):
            break
    return stage


def _look(stage: Stage, rule: Rule, *, together: bool) -> bool:
    """Decide the rows at a look; return whether all are decided.

    Rows to confirm have each failed once already, so their number needs no correction.
    """
    if drifted(stage.ratios(CANARY), rule):
        change = math.expm1(median(stage.ratios(CANARY)))
        stage.void = f"the canary, which is the same code on both sides, changed by {change:+.1%}"
        return True
    rows = {row: stage.ratios(row) for row in stage.pairs[0].base.rows}
    for family in [rows] if together else [{row: ratios} for row, ratios in rows.items()]:
        stage.decisions |= decide(family, rule, stage.decisions)
    return all(decision.verdict is not Verdict.INCONCLUSIVE for decision in stage.decisions.values())


def _refuse_rowless(pairs: list[Pair]) -> None:
    """Raise a GateError if base itself cannot be measured."""
    first, pair = pairs[0], pairs[-1]
    if not pair.base.rows or pair.base.rows.keys() != first.base.rows.keys():
        not_run = [f"{name}: {reason}" for name, reason in pair.base.not_run.items()]
        raise GateError(
            "base itself cannot be measured, so there is nothing to compare with",
            found=f"rows {', '.join(pair.base.rows) or 'none'}; {'; '.join(not_run)}",
            wanted="the same rows in every process of base, at least one",
            hint="choose rows that base measures",
        )


def _refuse_unlike(first: Pair, pair: Pair, trees: tuple[Tree, Tree], *, own_environments: bool) -> None:
    """Raise a GateError if the processes differ in machine, environment or source."""
    for side, tree in zip((pair.base, pair.head), trees, strict=True):
        reference = (first.base if tree.side == "base" or not own_environments else first.head).measurement
        # Another commit may record other packages.
        difference = describe_difference(reference.machine, side.measurement.machine, recorded_by_both=True)
        if difference:
            raise GateError(
                f"the process of {tree.side} is not like the first of base",
                found="; ".join(difference),
                wanted="one machine and one environment for all processes",
                hint="leave the machine and the environment as they are while the gate runs",
            )
        if side.measurement.commit != tree.commit:
            raise GateError(
                f"the process of {tree.side} measured another source",
                found=str(side.measurement.commit),
                wanted=tree.commit,
                hint="the checkout comes first on PYTHONPATH: see what changes sys.path, such as a .pth file",
            )
    if own_environments:
        _refuse_another_machine(first)


def _refuse_another_machine(pair: Pair) -> None:
    """What may differ between the sides: the libraries, if each side has an environment of its own."""
    both = describe_difference(pair.base.measurement.machine, pair.head.measurement.machine)
    if other := [line for line in both if not line.startswith("packages.")]:
        raise GateError(
            "base and head were not measured on one machine",
            found="; ".join(other),
            wanted="differences of libraries alone",
            hint="see that both environments are of one Python",
        )


def _closed(pairs: list[Pair]) -> dict[str, str]:
    """The cases that head failed, or that only base measured, with the reason."""
    base, head = pairs[0].base, pairs[-1].head
    not_run = dict(head.not_run)
    closed = {}
    for name, row in base.rows.items():
        if name not in head.rows:
            cases = [case for case in not_run if re.match(case_pattern(row[0].case), case)]
            reasons = [not_run.pop(case) for case in cases]
            closed[name] = max(reasons, key=_is_failure, default="removed or renamed: head has no such row")
    closed |= {name: reason for name, reason in not_run.items() if _is_failure(reason)}
    for name in pairs[0].head.rows.keys() - head.rows.keys() - base.rows.keys():
        closed[name] = "measured by the first process of head, and not by a later one"
    return closed


def _is_failure(reason: str) -> bool:
    return reason.startswith(FAILED)


def _throttled(pair: Pair) -> bool:
    rows = [row for side in (pair.base, pair.head) for turns in side.rows.values() for row in turns]
    return any(row.throttled > THROTTLED_SHARE * (row.summary.rounds + row.throttled) for row in rows)


def _cases(stage: Stage) -> list[str]:
    """Patterns of the names of the failing rows' cases."""
    return [case_pattern(stage.pairs[0].base.rows[name][0].case) for name in stage.failing]


def _rows(stages: Sequence[Stage], rule: Rule) -> tuple[RowOutcome, ...]:
    closed = {name: reason for stage in stages for name, reason in stage.closed.items()}
    found = [RowOutcome(name, Verdict.FAIL, reason) for name, reason in closed.items()]
    found += [_row(name, stages, rule) for name in stages[0].pairs[0].base.rows if name not in closed]
    return tuple(found)


def _row(name: str, stages: Sequence[Stage], rule: Rule) -> RowOutcome:
    first, again = stages[0], stages[-1] if len(stages) > 1 else None
    decision = first.decisions.get(name)
    if decision is None:
        reason = first.void or "the gate ended before a look, since other rows failed"
        return RowOutcome(name, Verdict.INCONCLUSIVE, reason)
    confirmed = again.decisions.get(name) if again else None
    void = first.void or (again.void if again and decision.verdict is Verdict.FAIL else None)
    verdict, reason = _verdict(decision, confirmed, rule)
    used = first.counted[: decision.pairs]
    base, head = (median(map(median, values)) for values in zip(*(pair.medians(name) for pair in used), strict=True))
    return RowOutcome(
        name=name,
        verdict=Verdict.INCONCLUSIVE if void else verdict,
        reason=void or reason,
        base=base,
        head=head,
        ratio=math.exp(median(first.ratios(name)[: decision.pairs])),
        low=math.exp(decision.low) if math.isfinite(decision.low) else None,
        high=math.exp(decision.high) if math.isfinite(decision.high) else None,
        pairs=decision.pairs,
        again=confirmed,
    )


def _verdict(decision: Decision, confirmed: Decision | None, rule: Rule) -> tuple[Verdict, str]:
    low, high = math.expm1(decision.low), math.expm1(decision.high)
    if decision.verdict is Verdict.PASS:
        return Verdict.PASS, f"slower by less than {rule.harm:.0%}: at most {high:+.1%}"
    if decision.verdict is Verdict.INCONCLUSIVE:
        return Verdict.INCONCLUSIVE, f"neither above {rule.tolerance:.0%} nor below {rule.harm:.0%}: too noisy"
    if confirmed is None or confirmed.verdict is not Verdict.FAIL:
        return Verdict.INCONCLUSIVE, f"at least {low:+.1%}, which fresh builds did not confirm"
    return Verdict.FAIL, f"slower by more than {rule.tolerance:.0%}: at least {low:+.1%}; fresh builds confirm it"


def _gate(stages: Sequence[Stage], rows: Sequence[RowOutcome]) -> tuple[Verdict, str]:
    by_verdict = {verdict: [row.name for row in rows if row.verdict is verdict] for verdict in Verdict}
    void = next((f"the run is void: {stage.void}" for stage in stages if stage.void), None)
    for verdict, text in (
        (Verdict.FAIL, "a row became slower, or is no longer measured"),
        (Verdict.INCONCLUSIVE, void or "a row could not be decided"),
    ):
        if by_verdict[verdict]:
            return verdict, f"{text}: {', '.join(by_verdict[verdict])}"
    return Verdict.PASS, "no row became slower by more than is accepted"
