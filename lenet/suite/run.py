"""What is known of a run beside its benchmarks."""

from __future__ import annotations

from typing import Any

import pytest

from lenet.errors import OutputError
from lenet.measurement.environment import fingerprint, machine_kind
from lenet.measurement.floor import Limits
from lenet.results import Matching, Measurement, NotRun, Row, row
from lenet.suite.bridge import Session

__all__ = ["RUN", "Run", "rows_of"]


class Run:
    """What is known of a run beside its benchmarks.

    Attributes:
        facts: The machine's.
        kind: Of the machine.
        fingerprint: Of the machine.
        not_run: Cases that were skipped or failed, by their node.
        partial: Whether the run was interrupted.
        cases: Inference cases that were collected.
        of_backends: Cases of a backend that were collected, inference or not.
        verdict: What is to be said of the run as a whole.
        limits: The machine's, once they are measured.
        matching: What the run has in common with its baseline, where there is one.
        regressed: Why each row fails ``--benchmark-compare-fail``, by its name.
        unsaved: Why a file could not be saved.
        pytorch: The saved run of this machine that speed-ups are told against, where this one has no PyTorch.
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
        self.unsaved: list[OutputError] = []
        self.pytorch: Measurement | None = None


RUN = pytest.StashKey[Run]()
"""Where pytest's configuration keeps the run."""


def rows_of(session: Session) -> list[Row]:
    """The rows of inference that were measured so far."""
    found = [row(entry.document) for entry in session.entries()]
    return [one for one in found if one is not None]
