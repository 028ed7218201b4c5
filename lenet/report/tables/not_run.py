"""The cases that did not run, each reason once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from rich.text import Text

__all__ = ["first_names", "group_reasons", "not_run_lines"]

_NAMED: Final = 8
"""Number of cases to name in a line; the saved file has all."""


def group_reasons(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """Each reason once, with all cases that it kept from running."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    return by_reason


def first_names(names: Sequence[str]) -> str:
    """The first names, and the number of the others."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def not_run_lines(reasons: Mapping[str, str]) -> list[Text]:
    """A heading, and a line for each reason with its cases. Empty if every case ran."""
    if not reasons:
        return []
    lines = (f"  {first_names(names)}: {reason}" for reason, names in group_reasons(reasons).items())
    return [Text("Not run:", style="bold"), *map(Text, lines)]
