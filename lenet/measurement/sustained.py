"""Times a pipeline, which keeps several batches in flight, in windows that follow each other without a gap.

A window is as long as a row of so many windows needs to last `SUSTAINED`, and at least `WINDOW`. It ends with a batch,
and its time is the mean of its batches. `lenet.measurement.ring` is the pipeline of a GPU, `lenet.measurement.parallel`
that of a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final, Literal, Protocol, TypeAlias

import torch

from lenet.measurement import protocol as protocols
from lenet.measurement.recorder import Round

__all__ = ["SUSTAINED", "WINDOW", "Held", "Pipeline", "SustainedClock"]

SUSTAINED: Final = 1.0
"""Seconds that the windows of a row last together, at least."""

WINDOW: Final = 0.01
"""The shortest window, in seconds."""

Held: TypeAlias = Literal["copy", "compute"]
"""The stream of a ring that is held back, so that a wait that is missing shows."""


class Pipeline(Protocol):
    """Several batches in flight.

    Attributes:
        chunk: Seconds for which windows follow each other before the pipeline may run empty.
    """

    chunk: ClassVar[float]

    @property
    def depth(self) -> int:
        """The number of batches in flight."""

    @property
    def held(self) -> Sequence[Held | None]:
        """What a check holds back, in turn."""

    def windows(self, count: int, seconds: float) -> list[Round]:
        """Run so many windows, each of at least so many seconds, and then run empty."""

    def work(self, seconds: float) -> int:
        """Run for at least so many seconds, and then run empty. Returns the number of batches."""

    def lap(self) -> None:
        """Run as many batches as are in flight at a time."""

    def logits(self, batches: Sequence[torch.Tensor], held: Held | None = None) -> list[torch.Tensor]:
        """Run other batches, with as many in flight as in a window.

        Args:
            batches: Each (batch, 3, 32, 32) on the CPU, of the runner's input type.
            held: What to hold back.

        Returns:
            The logits (batch, 10) of each, on the CPU.
        """

    def close(self) -> None:
        """Give back what it holds."""


class SustainedClock:
    """Times windows of a pipeline.

    Args:
        pipeline: What to time.
        protocol: Its number of rounds decides how long a window is.

    Attributes:
        by_device: Whether its rounds have a device time. They have none.
        tare: What it reads for an empty call, in seconds.
    """

    by_device: Final = False
    tare: Final = 0.0

    def __init__(self, pipeline: Pipeline, protocol: protocols.Protocol) -> None:
        self._pipeline = pipeline
        self._warmups = protocol.warmups
        self._window = max(WINDOW, SUSTAINED / protocol.fewest_rounds)

    def warm_up(self) -> None:
        """Run the protocol's warm-ups, as windows of the shortest length."""
        if self._warmups:
            self._pipeline.windows(self._warmups, WINDOW)

    def run(self, most: int) -> list[Round]:
        """Run windows for about the pipeline's ``chunk``: at least one, and at most so many."""
        return self._pipeline.windows(min(most, max(round(self._pipeline.chunk / self._window), 1)), self._window)
