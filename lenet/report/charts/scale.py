"""The scale of a chart's axis: where a value lies, and where ticks stand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from lenet.report.rounding import significant

__all__ = ["Scale", "digits_of", "spanning"]

_SUBDIVISIONS: Final = ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,))
"""Ticks in a decade, for an axis that spans less than one decade, less than two, or more."""
_TICKS: Final = 6
"""The most ticks of an axis, about."""


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis.

    Attributes:
        low: The least value.
        high: The greatest value.
        start: Where the least value lies, in CSS pixels.
        end: Where the greatest value lies.
        log: Whether it is logarithmic.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, in CSS pixels."""
        low, high, at = map(math.log10, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """The values of the ticks."""
        decades = math.log10(self.high / self.low) if self.log else 0
        found = self._decimal_ticks(decades) if decades >= 1 / 2 else self._even_ticks()
        return [value for value in found if self.low <= value <= self.high]

    def _even_ticks(self) -> Iterable[float]:
        rough = (self.high - self.low) / _TICKS
        power = 10 ** math.floor(math.log10(rough))
        step = next(one * power for one in (1, 2, 2.5, 5, 10) if one * power >= rough * 0.999)
        return (place * step for place in range(math.ceil(self.low / step), math.floor(self.high / step) + 1))

    def _decimal_ticks(self, decades: float) -> Iterable[float]:
        apart = max(1, math.ceil(decades / _TICKS))
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1, apart)
        return (one * 10.0**power for power in powers for one in _SUBDIVISIONS[min(math.floor(decades), 2)])


def spanning(values: Iterable[float], start: float, end: float, *, log: bool, margin: float = 0.05) -> Scale:
    """A scale with room for all values.

    Args:
        values: At least one, positive for a logarithmic scale.
        start: As for `Scale`.
        end: As for `Scale`.
        log: As for `Scale`.
        margin: Space before the first and after the last value, as a share of the span.
    """
    known = sorted(values)
    if log:
        span = math.log10(known[-1] / known[0]) or 0.3
        return Scale(known[0] / 10 ** (margin * span), known[-1] * 10 ** (margin * span), start, end, log=True)
    span = known[-1] - known[0] or abs(known[0]) or 1.0
    return Scale(known[0] - margin * span, known[-1] + margin * span, start, end)


def digits_of(values: Sequence[float]) -> int:
    """The least number of significant digits, from 3 on, that tells the ticks of an axis apart."""
    apart = (digits for digits in range(3, 9) if len({significant(one, digits) for one in values}) == len(values))
    return next(apart, 9)
