"""Check each field of a file of measurements, so that a damaged file is refused before anything uses it."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from lenet.vocabulary import HostMemory, Mode

__all__ = ["check"]

_Check = Callable[[Any, str], None]
"""Takes a value and the name of its place in the document. Raises `ValueError` for a wrong value."""
_LEAST: Final = 1e-15
_MOST: Final = 1e30
"""Bounds of times, rates and counts. Beyond them no measurement lies, and arithmetic may overflow."""


def check(document: Mapping[str, Any]) -> None:
    """Check every field that this package or pytest-benchmark reads from a file of measurements.

    Args:
        document: The file's content.

    Raises:
        ValueError: A field is missing or wrong. The message names it.
    """
    _DOCUMENT(document, "")


def _want(right: object, value: object, name: str, wanted: str) -> None:
    if not right:
        raise ValueError(f"{name} is {reprlib.repr(value)}, not {wanted}")


def _text(value: Any, name: str) -> None:
    _want(isinstance(value, str), value, name, "a text")


def _flag(value: Any, name: str) -> None:
    _want(isinstance(value, bool), value, name, "true or false")


def _moment(value: Any, name: str) -> None:
    _text(value, name)
    try:
        datetime.fromisoformat(value)
    except ValueError:
        _want(right=False, value=value, name=name, wanted="a date by ISO 8601")


def _folder(value: Any, name: str) -> None:
    _text(value, name)
    _want(re.fullmatch(r"\w[\w.+-]*", value), value, name, "a text that can name a folder")


def _mode(value: Any, name: str) -> None:
    _want(value in list(Mode), value, name, " or ".join(Mode))


def _number(wanted: str, least: float) -> _Check:
    """A number of at least ``least``."""

    def number(value: Any, name: str) -> None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        _want(is_number and least <= value < _MOST, value, name, wanted)

    return number


def _count(least: int) -> _Check:
    def count(value: Any, name: str) -> None:
        whole = isinstance(value, int) and not isinstance(value, bool)
        _want(whole and least <= value < _MOST, value, name, f"a whole number of at least {least}")

    return count


def _or_none(inner: _Check) -> _Check:
    def maybe(value: Any, name: str) -> None:
        if value is not None:
            inner(value, name)

    return maybe


def _each(inner: _Check, least: int = 0) -> _Check:
    """A list of at least ``least`` items."""

    def items(value: Any, name: str) -> None:
        wanted = f"a list of at least {least}" if least else "a list"
        _want(isinstance(value, list) and len(value) >= least, value, name, wanted)
        for place, item in enumerate(value):
            inner(item, f"{name}[{place}]")

    return items


def _mapping(value: Any, name: str) -> None:
    _want(isinstance(value, dict), value, name, "an object")


def _by_name(inner: _Check) -> _Check:
    """An object with any names."""

    def values(value: Any, name: str) -> None:
        _mapping(value, name)
        for key, item in value.items():
            inner(item, f"{name}.{key}")

    return values


def _fields(needed: Mapping[str, _Check], others: Mapping[str, _Check] | None = None) -> _Check:
    """An object with the ``needed`` fields and possibly the ``others``."""

    def fields(value: Any, name: str) -> None:
        _mapping(value, name)
        for key, inner in {**needed, **(others or {})}.items():
            place = f"{name}.{key}".lstrip(".")
            if key in value:
                inner(value[key], place)
            elif key in needed:
                raise ValueError(f"{place} is missing")

    return fields


_TIME: Final = _number("a positive number of seconds", _LEAST)
_RATE: Final = _number("a positive rate", _LEAST)
_SIZE: Final = _number("a number of at least 0", 0)
_REAL: Final = _number("a finite number", -_MOST)

_STATS: Final = _fields(
    {
        **dict.fromkeys(("min", "max", "mean", "median", "q1", "q3", "iqr", "stddev", "ld15iqr", "hd15iqr"), _REAL),
        **dict.fromkeys(("rounds", "iterations"), _count(0)),
        "outliers": _text,
    },
    {"ops": _REAL, "data": _or_none(_each(_REAL))},
)
"""What pytest-benchmark reads for its table, histogram and ``--benchmark-compare-fail``."""

_CASE: Final = _fields(
    {
        **dict.fromkeys(("backend", "asked", "precision", "device", "images", "protocol"), _text),
        "mode": _mode,
        "batch_size": _count(1),
        "host_memory": _or_none(_text),
        "cold_cache": _flag,
    },
    {"input": _text},
)

_ROW: Final = _fields(
    {
        "case": _CASE,
        "summary": _fields(
            {
                "rounds": _count(0),
                **dict.fromkeys(("median", "mean", "minimum", "maximum", "p95", "p99"), _TIME),
                **dict.fromkeys(("stddev", "iqr"), _SIZE),
                **dict.fromkeys(("median_low", "median_high"), _or_none(_TIME)),
                **dict.fromkeys(("coverage", "relative_half_width"), _or_none(_SIZE)),
                "autocorrelation": _REAL,
            }
        ),
        "wall_median": _or_none(_TIME),
        "peak_memory_bytes": _or_none(_count(0)),
        "throttled": _count(0),
        "unstable": _each(_text),
        "facts": _mapping,
    },
    {
        "floor": _or_none(_fields({"seconds": _TIME, "term": _text})),
        **dict.fromkeys(("max_abs_delta", "share_of_tolerance"), _or_none(_SIZE)),
        "weights": _or_none(_text),
    },
)


def _benchmark(value: Any, name: str) -> None:
    """An entry of pytest-benchmark, with the suite's additions if it is an inference row."""
    _fields({"name": _text, "fullname": _text, "stats": _STATS}, {"extra_info": _or_none(_mapping)})(value, name)
    info = value.get("extra_info") or {}
    if "case" in info:
        _ROW(info, f"{name}.extra_info")
        _each(_TIME)(value["stats"].get("data") or [], f"{name}.stats.data")


def _pair(value: Any, name: str) -> None:
    _want(isinstance(value, list) and len(value) == 2, value, name, "a size and a rate")  # noqa: PLR2004 - as it says
    for place, inner in enumerate((_count(1), _RATE)):
        inner(value[place], f"{name}[{place}]")


def _copy(value: Any, name: str) -> None:
    _by_name(_each(_pair, least=1))(value, name)
    _want(
        not value or value.keys() == {HostMemory.PINNED, HostMemory.PAGEABLE},
        value,
        name,
        "the rates of pinned and of pageable memory",
    )


_DOCUMENT: Final = _fields(
    {
        "lenet": _fields(
            {
                "kind": _folder,
                "fingerprint": _text,
                "partial": _flag,
                "not_run": _each(_fields({"name": _text, "reason": _text})),
            },
            {
                "regressed": _each(_text),
                "weights": _or_none(_fields({"file": _text, "digest": _text}, {"accuracy": _or_none(_SIZE)})),
                "limits": _or_none(
                    _fields(
                        {
                            "arithmetic": _by_name(_RATE),
                            "memory": _each(_pair, least=1),
                            "copy": _copy,
                            "launch": _TIME,
                            "launch_wall": _TIME,
                        }
                    )
                ),
            },
        ),
        "machine_info": _fields(
            {},
            {
                **dict.fromkeys(("cpu", "gpu", "cuda", "system", "python", "torch", "packages"), _or_none(_mapping)),
                "commit": _or_none(_text),
            },
        ),
        "datetime": _moment,
        "benchmarks": _each(_benchmark),
    }
)
