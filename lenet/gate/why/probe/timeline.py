"""A trace of torch.profiler, as the mean parts of a pass. Pure functions; nothing is imported but the library.

The trace is in the Trace Event Format, which torch.profiler has exported unchanged for years. Its categories:

- ``cpu_op`` and ``user_annotation``: operators and named ranges on the host;
- ``cuda_runtime`` and ``cuda_driver``: calls that launch work, joined to it by ``correlation``;
- ``kernel``, ``gpu_memcpy`` and ``gpu_memset``: work on the GPU.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final, TypeAlias

CALL: Final = "lenet call"
LAYER: Final = "lenet layer: "
ROUND: Final = "lenet round"
"""Names of ranges: the call that is profiled, a module of the network, and the call with its hold and its wait."""

_DEVICE: Final = {"kernel": "kernel", "gpu_memcpy": "copy", "gpu_memset": "memset"}
_LAUNCHES: Final = frozenset({"cuda_runtime", "cuda_driver"})
_HOST: Final = frozenset({"cpu_op", "user_annotation"})
_QUALIFIED: Final = "::"
"""In the name of an operator, such as ``aten::relu``; the ranges of torch.compile have none."""
_HOLD: Final = "spin_kernel"
"""The kernel of ``torch.cuda._sleep``."""
_SLACK: Final = 50.0
"""Microseconds by which the clocks of the host and the GPU may differ in a trace. Passes are further apart."""
_UNSETTLED: Final = 2
"""First passes of a trace that do not count: CUPTI may lose their events."""

Labels: TypeAlias = dict[tuple[str, ...], list[str]]
"""The layer of each event, by the names of a pass's events."""
_Key: TypeAlias = tuple[str, str, str, str]


@dataclass(slots=True)
class _Event:
    name: str
    start: float
    end: float
    category: str
    correlation: int | None = None
    layer: str = ""
    operator: str = ""
    inner: float = 0.0
    outermost: bool = True


@dataclass(slots=True)
class _Pass:
    """A pass.

    Attributes:
        seconds: Its duration, in microseconds, as all times here.
        call: The duration of its call on the host.
        host: Operators in order, those within others after these.
        device: The GPU's work, in order.
    """

    seconds: float
    call: float
    host: list[_Event] = field(default_factory=list)
    device: list[_Event] = field(default_factory=list)


def parts(
    trace: Sequence[Mapping[str, Any]], *, held: bool, around: bool, host: Labels, device: Labels
) -> list[dict[str, Any]]:
    """The parts of a pass: calls and seconds, each the median over the passes.

    Args:
        trace: The events.
        held: Each pass began with a hold, which is no part of it.
        around: Whether the time before and after the GPU's work belongs to the pass.
        host: Layers of the operators, by `labels`.
        device: Layers of the GPU's work.
    """
    found: dict[_Key, list[tuple[float, float]]] = defaultdict(list)
    passes = _passes(trace, held=held)[_UNSETTLED:]
    for number, one in enumerate(passes):
        sums: dict[_Key, tuple[float, float]] = defaultdict(lambda: (0, 0.0))
        for key, seconds in _measured(one, around=around, host=host, device=device):
            calls, total = sums[key]
            sums[key] = calls + 1, total + seconds
        for key, value in sums.items():
            found[key] += [(0, 0.0)] * (number - len(found[key])) + [value]
    records = []
    for (kind, layer, operator, name), values in found.items():
        whole = values + [(0, 0.0)] * (len(passes) - len(values))
        calls, seconds = median(value[0] for value in whole), median(value[1] for value in whole)
        if calls:
            part = {"kind": kind, "layer": layer, "operator": operator, "name": name[:300]}
            records.append({**part, "calls": calls, "seconds": round(1e-6 * seconds, 10)})
    return records


def labels(trace: Sequence[Mapping[str, Any]], *, held: bool) -> tuple[Labels, Labels]:
    """The layers of operators and of the GPU's work, of a trace whose modules have ranges."""
    host: Labels = {}
    device: Labels = {}
    for one in _passes(trace, held=held):
        host[_names(one.host)] = [event.layer for event in one.host]
        device[_names(one.device)] = [event.layer for event in one.device]
    return host, device


def _measured(one: _Pass, *, around: bool, host: Labels, device: Labels) -> Iterable[tuple[_Key, float]]:
    """Each event of a pass with its own time, and the times between events."""
    for event, layer in zip(one.host, _layers(one.host, host), strict=True):
        yield ("operator", layer, event.operator, event.name), event.end - event.start - event.inner
    work = sum(event.end - event.start for event in one.host if event.outermost)
    yield ("outside", "", "", ""), max(one.call - work, 0.0)
    if not one.device:
        return
    for event, layer in zip(one.device, _layers(one.device, device), strict=True):
        yield (_DEVICE[event.category], layer, event.operator, event.name), event.end - event.start
    span = max(event.end for event in one.device) - one.device[0].start
    yield ("gaps", "", "", ""), span - _busy(one.device)
    if around:
        yield ("around", "", "", ""), max(one.seconds - span, 0.0)


def _layers(events: list[_Event], known: Labels) -> list[str]:
    return known.get(_names(events), [""] * len(events))


def _names(events: Iterable[_Event]) -> tuple[str, ...]:
    return tuple(event.name for event in events)


def _busy(events: Iterable[_Event]) -> float:
    """The time in which at least one of the events, in order of their start, goes on."""
    busy, end = 0.0, float("-inf")
    for event in events:
        busy += max(event.end - max(event.start, end), 0.0)
        end = max(end, event.end)
    return busy


def _passes(trace: Sequence[Mapping[str, Any]], *, held: bool) -> list[_Pass]:
    events = sorted(
        (one for one in trace if one.get("ph") == "X" and "cat" in one), key=lambda one: (one["ts"], -one["dur"])
    )
    ranges = [one for one in events if one["name"] == ROUND and one["cat"] == "user_annotation"]
    starts = [one["ts"] - _SLACK for one in ranges]
    inside: list[list[Mapping[str, Any]]] = [[] for _ in ranges]
    for one in events:
        place = bisect_right(starts, one["ts"]) - 1
        if place >= 0 and one["ts"] <= ranges[place]["ts"] + ranges[place]["dur"] + _SLACK:
            inside[place].append(one)
    return [_pass(found, within, held=held) for found, within in zip(ranges, inside, strict=True)]


def _pass(found: Mapping[str, Any], within: list[Mapping[str, Any]], *, held: bool) -> _Pass:
    own = [one for one in within if one["cat"] in _HOST and one["tid"] == found["tid"]]
    call = next(one for one in own if one["name"] == CALL)
    modules = [_event(one) for one in own if one["name"].startswith(LAYER)]
    operators = [_event(one) for one in own if call["ts"] <= one["ts"] < call["ts"] + call["dur"]]
    host = _nested([event for event in operators if event.name != CALL and not event.name.startswith(LAYER)], modules)
    launches = [_event(one) for one in within if one["cat"] in _LAUNCHES]
    device = [_event(one) for one in within if one["cat"] in _DEVICE]
    if held and device and _HOLD in device[0].name:
        del device[0]
    _launched(device, {event.correlation: event for event in launches}, host, modules)
    return _Pass(found["dur"], call["dur"], host, device)


def _event(one: Mapping[str, Any]) -> _Event:
    correlation = one.get("args", {}).get("correlation")
    return _Event(one["name"], one["ts"], one["ts"] + one["dur"], one["cat"], correlation)


def _nested(events: list[_Event], modules: list[_Event]) -> list[_Event]:
    """The operators, each with its layer, the outermost operator around it, and the time of those within it."""
    open_ones: list[_Event] = []
    for event in events:
        while open_ones and open_ones[-1].end <= event.start:
            open_ones.pop()
        event.layer = _layer(event.start, modules)
        event.outermost = not open_ones
        event.operator = next((one.name for one in (*open_ones, event) if _QUALIFIED in one.name), event.name)
        if open_ones:
            open_ones[-1].inner += event.end - event.start
        open_ones.append(event)
    return events


def _launched(
    device: list[_Event], launches: Mapping[int | None, _Event], host: list[_Event], modules: list[_Event]
) -> None:
    """Give the GPU's work the layer and the operator that launched it."""
    for event in device:
        launch = launches.get(event.correlation) if event.correlation else None
        if launch is not None:
            event.layer = _layer(launch.start, modules)
            around = (one.operator for one in host if one.start <= launch.start < one.end)
            event.operator = next((name for name in around if _QUALIFIED in name), "")


def _layer(time: float, modules: list[_Event]) -> str:
    """The innermost module at a time; modules are in order of their start."""
    found = [one.name.removeprefix(LAYER) for one in modules if one.start <= time < one.end]
    return found[-1] if found else ""
