"""A row's profile as the probe recorded it. The checkout's code can write anything, so each value is checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from lenet import documents
from lenet.terminal import visible

__all__ = ["KINDS", "Layer", "Part", "Record", "least", "parse"]

KINDS: Final = frozenset({"kernel", "copy", "memset", "gaps", "around", "operator", "outside", "node", "session"})
"""What a part can be: the GPU's work (kernels, copies, clears), the GPU's idle time between it, the rest of a pass
around it; PyTorch's operators, the host's time outside them; ONNX Runtime's nodes, its time outside them."""

_MOST: Final = 2000
_LONGEST: Final = 300
_MOST_SECONDS: Final = 1e5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a pass.

    Attributes:
        kind: One of `KINDS`.
        layer: The layer of the network that it belongs to; empty if that is not known.
        operator: The outermost operator around it, or a node's type; empty if there is none.
        name: Its own name, as the profiler has it.
        calls: Calls in a pass.
        seconds: Seconds in a pass, without those of other parts.
    """

    kind: str
    layer: str
    operator: str
    name: str
    calls: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of an engine.

    Attributes:
        name: Its name.
        kind: Its type.
        tactic: The kernel that the library chose for it; empty if the engine does not tell.
    """

    name: str
    kind: str
    tactic: str


@dataclass(frozen=True, slots=True)
class Record:
    """A row's profile on one side.

    Attributes:
        row: The row's name.
        problem: Why the row could not be profiled; None if it was.
        missing: What is missing of the profile, and why.
        seconds: The median time of a pass without a profiler, by the host's clock; None if it was not measured.
        parts: What a pass consists of.
        layers: Layers of the engine, for a backend that has one.
        facts: Facts about the build and PyTorch's settings.
        versions: Versions of libraries.
    """

    row: str
    problem: str | None
    missing: tuple[str, ...] = ()
    seconds: float | None = None
    parts: tuple[Part, ...] = ()
    layers: tuple[Layer, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def least(records: Sequence[Record]) -> Record:
    """One record of several of a side: of each part, and of a pass, the shortest time.

    What disturbs a process makes its times longer, never shorter. If the parts are not the same in all records, that of
    the shortest pass is taken.
    """
    profiled = [record for record in records if record.problem is None]
    if not profiled:
        return records[0]
    times = [{_name(part): part.seconds for part in record.parts} for record in profiled]
    quietest = min(profiled, key=lambda record: sum(part.seconds for part in record.parts))
    seconds = [record.seconds for record in profiled if record.seconds is not None]
    shortest = min(seconds, default=None)
    if any(one.keys() != times[0].keys() for one in times):
        return replace(quietest, seconds=shortest)
    parts = (replace(part, seconds=min(one[_name(part)] for one in times)) for part in quietest.parts)
    return replace(quietest, seconds=shortest, parts=tuple(parts))


def _name(part: Part) -> tuple[str, str, str, str]:
    return part.kind, part.layer, part.operator, part.name


def parse(line: str) -> Record:
    """A record from the probe's line of JSON.

    Raises:
        ValueError: It is no JSON, or not a record.
    """
    document = documents.parse(line)
    if not isinstance(document, dict):
        raise ValueError("it is no object")  # noqa: TRY004 - of a file, not of an argument
    try:
        seconds, problem = document["seconds"], document["problem"]
        return Record(
            row=_text(document["row"]),
            problem=None if problem is None else _text(problem),
            missing=_several(document["missing"], _text),
            seconds=None if seconds is None else _number(seconds),
            parts=_several(document["parts"], _part),
            layers=_several(document["layers"], _layer),
            facts=_texts(document["facts"]),
            versions=_texts(document["versions"]),
        )
    except KeyError as error:
        raise ValueError(f"it has no {error}") from None


def _part(value: Any) -> Part:
    part = _mapping(value)
    kind = part["kind"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError("a part is of an unknown kind")
    layer, operator, name = (_text(part[one]) for one in ("layer", "operator", "name"))
    return Part(kind, layer, operator, name, _number(part["calls"]), _number(part["seconds"]))


def _layer(value: Any) -> Layer:
    layer = _mapping(value)
    return Layer(*(_text(layer[name]) for name in ("name", "kind", "tactic")))


def _several(value: Any, of: Callable[[Any], T]) -> tuple[T, ...]:
    if not isinstance(value, list) or len(value) > _MOST:
        raise ValueError(f"a list is none, or has more than {_MOST} entries")
    return tuple(map(of, value))


def _texts(value: Any) -> dict[str, str]:
    found = _mapping(value)
    if len(found) > _MOST:
        raise ValueError(f"it has more than {_MOST} facts")
    return {_text(name): _text(text) for name, text in found.items()}


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("an entry is no object")  # noqa: TRY004 - of a file, not of an argument
    return value


def _text(value: Any) -> str:
    """A text on one line, without control characters, of bounded length."""
    if not isinstance(value, str):
        raise ValueError("a text is none")  # noqa: TRY004 - of a file, not of an argument
    return visible(" ".join(value[:_LONGEST].split()))[:_LONGEST]


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST_SECONDS:
        raise ValueError("a number is none, or out of range")
    return float(value)
