"""How numbers are rounded, for the terminal, for Markdown and for the report.

Each function returns the number as Python writes it. `lenet.report.language.Language.number` puts it into a language.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = [
    "accuracy",
    "count",
    "delta",
    "loss",
    "percent",
    "ratio",
    "shape",
    "share",
    "significant",
    "thousands",
    "tick",
]


def significant(value: float, digits: int = 3) -> str:
    """A positive number to some significant digits, without an exponent: 12.3, 0.0600, 1230."""
    if value <= 0 or not math.isfinite(value):
        return f"{value:g}"
    text = f"{value:.{digits - 1}e}"
    decimals = max(0, digits - 1 - int(text.partition("e")[2]))
    return f"{float(text):.{decimals}f}"


def tick(value: float, digits: int) -> str:
    """A number of an axis, to at most so many digits: 0.5, 10."""
    text = significant(value, digits)
    return text.rstrip("0").rstrip(".") if "." in text else text


def ratio(value: float) -> str:
    """A ratio of two times, to two decimals, or to three digits if it is far from 1: 1.49, 0.00358, 879."""
    return f"{value:.2f}" if 0.1 <= value < 10 else significant(value)  # noqa: PLR2004 - as said


def percent(share: float) -> str:
    """A share in per cent, with one decimal as in the coursework: 32.7."""
    return f"{100 * share:.1f}"


def count(value: int) -> str:
    """A whole number with its thousands grouped: 62,006."""
    return f"{value:,}"


def thousands(value: float) -> str:
    """A large number to three significant digits, with its thousands grouped: 1,230,000."""
    return f"{float(significant(value)):,.0f}"


def loss(value: float) -> str:
    """A mean cross-entropy in nats, to seven decimals as in the coursework; with an exponent from 100 on."""
    return f"{value:.7f}" if value < 100 else f"{value:.2e}"  # noqa: PLR2004 - as said


def accuracy(value: float) -> str:
    """An accuracy, 0-1, to one image in ten thousand."""
    return f"{value:.4f}"


def delta(value: float) -> str:
    """A small difference, to two digits: 9.5e-06."""
    return f"{value:.1e}" if value else "0"


def share(value: float) -> str:
    """A share of a tolerance, to two digits; with an exponent far from 1: 0.095, 120, 3.4e+12."""
    return significant(value, digits=2) if 1e-3 <= value < 1e6 else delta(value)  # noqa: PLR2004 - as said


def shape(sizes: Sequence[int]) -> str:
    """A tensor's shape: 6×28×28."""
    return "×".join(map(str, sizes))
