"""The pairs of a gate on the disk: each is there before the next begins, so that an interrupted gate can go on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from lenet import documents
from lenet.errors import GateError, OutputError
from lenet.files import read_regular, remedy, write_atomically
from lenet.gate.pairs import Pair

__all__ = ["Journal", "Plan"]

SCHEMA: Final = 1
FILE: Final = "pairs.jsonl"
LARGEST: Final = 200_000_000
"""Bytes. A pair of 300 rows takes 400,000."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a gate measures. A gate goes on from pairs of the same plan alone.

    Attributes:
        base: The commit.
        head: The commit.
        suite: Options of the suite.
        rule: The rule's attributes.
        start: ``forked`` or ``fresh``.
        turns: How often each process measures a row.
        seed: Seed of the orders. A gate that goes on takes the recorded one.
    """

    base: str
    head: str
    suite: tuple[str, ...]
    rule: Mapping[str, Any]
    start: str
    turns: int
    seed: int


class Journal:
    """The record of a gate's pairs, a line each.

    Attributes:
        plan: What the gate measures.
        pairs: The pairs by stage, in order.
        dropped: What is damaged, and was left out.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.plan = plan
        self.pairs: dict[str, list[Pair]] = {}
        self.dropped: list[str] = []
        self._path = path

    @classmethod
    def begin(cls, folder: Path, plan: Plan) -> Self:
        """A new record, in the place of an earlier gate's.

        Raises:
            OutputError: It cannot be written.
        """
        journal = cls(folder / FILE, plan)
        header = documents.to_json({"schema": SCHEMA, "plan": asdict(plan)})
        write_atomically(journal._path, f"{_sealed(header)}\n".encode())
        return journal

    @classmethod
    def go_on(cls, folder: Path, plan: Plan) -> Self:
        """The record of an earlier gate with the same plan.

        Raises:
            GateError: There is none, it cannot be read, or its gate measured something else.
        """
        path = folder / FILE
        try:
            lines = read_regular(path, LARGEST).decode(errors="replace").split("\n")
            header = documents.parse(_opened(lines[0]))
            schema, recorded = header["schema"], _plan(header["plan"]) if header["schema"] == SCHEMA else None
        except OSError as error:
            raise _refused(path, error.strerror or str(error)) from error
        except TypeError as error:
            raise _refused(path, f"another version wrote it: {error}") from error
        except (ValueError, KeyError, AttributeError) as error:
            raise _refused(path, f"its first line is damaged: {error}") from error
        if recorded is None:
            raise _refused(path, f"schema {schema!r}, and this version writes {SCHEMA}")
        differs = [
            f"{name}: {mine!r} now, {theirs!r} then"
            for name in ("base", "head", "suite", "rule", "start", "turns")
            if (mine := getattr(plan, name)) != (theirs := getattr(recorded, name))
        ]
        if differs:
            raise GateError(
                "--resume cannot go on from another gate's pairs",
                found="; ".join(differs),
                wanted=f"the commits, options and version of {path}",
                hint="give the same options, or leave --resume out to begin anew",
            )
        journal = cls(path, recorded)
        for number, line in enumerate(lines[1:], start=2):
            if line:
                journal._read(number, line)
        return journal

    def keep(self, stage: str, pair: Pair) -> None:
        """Write a pair to the disk.

        Raises:
            OutputError: It cannot be written.
        """
        line = _sealed(documents.to_json({"stage": stage, "pair": pair.to_json()}))
        try:
            with self._path.open("ab") as file:
                # A gate that was killed while it wrote leaves a line without an end, which is damaged already.
                file.write(f"\n{line}\n".encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                "the last pair cannot be kept",
                found=f"{self._path}: {error.strerror or error}",
                wanted=f"{len(line):,} bytes of room",
                hint=f"{remedy(error, 'choose another directory with --out')}; `--resume` then goes on",
            ) from error

    def _read(self, number: int, line: str) -> None:
        try:
            document = documents.parse(_opened(line))
            stage, pair = str(document["stage"]), Pair.from_json(document["pair"])
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            self.dropped.append(f"{self._path.name}, line {number}: damaged, so that pair is left out: {error}")
        else:
            self.pairs.setdefault(stage, []).append(pair)


def _plan(document: Mapping[str, Any]) -> Plan:
    known = {**document, "suite": tuple(document["suite"]), "rule": _tuples(document["rule"])}
    return Plan(**known)


def _tuples(rule: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in rule.items()}


def _sealed(text: str) -> str:
    """A line whose damage shows: the digest of its text goes first."""
    return f"{hashlib.sha256(text.encode()).hexdigest()[:16]} {text}"


def _opened(line: str) -> str:
    digest, _, text = line.partition(" ")
    if _sealed(text).partition(" ")[0] != digest:
        raise ValueError("its digest does not fit")
    return text


def _refused(path: Path, found: str) -> GateError:
    return GateError(
        f"--resume cannot go on from {path}",
        found=found,
        wanted="the pairs of an earlier gate",
        hint="leave --resume out to begin anew",
    )
