"""What a pair of processes measured, as data that a record on the disk can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import log
from statistics import median
from typing import Any, Final, Self

from lenet.results import Case

__all__ = ["CANARY", "SIDES", "TURNS", "Pair", "Side", "Turns"]

SIDES: Final = ("base", "head")
CANARY: Final = "canary"
TURNS: Final = 3
"""How often each process measures a row, in turns with the other. A disturbance often hits only one of two times that
lie a moment apart, and the median over the turns drops it. A row differs more from process to process than from turn to
turn: see ``docs/results/gate-h200.md``."""

_LEAST, _MOST = 1e-12, 1e9
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Turns:
    """What one process measured of a row.

    Attributes:
        case: What the row measures.
        medians: One for each turn, in seconds.
        throttled: The largest share of a turn's rounds that were throttled.
        rounds: Rounds that a turn needs for the precision that the gate wants (`lenet.gate.rounds.rounds_needed`).
    """

    case: Case
    medians: tuple[float, ...]
    throttled: float = 0.0
    rounds: int = 0


@dataclass(frozen=True, slots=True)
class Side:
    """What one process measured.

    Attributes:
        commit: The commit of its source, as it recorded it.
        machine: Facts of the machine.
        fingerprint: Fingerprint of the machine.
        rows: Rows by name; only those measured at every turn.
        canary: Medians of the canary, one for each turn, in seconds.
        not_run: Reasons by the name of the case.
    """

    commit: str | None
    machine: Mapping[str, Any]
    fingerprint: str
    rows: Mapping[str, Turns]
    canary: tuple[float, ...]
    not_run: Mapping[str, str]

    @property
    def times(self) -> list[tuple[float, ...]]:
        """The medians of each row's turns, in seconds."""
        return [row.medians for row in self.rows.values()]


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """What a pair of processes measured.

    Attributes:
        base: What the process of base measured.
        head: What the process of head measured.
        first: Which of them ran first, by the case's name; without cases that only one has.
        seconds: From the start of the processes until both had ended.
        others: The share of the processors' time that other programs took, or other machines on the same host.
        compiles: Whether it was the first of its checkouts. It compiles what the later ones load, and is not counted.
    """

    base: Side
    head: Side
    first: Mapping[str, str]
    seconds: float
    others: float
    compiles: bool = False

    def medians(self, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Base's and head's medians of a row, or of `CANARY`, one for each turn, in seconds."""
        if name == CANARY:
            return self.base.canary, self.head.canary
        return self.base.rows[name].medians, self.head.rows[name].medians

    def ratio(self, name: str) -> float:
        """``log(head / base)`` of a row or of `CANARY`: the median over the turns."""
        return median(log(head / base) for base, head in zip(*self.medians(name), strict=True))

    @property
    def throttled(self) -> float:
        """The largest share of rounds that a row lost to a throttled GPU, on either side."""
        return max((row.throttled for side in (self.base, self.head) for row in side.rows.values()), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """The pair as a document."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The pair of such a document.

        Raises:
            KeyError: A part is missing.
            TypeError: A part has another type, or another name.
            ValueError: A part has no such value, such as a time that is not positive.
        """
        sides = {which: _side(document[which]) for which in SIDES}
        counts = {len(times) for side in sides.values() for times in (side.canary, *side.times)}
        if len(counts) != 1:
            raise ValueError(f"the rows have {sorted(counts)} turns")
        first = {str(name): str(side) for name, side in document["first"].items()}
        seconds, others = float(document["seconds"]), float(document["others"])
        if not (0 <= seconds <= _MOST and 0 <= others <= 1):
            raise ValueError(f"{seconds} seconds and a share of {others} cannot be")
        return cls(sides["base"], sides["head"], first, seconds, others, bool(document["compiles"]))


def _side(document: Mapping[str, Any]) -> Side:
    return Side(
        commit=document["commit"],
        machine={"gpu": document["machine"]["gpu"], "cpu": document["machine"]["cpu"], **document["machine"]},
        fingerprint=str(document["fingerprint"]),
        rows={str(name): _turns(row) for name, row in document["rows"].items()},
        canary=_times(document["canary"]),
        not_run={str(name): str(reason) for name, reason in document["not_run"].items()},
    )


def _turns(document: Mapping[str, Any]) -> Turns:
    return Turns(
        Case.from_dict(document["case"]),
        _times(document["medians"]),
        float(document["throttled"]),
        int(document["rounds"]),
    )


def _times(values: list[float]) -> tuple[float, ...]:
    times = tuple(map(float, values))
    if not times or not all(_LEAST <= time <= _MOST for time in times):
        raise ValueError(f"{values!r} are not the times of turns")
    return times
