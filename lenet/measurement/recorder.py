"""Keeps the rounds of a row: their times, and which of them were disturbed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lenet.measurement.protocol import Stop
from lenet.measurement.statistics import too_many

__all__ = ["Recorder", "Round", "Samples", "launch_problem"]


class Round(NamedTuple):
    """One timed call, or a window of many calls of which all times are the mean.

    Attributes:
        device: Seconds between the CUDA events, less the tare; None where the wall clock times the round.
        wall: Seconds from before the call until its result was synchronised.
        launch: Seconds until the call had returned.
        launch_bound: Whether the device began before all work was queued.
        latencies: Seconds of each batch of a window, from its submission until its logits were ready. Empty for one
            call.
    """

    device: float | None
    wall: float
    launch: float
    launch_bound: bool
    latencies: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Samples:
    """All rounds of a row, in the order in which they ran. Times are in seconds.

    Attributes:
        device: Between the CUDA events, less the tare, float64 (rounds,); None where the wall clock times the row.
        wall: From before the call until its result was synchronised, launch included, float64 (rounds,).
        launch: Until that call had returned and the device's work was queued, float64 (rounds,).
        launch_bound: Where the device began before all work was queued, bool (rounds,). The device time of such a round
            contains the host's, and is discarded. Either the call waits for the device, or the host was interrupted.
            All False without events.
        throttled: Where the GPU was throttled, bool (rounds,).
        throttling: What throttled it.
        slowed: Where other work slowed the host's CPU, bool (rounds,): see `lenet.measurement.host_state`.
        stopped: Why no more rounds were run.
        tare: What the events read for an empty call, seconds; 0 without events.
        latencies: Of each round, as `Round` has them.
    """

    device: NDArray[np.float64] | None
    wall: NDArray[np.float64]
    launch: NDArray[np.float64]
    launch_bound: NDArray[np.bool_]
    throttled: NDArray[np.bool_]
    throttling: tuple[str, ...]
    slowed: NDArray[np.bool_]
    stopped: Stop
    tare: float = 0.0
    latencies: Sequence[Sequence[float]] = ()

    @property
    def latency(self) -> NDArray[np.float64]:
        """The latencies of all batches of the rounds that `wall_seconds` keeps, float64 (batches,)."""
        discarded = self.throttled | self.slowed
        kept = [one for one, bad in zip(self.latencies, discarded, strict=True) if not bad or discarded.all()]
        return np.array([seconds for one in kept for seconds in one], dtype=np.float64)

    @property
    def seconds(self) -> NDArray[np.float64]:
        """The row's times by its clock, without discarded rounds.

        If every round was discarded, all are given: the row is unstable, but shows something.
        """
        return self.wall_seconds if self.device is None else _kept(self.device, self.throttled | self.launch_bound)

    @property
    def wall_seconds(self) -> NDArray[np.float64]:
        """Wall times without discarded rounds; all of them if every round was discarded."""
        return _kept(self.wall, self.throttled | self.slowed)


def _kept(times: NDArray[np.float64], discarded: NDArray[np.bool_]) -> NDArray[np.float64]:
    return times if discarded.all() else times[~discarded]


def launch_problem(samples: Samples) -> str | None:
    """Why its launches make a forward row unstable, and what to do; None when they do not."""
    bound, rounds = int(samples.launch_bound.sum()), len(samples.launch_bound)
    if not too_many(bound, rounds):
        return None
    return (
        f"in {bound} of {rounds} rounds the device began before all was queued, so its time holds "
        "the host's: the call waits for the device by itself (look at the wall time), or the host is interrupted"
    )


class Recorder:
    """Collects rounds chunk by chunk.

    Args:
        by_device: Whether the row is about device times. A slowed host disturbs wall times only.

    Attributes:
        rounds: All rounds so far.
        valid: Seconds, by the row's clock, of each round that was not discarded.
    """

    def __init__(self, *, by_device: bool) -> None:
        self.rounds: list[Round] = []
        self.valid: list[float] = []
        self._by_device = by_device
        self._throttled: list[bool] = []
        self._throttling: set[str] = set()
        self._slowed: list[bool] = []

    def keep(self, chunk: Sequence[Round], *, throttling: Collection[str], slowed: bool) -> None:
        """Add rounds that ran between two looks.

        Args:
            chunk: The rounds.
            throttling: What throttled the GPU at either look. An empty collection means that nothing did.
            slowed: Whether the host was slowed at either look.
        """
        self.rounds += chunk
        self._throttled += [bool(throttling)] * len(chunk)
        self._throttling.update(throttling)
        self._slowed += [slowed] * len(chunk)
        if not throttling and (self._by_device or not slowed):
            self.valid += [one.wall if one.device is None else one.device for one in chunk if not one.launch_bound]

    def samples(self, stopped: Stop, tare: float) -> Samples:
        """All that was kept.

        Args:
            stopped: Why no more rounds were run.
            tare: What the clock reads for an empty call, in seconds.
        """
        device, wall, launch, launch_bound, latencies = zip(*self.rounds, strict=True) if self.rounds else [()] * 5
        return Samples(
            device=None if None in device else np.array(device, dtype=np.float64),
            wall=np.array(wall, dtype=np.float64),
            launch=np.array(launch, dtype=np.float64),
            launch_bound=np.array(launch_bound, dtype=np.bool_),
            throttled=np.array(self._throttled, dtype=np.bool_),
            throttling=tuple(sorted(self._throttling)),
            slowed=np.array(self._slowed, dtype=np.bool_),
            stopped=stopped,
            tare=tare,
            latencies=latencies,
        )
