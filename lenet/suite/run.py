"""The state of a run, beside its benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lenet.errors import OutputError
from lenet.measurement.environment import fingerprint, machine_kind
from lenet.measurement.floor import Limits
from lenet.results import Matching, Measurement, NotRun, Row, row
from lenet.suite.bridge import Session

__all__ = ["RUN", "Run", "rows_of"]


class Run:
    """The state of a run, beside its benchmarks.

    Args:
        facts: As the attribute.

    Attributes:
        facts: The machine's facts.
        kind: The kind of machine.
        fingerprint: The machine's fingerprint.
        not_run: Cases that were skipped or failed, by node id.
        partial: Whether the run was interrupted.
        cases: Number of inference cases that were collected.
        of_backends: Number of cases with a backend that were collected.
        verdict: Why the run as a whole failed or keeps nothing. None if there is no such reason.
        limits: The machine's limits, once they are measured.
        matching: What the run has in common with its baseline, if it has one.
        regressed: Why each row fails ``--benchmark-compare-fail``, by its name.
        saved: The file that the run was saved to. None if it is not saved, or not yet.
        unsaved: An error for each file that could not be saved.
        weights: Name of the measured weights' file, their digest and the accuracy it states. None before they are read.
        pytorch: The saved run for speed-ups over PyTorch, if this run lacks a PyTorch row.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        self.kind = machine_kind(facts)
        self.fingerprint = fingerprint(facts)
        self.not_run: dict[str, NotRun] = {}
        self.partial = False
        self.cases = 0
        self.of_backends = 0
        self.verdict: str | None = None
        self.limits: Limits | None = None
        self.matching: Matching | None = None
        self.regressed: dict[str, str] = {}
        self.saved: Path | None = None
        self.unsaved: list[OutputError] = []
        self.weights: dict[str, str | float | None] | None = None
        self.pytorch: Measurement | None = None


RUN = pytest.StashKey[Run]()
"""The key of the run in pytest's configuration."""


def rows_of(session: Session) -> list[Row]:
    """The inference rows that are measured so far."""
    found = [row(entry.document) for entry in session.entries()]
    return [one for one in found if one is not None]
