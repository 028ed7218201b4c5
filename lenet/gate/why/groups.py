"""The parts of two profiles, brought together: by layer, else by operator, else by kernel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from lenet.gate.why.names import copy_name, kernel_name, operator_name
from lenet.gate.why.records import Part

__all__ = ["DEVICE", "HOST", "Change", "changes"]

DEVICE: Final = frozenset({"kernel", "copy", "memset", "gaps", "around"})
"""What a pass on a GPU consists of, by the GPU's time."""
HOST: Final = frozenset({"operator", "outside", "node", "session"})
"""What a pass consists of on the host."""

_WORDS: Final = {"kernel": "kernel", "operator": "operator", "node": "node", "copy": "copy", "memset": "copy"}
_TIMES: Final = {
    "gaps": "gaps between kernels",
    "around": "time before the first and after the last work of the GPU",
    "outside": "host time outside operators",
    "session": "time of ONNX Runtime outside nodes",
}
_REPLACED: Final = 0.2
"""Names only in base and names only in head count as one replaced by the other if base's take at least this share."""
_SHOWN: Final = 2


@dataclass(slots=True)
class _Group:
    """Parts of one side that share a name.

    Attributes:
        word: What one of them is called.
        seconds: Seconds a pass.
        calls: Calls in a pass.
        short: Seconds by their own short names.
        templates: Their whole names, where these are of templates.
    """

    word: str
    seconds: float = 0.0
    calls: float = 0.0
    short: dict[str, float] = field(default_factory=dict)
    templates: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Change:
    """A part that differs.

    Attributes:
        what: Its name, such as a layer's.
        base: Seconds a pass in base; None if base has no such part.
        head: The same for head.
        note: How it differs, if not in its time alone.
        kind: The kind of its parts.
    """

    what: str
    base: float | None
    head: float | None
    note: str
    kind: str

    @property
    def seconds(self) -> float:
        """How much longer head takes."""
        return (self.head or 0.0) - (self.base or 0.0)


_Key = tuple[str, str]


def changes(base: Sequence[Part], head: Sequence[Part], kinds: frozenset[str]) -> list[Change]:
    """What differs in the parts of some kinds, the largest slow-down first. The differences add up to the whole."""
    before, after = _grouped(base, kinds), _grouped(head, kinds)
    found = [_change(key, before[key], after[key]) for key in before if key in after]
    gone = {key: group for key, group in before.items() if key not in after}
    new = {key: group for key, group in after.items() if key not in before}
    found += _replaced(gone, new)
    found += [Change(_what(key), group.seconds, None, "not in head", key[0]) for key, group in gone.items()]
    found += [_new(key, group) for key, group in new.items()]
    return sorted((one for one in found if one.seconds or one.note), key=lambda one: (-one.seconds, one.what))


def _grouped(parts: Iterable[Part], kinds: frozenset[str]) -> dict[_Key, _Group]:
    found: dict[_Key, _Group] = {}
    for part in parts:
        if part.kind in kinds:
            group = found.setdefault(_key(part), _Group(_WORDS.get(part.kind, "time")))
            short = kernel_name(part.name) if part.kind == "kernel" else operator_name(part.name)
            group.seconds += part.seconds
            group.calls += part.calls
            group.short[short] = group.short.get(short, 0.0) + part.seconds
            if "<" in part.name:
                group.templates.add(part.name)
    return found


def _key(part: Part) -> _Key:
    if part.kind in _TIMES:
        return part.kind, ""
    if part.kind in {"copy", "memset"}:
        return "copy", copy_name(part.name) if part.kind == "copy" else "clearing of the GPU's memory"
    if part.layer:
        return "layer", part.layer
    if part.kind == "node":
        return "node", f"{operator_name(part.name)} ({part.operator})" if part.operator else operator_name(part.name)
    if part.operator:
        return "operator", operator_name(part.operator)
    return part.kind, kernel_name(part.name) if part.kind == "kernel" else operator_name(part.name)


def _what(key: _Key) -> str:
    kind, name = key
    if kind in _TIMES:
        return _TIMES[kind]
    return name if kind in {"layer", "copy"} else f"{kind} {name}"


def _new(key: _Key, group: _Group) -> Change:
    """A part that only head has. On a GPU, an operator is told with the kernel that takes the most time."""
    kind, name = key
    note = f"kernel {_top(group.short)}" if kind == "operator" and group.word == "kernel" else "not in base"
    return Change(name if kind == "copy" else f"new {kind} {name}", None, group.seconds, note, kind)


def _change(key: _Key, before: _Group, after: _Group) -> Change:
    return Change(_what(key), before.seconds, after.seconds, _note(key[0], before, after), key[0])


def _note(kind: str, before: _Group, after: _Group) -> str:
    if kind in _TIMES:
        return ""
    if round(before.calls) != round(after.calls):
        calls = round(after.calls)
        plural = {"copy": "copies"}.get(after.word, f"{after.word}s")
        return f"{calls} {after.word if calls == 1 else plural} where base has {round(before.calls)}"
    gone = {name: seconds for name, seconds in before.short.items() if name not in after.short}
    new = {name: seconds for name, seconds in after.short.items() if name not in before.short}
    if gone and new:
        return f"{_top(new)} in place of {_top(gone)}"
    if after.word == "kernel" and before.templates != after.templates:
        return "another variant of the same kernel"
    return ""


def _replaced(gone: dict[_Key, _Group], new: dict[_Key, _Group]) -> list[Change]:
    """One change for all that only base has and all that only head has, if that is as large. It is then taken out."""
    before, after = ({key: one for key, one in side.items() if key[0] != "copy"} for side in (gone, new))
    base, head = (sum(one.seconds for one in side.values()) for side in (before, after))
    if not before or not after or base < _REPLACED * head:
        return []
    for side, taken in ((gone, before), (new, after)):
        for key in taken:
            del side[key]
    names = [_names(side) for side in (after, before)]
    return [Change(f"{names[0]} in place of {names[1]}", base, head, "", next(iter(after))[0])]


def _names(side: dict[_Key, _Group]) -> str:
    ordered = sorted(side, key=lambda key: -side[key].seconds)
    shown = ", ".join(name for _, name in ordered[:_SHOWN])
    return f"{shown} and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else shown


def _top(names: dict[str, float]) -> str:
    return max(names, key=lambda name: names[name])
