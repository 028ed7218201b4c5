"""What explains a slow-down: two profiles of a row, compared. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lenet.gate.why.groups import DEVICE, HOST, Change, changes
from lenet.gate.why.records import Record
from lenet.report.rounding import significant
from lenet.results import Case
from lenet.terminal import visible
from lenet.vocabulary import Mode

__all__ = ["Difference", "Explanation", "compare", "on_gpu", "unexplained"]

ENOUGH: Final = 0.5
"""The share of the measured slow-down that has to be found before the line says what explains it."""
_NAMED: Final = 3
"""Most parts that the line names."""
_ROWS: Final = 12
"""Most parts that an explanation lists one by one."""
_LINE: Final = 300
_DISTURBED: Final = 5
"""Profiles that differ by more than this many times the measured slow-down were disturbed."""
_SHARE: Final = 0.1
"""Profiles that differ by less than this share of a pass are not called disturbed."""
_HASH: Final = "sha256"


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between base and head.

    Attributes:
        what: What differs.
        base: Seconds a pass in base; None if base lacks it, or if it is no time.
        head: The same for head.
        note: How it differs, if not in its time alone.
    """

    what: str
    base: float | None
    head: float | None
    note: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a row became slower.

    Attributes:
        line: What explains most of it, in one line.
        differences: All that differs, the largest slow-down first. The times of a pass come first, and add up to the
            difference of the profiles.
    """

    line: str
    differences: tuple[Difference, ...] = ()


def unexplained(why: str) -> Explanation:
    """The explanation of a row that was not profiled."""
    return _explanation(visible(" ".join(why.split())), ())


def on_gpu(case: Case) -> bool:
    """Whether a row ran on a GPU."""
    return not case.device.startswith("CPU")


def on_the_device(case: Case) -> bool:
    """Whether a row's time is the GPU's alone."""
    return on_gpu(case) and case.mode is Mode.FORWARD


def compare(base: Record, head: Record, case: Case, slowdown: tuple[float, float] | None = None) -> Explanation:
    """Explain a row's slow-down.

    Args:
        base: The row's profile in base.
        head: The same in head.
        case: What the row measures.
        slowdown: Base's and head's measured seconds a pass; None if they are not known, and the profiles' own stand in.
    """
    facts = _differing_facts(base, head)
    problems = [f"{side} cannot be profiled: {one.problem}" for side, one in _sides(base, head) if one.problem]
    if problems:
        return _explanation("; ".join([*problems, *_told(facts)]), facts)
    engine = _engine(base, head)
    kinds = DEVICE if on_gpu(case) else HOST
    found = changes(base.parts, head.parts, kinds)
    host = changes(base.parts, head.parts, HOST) if kinds is DEVICE else []
    listed = [*_times(found), *_beside(host, case), *_whole(base, head), *engine, *facts]
    lacking = _lacking(base, head, kinds)
    if lacking:
        return _explanation("; ".join([lacking, *_told([*engine, *facts])]), listed)
    line = _line(found, host, case, slowdown, sum(one.seconds for one in base.parts if one.kind in kinds))
    if line and (again := _not_again(base, head, case, slowdown)):
        return _explanation("; ".join([again, *_told([*engine, *facts])]), listed)
    if line:
        return _explanation("; ".join([line, *_told(facts)]), listed)
    return _explanation(_nothing(found, slowdown, engine, facts, [*_missing(base, head)]), listed)


def _explanation(line: str, differences: Iterable[Difference]) -> Explanation:
    line = " ".join(line.split())  # a library may name a part as it likes
    return Explanation(line if len(line) <= _LINE else f"{line[: _LINE - 3]}...", tuple(differences))


def _sides(base: Record, head: Record) -> tuple[tuple[str, Record], tuple[str, Record]]:
    return ("base", base), ("head", head)


def _line(
    found: Sequence[Change], host: Sequence[Change], case: Case, slowdown: tuple[float, float] | None, whole: float
) -> str | None:
    """What explains the slow-down; None if nothing explains enough of it."""
    total = sum(one.seconds for one in found)
    measured = slowdown[1] - slowdown[0] if slowdown else total
    if measured <= 0 or total < ENOUGH * measured:
        return None
    if total > _DISTURBED * measured and total > _SHARE * whole:
        times = f"{_added(total)} in the profiles, {_added(measured)} measured"
        return f"the profiles were disturbed ({times}), so they explain nothing"
    slower = [one for one in found if one.seconds > 0]
    share = 0.0
    for number, one in enumerate(slower[:_NAMED], 1):
        share += one.seconds
        if share >= ENOUGH * measured:
            return "; ".join(_sentence(one, host, case) for one in slower[:number])
    return f"{len(slower)} parts are slower, together {_added(total)}, the most {_sentence(slower[0], host, case)}"


def _not_again(base: Record, head: Record, case: Case, slowdown: tuple[float, float] | None) -> str | None:
    """Whether head's passes were as fast as base's without the profiler, so that its profile cannot be trusted.

    A forward row's time on a GPU is not the host's.
    """
    if slowdown is None or base.seconds is None or head.seconds is None or on_the_device(case):
        return None
    measured, again = slowdown[1] - slowdown[0], head.seconds - base.seconds
    if again >= ENOUGH * measured:
        return None
    return f"the slow-down did not show again while it was profiled ({_added(again)} of {_added(measured)})"


def _sentence(change: Change, host: Sequence[Change], case: Case) -> str:
    """A change in words, such as ``conv1: +18.2 us, 3 kernels where base has 2``."""
    name, added = change.what, _added(change.seconds)
    if change.kind in {"gaps", "around"} and not on_the_device(case):
        name += " (the host launches too late)" if change.kind == "gaps" else " (the host's)"
        late = next((one for one in host if one.seconds >= ENOUGH * change.seconds), None)
        return f"{name}: {added}" + (f", {_on_host(late)} {_added(late.seconds)}" if late else "")
    if change.base is None:
        return f"{name}: {added} a pass" + (f", {change.note}" if change.note.startswith("kernel ") else "")
    if change.kind == "outside":
        return f"{name}: {added} a pass"
    if change.note:
        return f"{name}: {added}, {change.note}"
    before, after = (_time(value or 0.0) for value in (change.base, change.head))
    return f"{name}: {added} ({before} -> {after})"


def _on_host(change: Change) -> str:
    return f"on the host: {change.what.removeprefix('host ')}"


def _nothing(
    found: Sequence[Change],
    slowdown: tuple[float, float] | None,
    engine: Sequence[Difference],
    facts: Sequence[Difference],
    missing: Sequence[str],
) -> str:
    """What is known where no part explains the slow-down."""
    measured = f"{slowdown[1] / slowdown[0] - 1:+.1%}" if slowdown and slowdown[0] > 0 else "the slow-down"
    measured = measured.replace("%", " %")
    told = _told(facts)
    if engine:
        first = f"{engine[0].what}: {engine[0].note}" if len(engine) == 1 else f"engine: {len(engine)} layers differ"
        return "; ".join([first, f"no kernel explains {measured}", *told, *missing])
    if told:
        return "; ".join([*told[:-1], f"{told[-1]}: libraries or settings differ, no kernel explains it", *missing])
    largest = f", the most is {found[0].what}: {_added(found[0].seconds)}" if found and found[0].seconds > 0 else ""
    return "; ".join([f"nothing that the profiles show explains {measured}{largest}", *missing])


def _lacking(base: Record, head: Record, kinds: frozenset[str]) -> str:
    """Which sides have no profile of what the row's time consists of, and why."""
    sides = [side for side, one in _sides(base, head) if not any(part.kind in kinds for part in one.parts)]
    what = "work of the GPU" if kinds is DEVICE else "operators"
    reasons = "; ".join(dict.fromkeys((*base.missing, *head.missing)))
    return f"the profile of {' and '.join(sides)} shows no {what} ({reasons or 'no reason is known'})" if sides else ""


def _missing(base: Record, head: Record) -> Iterable[str]:
    for side, one in _sides(base, head):
        yield from (f"{side} lacks {reason}" for reason in one.missing)


def _times(found: Sequence[Change]) -> list[Difference]:
    """The times that differ. The smallest come last, in one line, so that all add up."""
    ordered = sorted(found, key=lambda one: -abs(one.seconds))
    shown = sorted(ordered[:_ROWS], key=lambda one: -one.seconds)
    listed = [Difference(one.what, one.base, one.head, one.note) for one in shown]
    if rest := ordered[_ROWS:]:
        base, head = sum(one.base or 0.0 for one in rest), sum(one.head or 0.0 for one in rest)
        listed.append(Difference(f"{len(rest)} more, each smaller", base, head, ""))
    return listed


def _beside(host: Sequence[Change], case: Case) -> list[Difference]:
    """What the host does beside a GPU; a forward row's time does not contain it."""
    note = "not in this row's time" if on_the_device(case) else ""
    return [
        Difference(_on_host(one), one.base, one.head, "; ".join(filter(None, (one.note, note))))
        for one in host[:_NAMED]
        if one.seconds > 0
    ]


def _whole(base: Record, head: Record) -> list[Difference]:
    if base.seconds is None or head.seconds is None:
        return []
    return [Difference("a whole pass", base.seconds, head.seconds, "by the host's clock, without a profiler")]


def _engine(base: Record, head: Record) -> list[Difference]:
    """Layers of an engine that differ in their tactic, or that one side lacks."""
    before, after = ({layer.name: layer.tactic for layer in one.layers} for one in (base, head))
    found = [
        Difference(f"engine: another tactic for layer {name}", None, None, f"{before[name]} -> {after[name]}")
        for name in before
        if name in after and before[name] != after[name]
    ]
    for here, there, words in ((before, after, "not in head"), (after, before, "not in base")):
        found += [Difference(f"engine: layer {name}", None, None, words) for name in here if name not in there]
    return found


def _differing_facts(base: Record, head: Record) -> list[Difference]:
    """Versions and facts that differ, hashes last."""
    found = [*_differing(base.versions, head.versions), *_differing(base.facts, head.facts)]
    return sorted(found, key=lambda one: _HASH in one.what)


def _differing(base: Mapping[str, str], head: Mapping[str, str]) -> Iterable[Difference]:
    for name in sorted(base.keys() | head.keys()):
        before, after = base.get(name, "none"), head.get(name, "none")
        if before != after:
            yield Difference(name, None, None, "differs" if _HASH in name else f"{before} -> {after}")


def _told(differences: Iterable[Difference]) -> list[str]:
    """The first differences of facts for the line; a hash says too little."""
    told = [f"{one.what} {one.note}" for one in differences if _HASH not in one.what]
    return told if len(told) <= _NAMED else [*told[:_NAMED], f"{len(told) - _NAMED} more facts differ"]


def _added(seconds: float) -> str:
    return f"{'-' if seconds < 0 else '+'}{_time(abs(seconds))}"


def _time(seconds: float) -> str:
    if seconds >= 1:
        return f"{significant(seconds)} s"
    return f"{significant(1e3 * seconds)} ms" if seconds >= 1e-3 else f"{significant(1e6 * seconds)} us"  # noqa: PLR2004
