"""Holds a GPU's stream back while a call is queued, so that events around the call read device time alone.

The hold is a kernel that spins for a predicted time and then ends. The host does not release it. A gate that the host
releases, as in nvbench, needs no private API: with `cuda-bindings` a program can compile and launch a kernel that polls
a flag in pinned memory, or call ``cuStreamWaitValue32``. Such a gate would save most of the time of a hold. But it
hangs when the call waits for the device, as at a library's own synchronisation or at the loading of a kernel. nvbench
has hung in this way (NVIDIA/nvbench, issues 136 and 240). The suite does not control the libraries that it times, and
reports a call that waits as launch-bound: a spin always ends. A gate with a time limit in its kernel would end as well.
It is not used, for two reasons. Its times have not been compared with a profiler's on a GPU
(``experiments/timer_check.py``). And PyTorch 2.9, the oldest supported, does not install `cuda-bindings`.
"""

from __future__ import annotations

from typing import Final

import torch

__all__ = ["LONGEST_HOLD", "HeldStart", "hold", "sm_clock_hz", "timing_event"]

HOLD_MARGIN: Final = 4.0
"""Length of a hold, as a multiple of the time that the call took to queue just before."""

SHORTEST_HOLD: Final = 1e-3
"""Seconds. Such a hold costs little, and covers the noise of a short launch."""

LONGEST_HOLD: Final = 0.1
"""Seconds. A call that takes longer to queue, or that waits for the device, is reported as launch-bound."""

CALIBRATION_CYCLES: Final = 2_000_000
"""Cycles of the spin that measures the SM clock: about a millisecond, so that its ends do not matter."""

WAKING_CYCLES: Final = 40_000_000
"""Cycles of the spin that wakes a GPU: about 20 ms. An idle GPU takes milliseconds to raise its clocks."""


class HeldStart:
    """Makes a GPU's stream idle and holds it back; can empty the GPU's L2 cache first.

    nvbench prepares a sample in the same order (NVIDIA/nvbench, ``nvbench/detail/measure_cold.cuh``): zero a buffer of
    the cache's size, synchronise, block the stream.

    Args:
        stream: The stream to hold back.
        cold_cache: Whether to empty the cache.
    """

    def __init__(self, stream: torch.cuda.Stream, *, cold_cache: bool = False) -> None:
        self._stream = stream
        self._clock = sm_clock_hz(stream)
        self._hold = SHORTEST_HOLD
        self._buffer: torch.Tensor | None = None
        if cold_cache:
            size = torch.cuda.get_device_properties(stream.device).L2_cache_size
            with torch.cuda.stream(stream):
                self._buffer = torch.empty(size, dtype=torch.uint8, device=stream.device)

    def __call__(self) -> None:
        """Make the stream idle, and hold it back: what is launched next is queued, and does not start."""
        self.idle()
        with torch.cuda.stream(self._stream):
            _spin(int(self._hold * self._clock))

    def idle(self) -> None:
        """Empty the cache if that was asked for, and wait until the stream has nothing to do."""
        if self._buffer is not None:
            with torch.cuda.stream(self._stream):
                self._buffer.zero_()
        self._stream.synchronize()

    def fit(self, launch: float) -> None:
        """Set the length of the next holds.

        Args:
            launch: Seconds that the call takes to queue.
        """
        self._hold = min(max(HOLD_MARGIN * launch, SHORTEST_HOLD), LONGEST_HOLD)


def sm_clock_hz(stream: torch.cuda.Stream) -> float:
    """The clock of the GPU's multiprocessors under load, in Hz: the cycles of a spinning kernel over its time.

    It needs no NVML. It takes about 20 ms, and leaves the GPU awake.
    """
    start, end = timing_event(), timing_event()
    with torch.cuda.stream(stream):
        _spin(WAKING_CYCLES)
        start.record(stream)
        _spin(CALIBRATION_CYCLES)
        end.record(stream)
    end.synchronize()
    seconds: float = start.elapsed_time(end) / 1e3
    return CALIBRATION_CYCLES / seconds


def hold(stream: torch.cuda.Stream, seconds: float) -> None:
    """Queue a kernel on a stream that holds back what is queued there next, for about so long or a millisecond."""
    with torch.cuda.stream(stream):
        _spin(int(CALIBRATION_CYCLES * max(1e3 * seconds, 1.0)))


def timing_event() -> torch.cuda.Event:
    """A CUDA event that records its time."""
    return torch.cuda.Event(enable_timing=True)


def _spin(cycles: int) -> None:
    """Queue a kernel on the current stream that does nothing for so many cycles of the SM clock."""
    torch.cuda._sleep(cycles)  # noqa: SLF001 - PyTorch times its own streams with it
