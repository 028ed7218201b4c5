"""How many rounds a row gets: the coursework's fixed number, or as many as its median needs; and how many in flight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = ["DEFAULT_DEPTH", "Adaptive", "Coursework", "Protocol", "Stop"]

DEFAULT_DEPTH: Final = 3
"""Batches in flight on a GPU: one that is copied, one that is computed, and one that waits for either."""


class Stop(StrEnum):
    """Why no more rounds were run."""

    ROUNDS = "all rounds were run"
    PRECISE = "the median is known well enough"
    TIME = "the time was up"
    DISCARDED = "too many rounds were discarded"


@dataclass(frozen=True, slots=True)
class Coursework:
    """The coursework's protocol: a fixed number of rounds.

    Attributes:
        warmups: Rounds that run first and are not kept.
        rounds: Rounds to keep. Discarded rounds run again, until twice as many rounds as this have run in all.
    """

    warmups: int = 5
    rounds: int = 100

    @property
    def fewest_rounds(self) -> int:
        """Rounds that a row has at least, unless rounds are discarded or the time is up."""
        return self.rounds

    def stop(self, valid: Sequence[float], attempts: int, elapsed: float) -> Stop | None:
        """Why to stop now; None to go on.

        Args:
            valid: Seconds of each round that was not discarded.
            attempts: The number of all rounds.
            elapsed: Seconds since the first round began. This protocol has no time limit.
        """
        del elapsed
        if len(valid) >= self.rounds:
            return Stop.ROUNDS
        return Stop.DISCARDED if attempts >= 2 * self.rounds else None


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Rounds until the median is known well enough, or the time is up.

    The protocol looks at the median's interval again and again. So the interval holds the median somewhat less often
    than its confidence says: it decides how long to measure, and is no evidence of a difference.

    Attributes:
        warmups: Rounds that run first and are not kept.
        precision: The row stops when half the median's interval is at most this share of the median.
        confidence: The confidence of that interval.
        minimum_rounds: Valid rounds before the first look at the interval.
        rounds: Most valid rounds.
        time_limit: Most seconds, without warm-ups and without waiting for a quiet CPU. A round that has begun ends.
        span: Fewest seconds of rounds that the wall clock times; pauses spread the rounds over them. A shared host's
            speed changes from one tenth of a second to the next, and a hundred short rounds take a few thousandths. A
            row of which most rounds were discarded is given up after this time as well.
    """

    warmups: int = 5
    precision: float = 0.01
    confidence: float = 0.95
    minimum_rounds: int = 50
    rounds: int = 10_000
    time_limit: float = 10.0
    span: float = 0.3

    @property
    def fewest_rounds(self) -> int:
        """Rounds that a row has at least, unless rounds are discarded or the time is up."""
        return max(self.minimum_rounds, 1)

    def stop(self, valid: Sequence[float], attempts: int, elapsed: float) -> Stop | None:
        """Why to stop now; None to go on.

        Args:
            valid: Seconds of each round that was not discarded.
            attempts: The number of all rounds.
            elapsed: Seconds since the first round began.
        """
        from lenet.measurement.statistics import relative_half_width  # it imports scipy, which options need not

        enough = len(valid) >= self.fewest_rounds
        if enough and relative_half_width(valid, self.confidence) <= self.precision:
            return Stop.PRECISE
        if attempts >= 4 * self.minimum_rounds and attempts > 2 * len(valid) and elapsed >= self.span:
            return Stop.DISCARDED
        if elapsed >= self.time_limit:
            return Stop.TIME
        return Stop.ROUNDS if len(valid) >= self.rounds else None


Protocol = Coursework | Adaptive
