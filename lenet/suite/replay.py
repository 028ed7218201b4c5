"""Hands rounds that `lenet.measurement.rounds` measured to pytest-benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Replay"]


class Replay:
    """A timer under which pytest-benchmark's rounds take the times that were measured before.

    pytest-benchmark cannot discard a throttled round or hold a stream back. With this timer,
    ``benchmark.pedantic(lambda: None, rounds=len(seconds))`` saves exactly these seconds.

    Args:
        seconds: The times of the rounds, in order. `load` replaces them.
    """

    def __init__(self, seconds: Sequence[float] | NDArray[np.float64] = ()) -> None:
        self._readings: Iterator[float] = iter(())
        self.load(seconds)

    def load(self, seconds: Sequence[float] | NDArray[np.float64]) -> None:
        """Replay these times from now on."""
        # Each round reads 0 and then s, so that the difference is s to the last bit.
        self._readings = iter([reading for one in seconds for reading in (0.0, float(one))])

    def __repr__(self) -> str:
        return "Replay"

    def __call__(self) -> float:
        """The next reading.

        Raises:
            ValueError: All times were replayed.
        """
        reading = next(self._readings, None)
        if reading is None:
            raise ValueError(
                "there are no more samples to replay: ask pytest-benchmark for as many rounds as there are"
            )
        return reading
