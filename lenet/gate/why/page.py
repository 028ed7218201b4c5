"""Explanations as Markdown: one line for each row, and what differs in a folded table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from lenet.gate.why.comparison import Difference, Explanation
from lenet.report.rounding import significant
from lenet.terminal import visible

__all__ = ["plain", "to_markdown"]

_NOTHING: Final = "-"
_MARKUP: Final = re.compile(r"[\\`*<&\[\]|~@]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=http)s?:")
"""Markdown's and HTML's marks; ``@`` would notify a person, and an address would become a link."""


def to_markdown(explanations: Mapping[str, Explanation]) -> str:
    """A line for each row, with a table that a click unfolds; empty without rows.

    Names come from the checkouts' code, so nothing in them is Markdown or HTML.
    """
    return "\n".join(_row(name, one) for name, one in explanations.items())


def _row(name: str, explanation: Explanation) -> str:
    lines = [f"- **{plain(name)}**: {plain(explanation.line)}", ""]
    if explanation.differences:
        lines += ["<details><summary>what differs</summary>", "", "| what | base, us | head, us | change, us | note |"]
        lines += ["| --- | ---: | ---: | ---: | --- |", *map(_line, explanation.differences), "", "</details>", ""]
    return "\n".join(lines)


def _line(difference: Difference) -> str:
    times = [_microseconds(value) for value in (difference.base, difference.head)]
    known = difference.base is not None or difference.head is not None
    change = (difference.head or 0.0) - (difference.base or 0.0)
    sign = "-" if change < 0 else "+"
    added = f"{sign}{significant(1e6 * abs(change))}" if known else _NOTHING
    return "| " + " | ".join([plain(difference.what), *times, added, plain(difference.note)]) + " |"


def _microseconds(seconds: float | None) -> str:
    return _NOTHING if seconds is None else significant(1e6 * seconds)


def plain(text: str) -> str:
    """A text that Markdown and HTML show as it is, on one line."""
    line = visible(" ".join(text.split()))
    return _MARKUP.sub(lambda found: "".join(f"&#{ord(one)};" for one in found[0]), line)
