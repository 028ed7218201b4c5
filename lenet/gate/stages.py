"""A stage of the gate: the pairs of one set of checkouts, what they must have in common, and the decisions."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from lenet.errors import GateError
from lenet.gate.decision import Decision, Rule, Verdict, decide, drifted
from lenet.gate.pairs import CANARY, Pair, Side
from lenet.gate.workers import case_pattern
from lenet.measurement.environment import describe_difference
from lenet.results import FAILED

__all__ = ["Stage", "refuse_unlike"]

THROTTLED_SHARE: Final = 0.05
"""A pair is discarded if either process had more than this share of a row's rounds throttled."""

PAIRS_FOR_ONE_DISCARDED: Final = 4
"""A run is inconclusive with over 20 % discarded pairs: more than one for four that count."""

FEWEST_TO_JUDGE: Final = 10
"""Pairs that count, or are yet to, when the share of discarded ones is judged."""


@dataclass(slots=True)
class Stage:
    """The pairs of one set of checkouts, or of several if the gate was interrupted and went on.

    Attributes:
        name: ``first``, or ``again`` for a stage that confirms a FAIL.
        rule: The rule to decide by.
        margins: Slow-downs that are accepted, by row.
        together: Whether the rows are a family. Rows to confirm have each failed once already, so their number needs no
            correction.
        pairs: All pairs, in order.
        counted: The pairs that count.
        discarded: Number of pairs discarded because the GPU was throttled.
        decisions: By row.
        void: Why no verdict may rest on this stage; None if it is valid.
        closed: Cases that head failed, skipped or no longer has, with the reason. They FAIL without a time.
        over: Whether it needs no more pairs.
    """

    name: str
    rule: Rule
    margins: Mapping[str, float] = field(default_factory=dict)
    together: bool = True
    pairs: list[Pair] = field(default_factory=list)
    counted: list[Pair] = field(default_factory=list)
    discarded: int = 0
    decisions: dict[str, Decision] = field(default_factory=dict)
    void: str | None = None
    closed: dict[str, str] = field(default_factory=dict)
    over: bool = False

    def measured(self, name: str) -> list[Pair]:
        """The counted pairs that measured a row, or the canary."""
        return [pair for pair in self.counted if name == CANARY or name in pair.base.rows]

    def ratios(self, name: str) -> list[float]:
        """``log(head / base)`` of a row or of the canary, one for each counted pair that measured it."""
        return [pair.ratio(name) for pair in self.measured(name)]

    @property
    def failing(self) -> list[str]:
        """The rows that FAIL."""
        return [name for name, decision in self.decisions.items() if decision.verdict is Verdict.FAIL]

    @property
    def open_rows(self) -> list[str]:
        """The rows that the next pair is to measure: of those that the first pair has, the undecided ones."""
        rows = self.pairs[0].base.rows if self.pairs else {}
        return [name for name in rows if not self._is_decided(name)]

    def patterns(self, names: Iterable[str]) -> list[str]:
        """Patterns of the names of these rows' cases."""
        return [case_pattern(self.pairs[0].base.rows[name].case) for name in names]

    def _is_decided(self, name: str) -> bool:
        return name in self.decisions and self.decisions[name].verdict is not Verdict.INCONCLUSIVE

    @property
    def rounds(self) -> dict[str, int]:
        """Rounds that a row needs by the first pair, by the pattern of its cases."""
        found: dict[str, int] = {}
        for side in (self.pairs[0].base, self.pairs[0].head) if self.pairs else ():
            for row in side.rows.values():
                if row.rounds:
                    pattern = case_pattern(row.case)
                    found[pattern] = max(found.get(pattern, 0), row.rounds)
        return found

    def add(self, pair: Pair) -> None:
        """Add a pair, and decide the rows if their number calls for it.

        Raises:
            GateError: Base itself cannot be measured.
        """
        expected = self.open_rows
        self.pairs.append(pair)
        _refuse_rowless(expected or pair.base.rows, pair)
        self.closed = _closed(self.pairs[0], pair, expected or pair.base.rows)
        if pair.throttled > THROTTLED_SHARE:
            self.discarded += not pair.compiles
        elif not pair.compiles:
            self.counted.append(pair)
            if len(self.counted) in self.rule.looks:
                self._look()
        if self.discarded * PAIRS_FOR_ONE_DISCARDED > max(len(self.counted), FEWEST_TO_JUDGE):
            self.void = f"{self.discarded} of {self.discarded + len(self.counted)} pairs were throttled"
        self.over |= bool(self.closed or self.void) or len(self.counted) == self.rule.looks[-1]

    def _look(self) -> None:
        """Decide the rows."""
        if drifted(self.ratios(CANARY), self.rule):
            change = math.expm1(median(self.ratios(CANARY)))
            self.void = f"the canary, which is the same code on both sides, changed by {change:+.1%}"
            return
        rows = {row: self.ratios(row) for row in self.open_rows}
        for family in [rows] if self.together else [{row: ratios} for row, ratios in rows.items()]:
            self.decisions |= decide(family, self.rule, self.decisions if self.together else {}, self.margins)
        self.over = all(one.verdict is not Verdict.INCONCLUSIVE for one in self.decisions.values())


def refuse_unlike(first: Pair, pair: Pair, commits: Sequence[str], *, own_environments: bool) -> None:
    """Check that the processes are alike in machine, environment and source.

    Args:
        first: The first pair of the gate.
        pair: A later pair, or the first.
        commits: Of base and head.
        own_environments: Whether each side has an environment of its own.

    Raises:
        GateError: They differ.
    """
    for which, side, commit in zip(("base", "head"), (pair.base, pair.head), commits, strict=True):
        reference = first.base if which == "base" or not own_environments else first.head
        # Another commit may record other packages.
        difference = describe_difference(reference.machine, side.machine, recorded_by_both=True)
        if difference:
            raise GateError(
                f"the process of {which} is not like the first of base",
                found="; ".join(difference),
                wanted="one machine and one environment for all processes",
                hint="leave the machine and the environment as they are while the gate runs",
            )
        if side.commit != commit:
            raise GateError(
                f"the process of {which} measured another source",
                found=str(side.commit),
                wanted=commit,
                hint="the checkout comes first on PYTHONPATH: see what changes sys.path, such as a .pth file",
            )
    if own_environments:
        _refuse_another_machine(first.base, first.head)


def _refuse_another_machine(base: Side, head: Side) -> None:
    """What may differ between the sides: the libraries, if each side has an environment of its own."""
    both = describe_difference(base.machine, head.machine)
    if other := [line for line in both if not line.startswith("packages.")]:
        raise GateError(
            "base and head were not measured on one machine",
            found="; ".join(other),
            wanted="differences of libraries alone",
            hint="see that both environments are of one Python",
        )


def _refuse_rowless(expected: Collection[str], pair: Pair) -> None:
    """Raise a GateError if base itself cannot be measured."""
    if not pair.base.rows or not pair.base.rows.keys() >= set(expected):
        not_run = [f"{name}: {reason}" for name, reason in pair.base.not_run.items()]
        raise GateError(
            "base itself cannot be measured, so there is nothing to compare with",
            found=f"rows {', '.join(pair.base.rows) or 'none'}; {'; '.join(not_run)}",
            wanted="the same rows in every process of base, at least one",
            hint="choose rows that base measures",
        )


def _closed(first: Pair, pair: Pair, expected: Collection[str]) -> dict[str, str]:
    """The cases that head failed, or that only base measured, with the reason.

    Args:
        first: The first pair, which measured all rows.
        pair: A pair that measured the rows in question.
        expected: Names of these rows.
    """
    not_run: dict[str, Any] = dict(pair.head.not_run)
    closed = {}
    for name in expected:
        if name not in pair.head.rows:
            cases = [case for case in not_run if re.match(case_pattern(first.base.rows[name].case), case)]
            reasons = [not_run.pop(case) for case in cases]
            closed[name] = max(reasons, key=_is_failure, default="removed or renamed: head has no such row")
    closed |= {name: reason for name, reason in not_run.items() if _is_failure(reason)}
    return closed


def _is_failure(reason: str) -> bool:
    return reason.startswith(FAILED)
