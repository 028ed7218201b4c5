"""What a gate comes to: a verdict for each row and one for all, from the stages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from lenet.gate.acceptance import Acceptance
from lenet.gate.checkouts import Commits
from lenet.gate.decision import Decision, Rule, Verdict
from lenet.gate.stages import Stage
from lenet.gate.why import Explanation

__all__ = ["Outcome", "RowOutcome", "rows_of", "verdict_of"]


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """The outcome of a row.

    Attributes:
        name: As in the suite's tables.
        verdict: ACCEPTED for a slow-down that a commit accepts. INCONCLUSIVE also if a FAIL was not confirmed, or if
            the run is void.
        reason: Why.
        base: Median over the counted pairs of base's medians, in seconds; None if not both sides measured the row.
        head: The same for head.
        ratio: The median of head / base over the pairs.
        low: Lower bound of that median at the look that decided; None if there are too few pairs for one.
        high: Upper bound, likewise.
        pairs: Number of pairs of the decision.
        again: The last decision of the stages that confirm a FAIL.
        accepted: The slow-down that a commit accepts.
        why: What explains a FAIL.
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
    accepted: Acceptance | None = None
    why: Explanation | None = None


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
        options: Other options that measure the same again or go on, such as ``--out``.
        start: How processes started: ``forked`` or ``fresh``.
        seed: Seed of the orders.
        machine: Facts of the machine.
        fingerprint: Fingerprint of the machine.
        stages: What was measured.
        started: When the gate began, in UTC, as ISO 8601 has it.
        seconds: Duration of this run. An interrupted run before it is not in it.
        stopped: Why it ended early; None if it ran to its end.
        notes: What else a reader should know.
    """

    verdict: Verdict
    reason: str
    rows: tuple[RowOutcome, ...]
    not_run: Mapping[str, str]
    commits: Commits
    rule: Rule
    suite: tuple[str, ...]
    options: tuple[str, ...]
    start: str
    seed: int
    machine: Mapping[str, Any]
    fingerprint: str
    stages: tuple[Stage, ...]
    started: str
    seconds: float
    stopped: str | None = None
    notes: tuple[str, ...] = ()


def rows_of(
    stages: Sequence[Stage],
    *,
    accepted: Mapping[str, Acceptance],
    why: Mapping[str, Explanation],
) -> tuple[RowOutcome, ...]:
    """The outcome of each row.

    Args:
        stages: What was measured: the first stage, and the one that confirms its FAILs.
        accepted: Slow-downs that commits accept, by row.
        why: What explains a row's FAIL, by row.
    """
    closed = {name: reason for stage in stages for name, reason in stage.closed.items()}
    found = [RowOutcome(name, Verdict.FAIL, reason) for name, reason in closed.items()]
    measured = (name for name in stages[0].pairs[0].base.rows if name not in closed)
    found += [_row(name, stages, accepted.get(name), why.get(name)) for name in measured]
    return tuple(found)


def verdict_of(stages: Sequence[Stage], rows: Sequence[RowOutcome], stopped: str | None) -> tuple[Verdict, str]:
    """The gate's verdict, and why."""
    by_verdict = {verdict: [row.name for row in rows if row.verdict is verdict] for verdict in Verdict}
    void = next((f"the run is void: {stage.void}" for stage in stages if stage.void), None)
    for verdict, text in (
        (Verdict.FAIL, "a row became slower, or is no longer measured"),
        (Verdict.INCONCLUSIVE, void or stopped or "a row could not be decided"),
    ):
        if by_verdict[verdict]:
            return verdict, f"{text}: {', '.join(by_verdict[verdict])}"
    if by_verdict[Verdict.ACCEPTED]:
        return Verdict.PASS, f"slower as accepted, and no other row: {', '.join(by_verdict[Verdict.ACCEPTED])}"
    return Verdict.PASS, "no row became slower by more than is accepted"


def _row(name: str, stages: Sequence[Stage], accepted: Acceptance | None, why: Explanation | None) -> RowOutcome:
    first, again = stages[0], stages[1] if len(stages) > 1 else None
    decision = first.decisions.get(name)
    confirmed = again.decisions.get(name) if again else None
    used = first.measured(name)
    verdict, reason = _verdict(first.rule, decision, confirmed, accepted)
    failed = decision is not None and decision.verdict is Verdict.FAIL
    void = first.void or (again.void if again and failed else None)
    times: tuple[float | None, float | None] = (None, None)
    ratio = None
    if used:
        base, head = zip(*(pair.medians(name) for pair in used), strict=True)
        times = median(map(median, base)), median(map(median, head))
        ratio = math.exp(median(pair.ratio(name) for pair in used))
    return RowOutcome(
        name=name,
        verdict=Verdict.INCONCLUSIVE if void else verdict,
        reason=void or reason,
        base=times[0],
        head=times[1],
        ratio=ratio,
        low=math.exp(decision.low) if decision and math.isfinite(decision.low) else None,
        high=math.exp(decision.high) if decision and math.isfinite(decision.high) else None,
        pairs=len(used),
        again=confirmed,
        accepted=accepted,
        why=why,
    )


def _verdict(
    rule: Rule, decision: Decision | None, confirmed: Decision | None, accepted: Acceptance | None
) -> tuple[Verdict, str]:
    if decision is None:
        return Verdict.INCONCLUSIVE, f"the gate ended before pair {rule.looks[0]}, the first that can decide a row"
    tolerance, harm = rule.limits(accepted.bound if accepted else 0.0)
    low, high = math.expm1(decision.low), math.expm1(decision.high)
    if decision.verdict is Verdict.PASS:
        if accepted and high >= rule.harm:
            return Verdict.ACCEPTED, f"at most {high:+.1%}; up to {tolerance:.0%} is accepted: {accepted.reason}"
        return Verdict.PASS, f"slower by less than {harm:.0%}: at most {high:+.1%}"
    if decision.verdict is Verdict.INCONCLUSIVE:
        return Verdict.INCONCLUSIVE, f"neither above {tolerance:.0%} nor below {harm:.0%}: too noisy, or too few pairs"
    if confirmed is None:
        return Verdict.INCONCLUSIVE, f"at least {low:+.1%}, and the gate ended before fresh builds could confirm it"
    if confirmed.verdict is Verdict.INCONCLUSIVE and confirmed.pairs < rule.looks[-1]:
        return Verdict.INCONCLUSIVE, f"at least {low:+.1%}, which fresh builds have not confirmed yet"
    if confirmed.verdict is not Verdict.FAIL:
        return Verdict.INCONCLUSIVE, f"at least {low:+.1%}, which fresh builds did not confirm"
    beyond = f"the {tolerance:.0%} that is accepted" if accepted else f"{tolerance:.0%}"
    return Verdict.FAIL, f"slower by more than {beyond}: at least {low:+.1%}; fresh builds confirm it"
