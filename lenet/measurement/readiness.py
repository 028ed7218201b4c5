"""What on this machine disturbs measurements now, and what to do about it. Importing this needs no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil
import pynvml

from lenet.measurement.control_groups import group_limits

if TYPE_CHECKING:
    import torch

__all__ = ["BUSY", "OtherWork", "disturbances"]

BUSY: Final = 0.1
"""Other work disturbs when it takes more than this share of the CPUs, or of the GPU's time."""

_GOVERNORS: Final = "sys/devices/system/cpu/cpu{}/cpufreq/scaling_governor"


class OtherWork:
    """How busy other processes keep the CPUs that this process may use."""

    def __init__(self) -> None:
        affinity = getattr(os, "sched_getaffinity", None)
        self.cpus: Sequence[int] = sorted(affinity(0)) if affinity else range(psutil.cpu_count() or 1)
        self._seen = self._look()

    def look(self) -> float:
        """The number of CPUs that other processes kept busy since the last look, on average."""
        earlier, self._seen = self._seen, self._look()
        (busy, own, idle), (busy_then, own_then, idle_then) = self._seen, earlier
        others = max(busy - busy_then - (own - own_then), 0.0)
        passed = busy - busy_then + idle - idle_then
        return len(self.cpus) * others / passed if passed > 0 else 0.0

    def disturbs(self, others: float) -> bool:
        """Whether so many busy CPUs disturb a measurement."""
        return others > BUSY * len(self.cpus)

    def _look(self) -> tuple[float, float, float]:
        """Seconds of all CPUs' work, of this process's and its children's work, and of idleness, so far."""
        busy = idle = 0.0
        for cpu, times in enumerate(psutil.cpu_times(percpu=True)):
            if cpu in self.cpus:
                rest = times.idle + getattr(times, "iowait", 0.0)
                idle += rest
                # Linux counts a guest's time in `user` and `nice` as well.
                guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
                busy += sum(times) - rest - guests
        own = sum(os.times()[:4])
        for child in psutil.Process().children(recursive=True):
            try:
                own += sum(child.cpu_times()[:2])
            except psutil.Error:
                continue
        return busy, own, idle


def disturbances(work: OtherWork, others: float, device: torch.device, root: Path = Path("/")) -> list[str]:
    """A line for everything that disturbs measurements now, each with what to do.

    Args:
        work: Knows the CPUs.
        others: CPUs that other work keeps busy, by `OtherWork.look`.
        device: The device to measure.
        root: The root of the file system, another one in tests.
    """
    return [*_of_the_host(work, others, root), *(_of_the_gpu(device) if device.type == "cuda" else ())]


def _of_the_host(work: OtherWork, others: float, root: Path) -> Iterator[str]:
    total = len(work.cpus)
    if work.disturbs(others):
        yield f"other work keeps {others:.1f} of {total} CPUs busy: end it, or measure when it is over"
    quota = group_limits(root).cpus
    if quota is not None and quota < total:
        yield (
            f"a quota allows {quota:g} of {total} CPUs, and stops threads in mid-round: lift it, or set "
            f"OMP_NUM_THREADS={max(int(quota), 1)}"
        )
    governors = {_text(root / _GOVERNORS.format(cpu)) for cpu in work.cpus}
    if "powersave" in governors:
        yield "the CPU saves power (governor powersave): `sudo cpupower frequency-set --governor performance`"
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    if battery is not None and battery.power_plugged is False:
        yield "the machine runs on its battery: plug it in"


def _of_the_gpu(device: torch.device) -> Iterator[str]:
    from lenet.measurement.gpu_state import HARMFUL, GpuSampler

    with GpuSampler(device) as sampler:
        use = sampler.query(pynvml.nvmlDeviceGetUtilizationRates)
        if use is not None and use.gpu > 100 * BUSY:
            yield f"other work keeps the GPU busy for {use.gpu} % of the time: end it (`nvidia-smi` lists it)"
        for reason in sampler.throttling():
            yield f"the GPU is throttled ({reason}): {HARMFUL[reason]}"
        state, most = sampler.sample(), sampler.query(pynvml.nvmlDeviceGetMaxClockInfo, pynvml.NVML_CLOCK_SM)
        # Locked clocks stay where they are when the GPU is idle.
        if state and most and state.sm_clock_mhz and state.sm_clock_mhz < most / 2:
            yield f"the GPU's clocks are not locked: `sudo nvidia-smi -lgc {most}`, if they are yours to lock"


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
