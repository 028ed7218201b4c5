"""Why rows are unstable, each reason once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lenet.results import Row

__all__ = ["Doubt", "doubts"]

_NUMBER: Final = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?!\w)")


@dataclass(frozen=True, slots=True)
class Doubt:
    """A reason not to trust some rows.

    Attributes:
        text: The reason, and what to do. Where the rows' numbers differ it has the least and the greatest.
        places: The places of the rows, in order.
    """

    text: str
    places: tuple[int, ...]


def doubts(rows: Sequence[Row]) -> list[Doubt]:
    """The reasons for which rows are unstable, the most frequent first."""
    alike: dict[str, dict[int, str]] = {}
    for place, row in enumerate(rows):
        for text in row.unstable:
            alike.setdefault(_NUMBER.sub("#", text), {})[place] = text
    found = [Doubt(_in_one([*texts.values()]), tuple(texts)) for texts in alike.values()]
    return sorted(found, key=lambda doubt: -len(doubt.places))


def _in_one(texts: Sequence[str]) -> str:
    """One text for several that differ in numbers alone."""
    numbers = [sorted(column, key=float) for column in zip(*map(_NUMBER.findall, texts), strict=True)]
    ranges = iter(column[0] if column[0] == column[-1] else f"{column[0]} to {column[-1]}" for column in numbers)
    return _NUMBER.sub(lambda _: next(ranges), texts[0])
