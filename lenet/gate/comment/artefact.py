"""Reads gate.json out of a run's artefact. The pull request's code wrote it, so it may be anything."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from lenet import documents
from lenet.errors import GateError

__all__ = ["LARGEST_ARCHIVE", "LARGEST_FILE", "Gate", "Row", "parse", "unpack"]

LARGEST_ARCHIVE: Final = 8 * 2**20
"""Bytes of the artefact as GitHub keeps it."""
LARGEST_FILE: Final = 8 * 2**20
"""Bytes of gate.json. That of a gate of 100 rows and 60 pairs has about 2 MB."""
_NAME: Final = "gate.json"
_SCHEMAS: Final = (1, 2)
_VERDICTS: Final = ("PASS", "FAIL", "INCONCLUSIVE", "ERROR")
_ROW_VERDICTS: Final = ("PASS", "FAIL", "INCONCLUSIVE", "ACCEPTED")
_MOST_ROWS: Final = 5_000
_MOST_OPTIONS: Final = 200
_LONGEST: Final = 4_000
_HEX_DIGITS: Final = 40
_DIGITS: Final = 30
_HINT: Final = "if the pull request does not change the gate, report this with the run's artefact"
_REGULAR: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True, slots=True)
class Row:
    """A row's verdict. Its texts may hold anything.

    Attributes:
        name: As in the suite's tables.
        verdict: PASS, FAIL, INCONCLUSIVE or ACCEPTED.
        reason: Why.
        base: Base's time in seconds; None if it is not known.
        head: Head's time in seconds.
        ratio: Head / base.
        low: Lower bound of the ratio.
        high: Upper bound of the ratio.
        pairs: Number of pairs of the decision.
        bound: The slow-down that a commit accepts, as a share; None without one.
        accepted: Why the commit accepts it.
        why: The line that explains most of a slow-down; None without one.
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
    bound: float | None
    accepted: str
    why: str | None


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate's outcome. Its texts may hold anything.

    Attributes:
        verdict: PASS, FAIL, INCONCLUSIVE or ERROR.
        reason: Why.
        rows: The rows; none for an ERROR.
        not_run: The number of cases that neither side measured.
        machine: The GPU, or the CPU.
        seconds: Duration; None for an ERROR.
        head: The commit that was measured; empty for an ERROR.
        suite: The options of the suite.
        stopped: Why it ended early; None if it did not.
        error: What was found, what was wanted and what to do next, for an ERROR alone.
    """

    verdict: str
    reason: str
    rows: tuple[Row, ...] = ()
    not_run: int = 0
    machine: str = ""
    seconds: float | None = None
    head: str = ""
    suite: tuple[str, ...] = ()
    stopped: str | None = None
    error: tuple[str, str, str] | None = None


def unpack(archive: bytes) -> bytes:
    """The bytes of gate.json in a zip archive. Nothing is written to a disk, so no name in it is a path.

    Raises:
        GateError: It is no archive, has no such file or several, or the file is too large or damaged.
    """
    if len(archive) > LARGEST_ARCHIVE:
        raise _unusable("the artefact", f"{len(archive):,} bytes", f"at most {LARGEST_ARCHIVE:,} bytes")
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            members = [one for one in opened.infolist() if one.filename == _NAME]
            if len(members) != 1:
                raise _unusable("the artefact", f"{len(members)} files of the name {_NAME}", "one")
            if members[0].compress_type not in _REGULAR:
                raise _unusable("the artefact", f"compression {members[0].compress_type}", "stored or deflated")
            with opened.open(members[0]) as file:
                content = file.read(LARGEST_FILE + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise _unusable("the artefact", f"{type(error).__name__}: {error}", "a zip archive") from error
    if len(content) > LARGEST_FILE:
        raise _unusable(_NAME, f"more than {LARGEST_FILE:,} bytes", f"at most {LARGEST_FILE:,} bytes")
    return content


def parse(content: bytes) -> Gate:
    """The outcome in a gate.json of schema 1 or 2.

    Raises:
        GateError: It is no JSON, or a field is missing, of another type, too long or out of range.
    """
    try:
        document = documents.parse(content.decode())
    except ValueError as error:
        raise _unusable(_NAME, str(error), "JSON in UTF-8") from error
    top = _mapping(document, "its top level")
    schema = top.get("schema")
    if isinstance(schema, bool) or schema not in _SCHEMAS:
        raise _unusable("its schema", _shown(schema), "1 or 2")
    verdict = _choice(top, "verdict", "", _VERDICTS)
    reason = _text(top, "reason", "")
    if verdict == "ERROR":
        found, wanted, following = (_text(top, key, "") for key in ("found", "wanted", "next"))
        return Gate(verdict, reason, error=(found, wanted, following))
    rows = tuple(_row(one, f"rows[{index}].") for index, one in enumerate(_list(top, "rows", _MOST_ROWS)))
    if not rows:
        raise _unusable("its rows", f"none, for the verdict {verdict}", "at least one")
    if verdict == "PASS" and (other := [row for row in rows if row.verdict not in {"PASS", "ACCEPTED"}]):
        raise _unusable(
            "its verdict", f"PASS, with a row that is {other[0].verdict}", "PASS for every row, or ACCEPTED"
        )
    return Gate(
        verdict=verdict,
        reason=reason,
        rows=rows,
        not_run=len(_mapping(top.get("not_run"), "not_run")),
        machine=_machine(_mapping(top.get("machine"), "machine")),
        seconds=_number(top, "seconds", "", 0, 1e7),
        head=_commit(_mapping(top.get("commits"), "commits"), "head"),
        suite=tuple(_plain(one, "suite") for one in _list(top, "suite", _MOST_OPTIONS)),
        stopped=None if top.get("stopped") is None else _text(top, "stopped", ""),
    )


def _row(value: Any, where: str) -> Row:
    row = _mapping(value, where.rstrip("."))
    accepted = row.get("accepted")
    accepted = None if accepted is None else _mapping(accepted, f"{where}accepted")
    why = row.get("why")
    verdict = _choice(row, "verdict", where, _ROW_VERDICTS)
    if verdict == "ACCEPTED" and accepted is None:
        raise _unusable(f"{where}accepted", "none, for a row that is ACCEPTED", "the bound and its reason")
    base, head = (_number(row, key, where, 0, 1e7) for key in ("base", "head"))
    ratio, low, high = (_number(row, key, where, 0, 1e9) for key in ("ratio", "low", "high"))
    return Row(
        name=_text(row, "name", where),
        verdict=verdict,
        reason=_text(row, "reason", where),
        base=base,
        head=head,
        ratio=ratio,
        low=low,
        high=high,
        pairs=int(_number(row, "pairs", where, 0, 1e6) or 0),
        bound=None if accepted is None else _number(accepted, "bound", f"{where}accepted.", 0, 10, optional=False),
        accepted="" if accepted is None else _text(accepted, "reason", f"{where}accepted."),
        why=None if why is None else _text(_mapping(why, f"{where}why"), "line", f"{where}why."),
    )


def _machine(machine: Mapping[str, Any]) -> str:
    if (gpu := machine.get("gpu")) is not None:
        return _text(_mapping(gpu, "machine.gpu"), "name", "machine.gpu.")
    return _text(_mapping(machine.get("cpu"), "machine.cpu"), "model", "machine.cpu.")


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _unusable(where, _shown(value), "an object")
    return value


def _list(holder: Mapping[str, Any], key: str, most: int) -> list[Any]:
    value = holder.get(key)
    if not isinstance(value, list):
        raise _unusable(key, _shown(value), "a list")
    if len(value) > most:
        raise _unusable(key, f"{len(value):,} entries", f"at most {most:,}")
    return value


def _text(holder: Mapping[str, Any], key: str, where: str) -> str:
    return _plain(holder.get(key), f"{where}{key}")


def _plain(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _unusable(where, _shown(value), "a text")
    if len(value) > _LONGEST:
        raise _unusable(where, f"{len(value):,} characters", f"at most {_LONGEST:,}")
    return value


def _choice(holder: Mapping[str, Any], key: str, where: str, choices: tuple[str, ...]) -> str:
    value = holder.get(key)
    if not isinstance(value, str) or value not in choices:
        raise _unusable(f"{where}{key}", _shown(value), " or ".join(choices))
    return value


def _commit(holder: Mapping[str, Any], key: str) -> str:
    value = holder.get(key)
    if not isinstance(value, str) or len(value) != _HEX_DIGITS or not set(value) <= set("0123456789abcdef"):
        raise _unusable(f"commits.{key}", _shown(value), f"{_HEX_DIGITS} hexadecimal digits")
    return value


def _number(
    holder: Mapping[str, Any], key: str, where: str, least: float, most: float, *, optional: bool = True
) -> float | None:
    value = holder.get(key)
    if value is None and optional:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise _unusable(f"{where}{key}", _shown(value), f"a number from {least:g} to {most:g}")
    return float(value)


def _shown(value: Any) -> str:
    """A value as an error names it: short, whatever it is."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**_DIGITS:
        return f"a number of over {_DIGITS} digits"  # Python refuses to write the longest
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value):,} entries"
    return repr(value)[:80]


def _unusable(what: str, found: str, wanted: str) -> GateError:
    return GateError(f"the run's artefact cannot be used: {what}", found=found, wanted=wanted, hint=_HINT)
