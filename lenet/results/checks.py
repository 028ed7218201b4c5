"""Checks of the fields of a JSON document that others may have written."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

__all__ = [
    "LEAST", "RATE", "REAL", "SIZE", "TIME", "Check", "by_name", "count", "each", "fields", "flag", "mapping", "moment",
    "number", "or_none", "text", "want",
]  # fmt: skip

Check = Callable[[Any, str], None]
"""Takes a value and the name of its place in the document. Raises `ValueError` for a wrong value."""
LEAST: Final = 1e-15
_MOST: Final = 1e30
"""Bounds of times, rates and counts. Beyond them no measurement lies, and arithmetic may overflow."""


def want(right: object, value: object, name: str, wanted: str) -> None:
    """Raise the error that says what is at a place and what was wanted, unless that is right."""
    if not right:
        raise ValueError(f"{name} is {reprlib.repr(value)}, not {wanted}")


def text(value: Any, name: str) -> None:
    """A text."""
    want(isinstance(value, str), value, name, "a text")


def flag(value: Any, name: str) -> None:
    """True or false."""
    want(isinstance(value, bool), value, name, "true or false")


def moment(value: Any, name: str) -> None:
    """A date by ISO 8601."""
    text(value, name)
    try:
        datetime.fromisoformat(value)
    except ValueError:
        want(right=False, value=value, name=name, wanted="a date by ISO 8601")


def number(wanted: str, least: float) -> Check:
    """A number of at least ``least``."""

    def check(value: Any, name: str) -> None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        want(is_number and least <= value < _MOST, value, name, wanted)

    return check


def count(least: int) -> Check:
    """A whole number of at least ``least``."""

    def check(value: Any, name: str) -> None:
        whole = isinstance(value, int) and not isinstance(value, bool)
        want(whole and least <= value < _MOST, value, name, f"a whole number of at least {least}")

    return check


def or_none(inner: Check) -> Check:
    """Null, or what ``inner`` takes."""

    def maybe(value: Any, name: str) -> None:
        if value is not None:
            inner(value, name)

    return maybe


def each(inner: Check, least: int = 0) -> Check:
    """A list of at least ``least`` items."""

    def items(value: Any, name: str) -> None:
        wanted = f"a list of at least {least}" if least else "a list"
        want(isinstance(value, list) and len(value) >= least, value, name, wanted)
        for place, item in enumerate(value):
            inner(item, f"{name}[{place}]")

    return items


def mapping(value: Any, name: str) -> None:
    """An object."""
    want(isinstance(value, dict), value, name, "an object")


def by_name(inner: Check) -> Check:
    """An object with any names."""

    def values(value: Any, name: str) -> None:
        mapping(value, name)
        for key, item in value.items():
            inner(item, f"{name}.{key}")

    return values


def fields(needed: Mapping[str, Check], others: Mapping[str, Check] | None = None) -> Check:
    """An object with the ``needed`` fields and possibly the ``others``."""

    def check(value: Any, name: str) -> None:
        mapping(value, name)
        for key, inner in {**needed, **(others or {})}.items():
            place = f"{name}.{key}".lstrip(".")
            if key in value:
                inner(value[key], place)
            elif key in needed:
                raise ValueError(f"{place} is missing")

    return check


TIME: Final = number("a positive number of seconds", LEAST)
RATE: Final = number("a positive rate", LEAST)
SIZE: Final = number("a number of at least 0", 0)
REAL: Final = number("a finite number", -_MOST)
