"""How numbers are rounded, for the terminal, for Markdown and for the report.

Each function returns the number as Python writes it. `lenet.report.language.Language.number` puts it into a language.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["accuracy", "count", "delta", "loss", "percent", "ratio", "shape", "significant", "thousands"]


def significant(value: float, digits: int = 3) -> str:
    """A positive number to some significant digits, without an exponent: 12.3, 0.0123, 1230."""
    if value <= 0:
        return f"{value:g}"
    text = f"{value:.{digits}g}"
    if "e" in text:
        text = f"{float(text):.12f}".rstrip("0").rstrip(".")
    return text


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
    """A mean cross-entropy in nats, to seven decimals as in the coursework."""
    return f"{value:.7f}"


def accuracy(value: float) -> str:
    """An accuracy, 0-1, to one image in ten thousand."""
    return f"{value:.4f}"


def delta(value: float) -> str:
    """A small difference, to two digits: 9.5e-06."""
    return f"{value:.1e}" if value else "0"


def shape(sizes: Sequence[int]) -> str:
    """A tensor's shape: 6×28×28."""
    return "×".join(map(str, sizes))
