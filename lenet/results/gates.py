"""Read what the gate wrote, as files that others may have made. No torch here.

A finished gate keeps a copy of its ``gate.json`` in the folder ``gates`` of the saved runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from lenet import documents
from lenet.errors import ResultsError
from lenet.files import read_regular, reading_remedy
from lenet.results import checks
from lenet.results.file import LARGEST
from lenet.results.storage import GATES, local_storage

__all__ = ["MOST", "SCHEMA", "Accepted", "Difference", "Gate", "GateRow", "Why", "last_gates", "load_gate"]

SCHEMA: Final = 2
MOST: Final = 30
"""How many of the last gates are read."""
_STORED_NAME: Final = re.compile(r"[0-9]{8}_[0-9]{6}_.*\.json", re.DOTALL)
_VERDICTS: Final = ("PASS", "FAIL", "INCONCLUSIVE")
_ACCEPTED: Final = "ACCEPTED"
_AGAIN: Final = "run the gate again with `nox -s gate`"


@dataclass(frozen=True, slots=True)
class Difference:
    """One part of a row that base and head spent unlike times in.

    Attributes:
        what: The part, such as a kernel's name.
        base: Its time in base, in seconds. None if base lacks it.
        head: Its time in head, in seconds. None if head lacks it.
        note: What else differs.
    """

    what: str
    base: float | None
    head: float | None
    note: str


@dataclass(frozen=True, slots=True)
class Why:
    """Why a row became slower.

    Attributes:
        line: The difference that explains most of it, in one line.
        differences: All that were found.
    """

    line: str
    differences: Sequence[Difference]


@dataclass(frozen=True, slots=True)
class Accepted:
    """A slow-down that a commit accepts.

    Attributes:
        bound: The largest accepted growth, as a share.
        reason: Why.
        commit: The commit that accepts it.
    """

    bound: float
    reason: str
    commit: str


@dataclass(frozen=True, slots=True)
class GateRow:
    """A row of a gate. Times are in seconds a batch, and None where they are not known.

    Attributes:
        name: The row's name.
        verdict: ``PASS``, ``FAIL``, ``ACCEPTED`` or ``INCONCLUSIVE``.
        reason: Why.
        base: The median of base.
        head: The median of head.
        ratio: Head over base.
        low: Its lower bound. None if there is none.
        high: Its upper bound. None if there is none.
        pairs: Pairs of processes that were counted.
        accepted: The acceptance, if a commit has one for the row.
        why: What became slower, if both sides were profiled.
    """

    name: str
    verdict: str
    reason: str
    base: float | None
    head: float | None
    ratio: float | None
    low: float | None
    high: float | None
    pairs: int
    accepted: Accepted | None
    why: Why | None


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate that came to a verdict.

    Attributes:
        path: The file.
        verdict: ``PASS``, ``FAIL`` or ``INCONCLUSIVE``.
        reason: Why.
        started: When it began.
        stopped: Why it ended early. None if it did not.
        base: The commit that head was compared with.
        head: The commit that was judged.
        fingerprint: The machine's fingerprint.
        machine: The machine's facts.
        rows: The rows.
        not_run: Why each other case was not measured, by its name.
    """

    path: Path
    verdict: str
    reason: str
    started: datetime
    stopped: str | None
    base: str
    head: str
    fingerprint: str
    machine: Mapping[str, Any]
    rows: Sequence[GateRow]
    not_run: Mapping[str, str]


def last_gates(storage: Path, most: int = MOST) -> list[Path]:
    """The files of the last gates that a storage directory keeps, the newest first.

    Args:
        storage: The directory of baselines and saved runs.
        most: How many to find.
    """
    kept = (path for path in (local_storage(storage) / GATES).glob("*.json") if _STORED_NAME.fullmatch(path.name))
    return sorted(kept, key=lambda path: path.name, reverse=True)[:most]


def load_gate(path: Path) -> Gate:
    """Read a ``gate.json``.

    Raises:
        ResultsError: It cannot be read, has another schema, or the gate came to no verdict.
    """
    try:
        document = documents.parse(read_regular(path, LARGEST).decode())
        checks.mapping(document, "the document")
        checks.fields({"schema": _schema, "verdict": checks.text})(document, "")
        if document["verdict"] == "ERROR":
            checks.fields({"reason": checks.text, "found": checks.text})(document, "")
            raise ValueError(f"no verdict: {document['reason']}: {document['found']}")
        _GATE(document, "")
        return _gate(path, document)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error), reading_remedy(error, _AGAIN)) from error
    except (ValueError, OverflowError) as error:  # a date may lie before the first of UTC
        raise _unreadable(path, str(error)) from error


def _unreadable(path: Path, found: str, hint: str = f"delete it, or {_AGAIN}") -> ResultsError:
    return ResultsError(
        f"{path} cannot be read",
        found=found,
        wanted=f"the gate.json of a gate with a verdict, schema {SCHEMA}",
        hint=hint,
    )


def _gate(path: Path, document: Mapping[str, Any]) -> Gate:
    started = datetime.fromisoformat(document["started"])
    return Gate(
        path=path,
        started=started.astimezone(UTC) if started.tzinfo else started.replace(tzinfo=UTC),
        stopped=document.get("stopped"),
        base=document["commits"]["base"],
        head=document["commits"]["head"],
        rows=[_row(row) for row in document["rows"]],
        **{name: document[name] for name in ("verdict", "reason", "fingerprint", "machine", "not_run")},
    )


def _row(row: Mapping[str, Any]) -> GateRow:
    accepted, why = row.get("accepted"), row.get("why")
    return GateRow(
        **{name: row[name] for name in ("name", "verdict", "reason", "base", "head", "ratio", "low", "high", "pairs")},
        accepted=Accepted(**{name: accepted[name] for name in ("bound", "reason", "commit")}) if accepted else None,
        why=Why(why["line"], [_difference(one) for one in why["differences"]]) if why else None,
    )


def _difference(found: Mapping[str, Any]) -> Difference:
    return Difference(**{name: found[name] for name in ("what", "base", "head", "note")})


def _schema(value: Any, name: str) -> None:
    checks.want(value == SCHEMA and not isinstance(value, bool), value, name, str(SCHEMA))


def _one_of(*words: str) -> checks.Check:
    def check(value: Any, name: str) -> None:
        checks.want(value in words, value, name, " or ".join(words))

    return check


_TIME: Final = checks.or_none(checks.TIME)
_TEXTS: Final = checks.by_name(checks.text)
_ROW: Final = checks.fields(
    {
        **dict.fromkeys(("name", "reason"), checks.text),
        "verdict": _one_of(*_VERDICTS, _ACCEPTED),
        **dict.fromkeys(("base", "head"), _TIME),
        **dict.fromkeys(("ratio", "low", "high"), checks.or_none(checks.RATE)),
        "pairs": checks.count(0),
    },
    {
        "accepted": checks.or_none(checks.fields({"bound": checks.SIZE, "reason": checks.text, "commit": checks.text})),
        "why": checks.or_none(
            checks.fields(
                {
                    "line": checks.text,
                    "differences": checks.each(
                        checks.fields({"what": checks.text, "base": _TIME, "head": _TIME, "note": checks.text})
                    ),
                }
            )
        ),
    },
)
_GATE: Final = checks.fields(
    {
        "verdict": _one_of(*_VERDICTS),
        "reason": checks.text,
        "started": checks.moment,
        "rows": checks.each(_ROW),
        "not_run": _TEXTS,
        "commits": checks.fields(dict.fromkeys(("base", "head"), checks.text)),
        "fingerprint": checks.text,
        "machine": checks.fields({}, dict.fromkeys(("cpu", "gpu"), checks.or_none(checks.mapping))),
    },
    {"stopped": checks.or_none(checks.text)},
)
