"""Slow-downs that a commit's message accepts: ``Accept-slowdown: ROW up to 8%: REASON`` among its trailers."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lenet.errors import GateError, did_you_mean
from lenet.provenance import git

__all__ = ["LARGEST", "Acceptance", "find_acceptances", "refuse_unknown", "trailer"]

LARGEST: Final = 10.0
"""The largest slow-down that can be accepted, as a share: to the eleven-fold time."""
_KEY: Final = "Accept-slowdown"
_SHOWN: Final = 12
_FORM: Final = re.compile(r"(?P<row>.*?)(?:^| )up to (?P<percent>[^%]*)%(?P<reason>.*)")
_NUMBER: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A slow-down of a row that is intended.

    Attributes:
        row: The row's name, as in the suite's tables.
        bound: The largest slow-down that is accepted, as a share.
        reason: Why it is accepted.
        commit: The commit whose message says so.
    """

    row: str
    bound: float
    reason: str
    commit: str


def find_acceptances(root: Path, base: str, head: str) -> Mapping[str, Acceptance]:
    """The slow-downs that the commits of ``base..head`` accept, by row. No other commit's acceptance counts.

    If commits accept the same for a row, as after a cherry-pick, the newest counts.

    Args:
        root: A directory of the checkout.
        base: A commit.
        head: A commit.

    Raises:
        GateError: A trailer cannot be read, two of them disagree, or git fails.
    """
    found: dict[str, Acceptance] = {}
    for commit, value in _trailers(root, base, head):
        new = _parse(value, commit)
        known = found.setdefault(new.row, new)
        if known.bound != new.bound:
            raise GateError(
                f"two commits accept different slow-downs of {new.row}",
                found="; ".join(f"{one.commit[:12]}: up to {100 * one.bound:g}%" for one in (known, new)),
                wanted="one bound for a row",
                hint=f"take one of them out; {_reword(new.commit)}",
            )
    return found


def refuse_unknown(acceptances: Mapping[str, Acceptance], rows: Collection[str]) -> None:
    """Refuse an acceptance for a row that is not measured.

    Args:
        acceptances: By row.
        rows: The rows that are measured.

    Raises:
        GateError: There is one. The error has the names that are near.
    """
    shown = sorted(rows)
    for row, one in acceptances.items():
        if row not in rows:
            near = did_you_mean(row, shown)
            raise GateError(
                f"commit {one.commit[:12]} accepts a slow-down of a row that is not measured",
                found=row,
                wanted=f"one of {len(shown)} rows: {', '.join(shown[:_SHOWN])}{', ...' if shown[_SHOWN:] else ''}",
                hint=f"{near} {_reword(one.commit)}".strip(),
            )


def trailer(row: str, ratio: float | None, high: float | None) -> str | None:
    """The trailer that would accept a row's slow-down, with REASON for the author to fill in; None if none can.

    Its bound is a whole per cent: the upper bound of the slow-down, or half as much again as the slow-down itself. An
    accepted row must be surely not slower than the bound, so the slow-down alone would be too little.

    Args:
        row: The row's name.
        ratio: Head's time over base's; None if it is not known.
        high: The upper bound of that; None without one.
    """
    if not ratio:
        return None
    share = high - 1 if high else 1.5 * (ratio - 1)
    return f"{_KEY}: {row} up to {math.ceil(100 * share)}%: REASON" if 0 < share < LARGEST else None


def _trailers(root: Path, base: str, head: str) -> Iterator[tuple[str, str]]:
    """The trailers' values with their commits, the newest first. A user's settings of git have no effect on them."""
    done = git(
        root,
        *("-c", "trailer.separators=:", "log", "-z", "--encoding=UTF-8", "--no-show-signature", "--no-color"),
        f"--format=%H%n%(trailers:key={_KEY},valueonly,unfold)",
        f"{base}..{head}",
        "--",
    )
    if done.returncode != 0:
        raise GateError(
            "the commits' messages cannot be read",
            found=done.stderr.strip() or f"`git log {base}..{head}` ended with {done.returncode}",
            wanted="the trailers of the commits to judge",
            hint="fetch the whole history: `git fetch --unshallow origin`",
        )
    for record in done.stdout.split("\0"):
        commit, *values = record.split("\n")
        yield from ((commit, value) for value in values[:-1])  # a line break ends each


def _parse(value: str, commit: str) -> Acceptance:
    """A trailer's value, read.

    Raises:
        GateError: It has no row, bound or reason.
    """
    value = " ".join(value.split())
    form = _FORM.fullmatch(value)
    if form is None:
        raise _unusable(commit, value, "no bound", "the largest slow-down in per cent")
    if not form["row"]:
        raise _unusable(commit, value, "no row", "the row's name as in the gate's table")
    percent = form["percent"].strip()
    bound = float(percent) / 100 if _NUMBER.fullmatch(percent) else 0
    if not 0 < bound <= LARGEST:
        raise _unusable(commit, value, "a bound that cannot be used", f"a number above 0, at most {100 * LARGEST:g}")
    reason = form["reason"].strip()
    if not reason.startswith(":") or not reason.strip(": "):
        raise _unusable(commit, value, "no reason", "why a reviewer should accept it")
    return Acceptance(form["row"], bound, reason.lstrip(": "), commit)


def _unusable(commit: str, value: str, problem: str, wanted: str) -> GateError:
    return GateError(
        f"commit {commit[:12]} has an {_KEY} with {problem}",
        found=value or "nothing",
        wanted=f"`{_KEY}: ROW up to 8%: REASON`, with {wanted}",
        hint=_reword(commit),
    )


def _reword(commit: str) -> str:
    return f"change the commit's message: `git rebase --interactive {commit[:12]}^`, then `reword`"
