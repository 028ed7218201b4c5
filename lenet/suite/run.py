"""The state of a run, beside its benchmarks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from lenet.errors import OutputError
from lenet.measurement.environment import fingerprint, machine_kind
from lenet.measurement.floor import Limits
from lenet.measurement.readiness import OtherWork
from lenet.results import Matching, Measurement, NotRun, Row, row
from lenet.suite.bridge import Session

__all__ = ["RUN", "Compared", "Run", "rows_of"]


@dataclass(frozen=True, slots=True)
class Compared:
    """A benchmark of a run and the same of its baseline.

    Attributes:
        name: The benchmark's name, as in ``Run.regressed``.
        label: What tables call it.
        field: The figure that is compared, such as ``median``.
        then: The figure of the baseline, in seconds.
        now: The figure of the run.
        distinct: Whether the 95 % intervals of the two medians are known and apart.
        unstable: Whether one of the two is unstable.
    """

    name: str
    label: str
    field: str
    then: float
    now: float
    distinct: bool
    unstable: bool

    @property
    def change(self) -> float:
        """The growth as a share of the earlier figure."""
        return self.now / self.then - 1 if self.then else math.inf


class Run:
    """The state of a run, beside its benchmarks.

    Args:
        facts: As the attribute.

    Attributes:
        facts: The machine's facts. Empty if the run only lists its cases.
        not_run: Cases that were skipped or failed, by node id.
        partial: Whether the run was interrupted.
        cases: Number of inference cases that were collected.
        of_backends: Number of cases with a backend that were collected.
        verdict: Why the run as a whole failed or keeps nothing. None if there is no such reason.
        limits: The machine's limits, once they are measured.
        matching: What the run has in common with its baseline, if it has one.
        compared: What measured the same in the baseline.
        baseline: The name of the baseline's file. None without a baseline.
        rules: What ``--benchmark-compare-fail`` refuses, in words.
        regressed: Why each row fails ``--benchmark-compare-fail``, by its name.
        cause: What disturbed the whole run, and what to do. None if nothing is known to.
        notes: What else is to be said of the run, a line each.
        work: How busy other processes keep the CPUs.
        saved: The file that the run was saved to. None if it is not saved, or not yet.
        unsaved: An error for each file that could not be saved.
        weights: Name of the measured weights' file, their digest and the accuracy it states. None before they are read.
        output_lost: Tells whether something could not be written to standard output.
        pytorch: The saved run for speed-ups over PyTorch, if this run lacks a PyTorch row.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        self.not_run: dict[str, NotRun] = {}
        self.partial = False
        self.cases = 0
        self.of_backends = 0
        self.verdict: str | None = None
        self.limits: Limits | None = None
        self.matching: Matching | None = None
        self.compared: list[Compared] = []
        self.baseline: str | None = None
        self.rules: tuple[str, ...] = ()
        self.regressed: dict[str, str] = {}
        self.cause: str | None = None
        self.notes: list[str] = []
        self.work = OtherWork()
        self.saved: Path | None = None
        self.unsaved: list[OutputError] = []
        self.weights: dict[str, str | float | None] | None = None
        self.output_lost: Callable[[], bool] = lambda: False
        self.pytorch: Measurement | None = None

    @cached_property
    def kind(self) -> str:
        """The kind of machine."""
        return machine_kind(self.facts)

    @cached_property
    def fingerprint(self) -> str:
        """The machine's fingerprint."""
        return fingerprint(self.facts)


RUN = pytest.StashKey[Run]()
"""The key of the run in pytest's configuration."""


def rows_of(session: Session) -> list[Row]:
    """The inference rows that are measured so far."""
    found = [row(entry.document) for entry in session.entries()]
    return [one for one in found if one is not None]
