"""The state of a GPU around a measurement, from NVML: its clocks, and why they are not higher.

NVML is NVIDIA's management library, which comes with the driver. Its reference: https://docs.nvidia.com/deploy/nvml-api/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Final, Self

import pynvml
import torch

from lenet.measurement.identity import find_gpu
from lenet.measurement.statistics import too_many

__all__ = [
    "HARMFUL",
    "HARMLESS",
    "GpuSampler",
    "GpuState",
    "PcieLink",
    "clock_limits",
    "harmful",
    "throttling_problem",
]

# The bits of nvmlDeviceGetCurrentClocksEventReasons, by the names that NVML's header gives them.
_REASONS: Final = {
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
    0x200: "board_limit",
    0x400: "reliability",
}

HARMFUL: Final = {
    "sw_power_cap": "raise the power limit (`nvidia-smi -pl`), or lock the clocks lower (`nvidia-smi -lgc`)",
    "hw_slowdown": "check the power supply and the cooling, and let the GPU rest",
    "sync_boost": "take the GPU out of its sync boost group",
    "sw_thermal_slowdown": "cool the GPU, or lock the clocks lower (`nvidia-smi -lgc`)",
    "hw_thermal_slowdown": "cool the GPU, or lock the clocks lower (`nvidia-smi -lgc`)",
    "hw_power_brake_slowdown": "check the power supply",
    "board_limit": "lock the clocks lower (`nvidia-smi -lgc`)",
}
"""What holds the clocks below what was asked for, by an outside force that may change in mid-run; with what to do."""

HARMLESS: Final = frozenset(_REASONS.values()) - HARMFUL.keys()
"""What only says that the clocks are where they were set, or that there was nothing to do."""


def clock_limits(mask: int) -> tuple[str, ...]:
    """The names of what limits the clocks.

    Args:
        mask: From ``nvmlDeviceGetCurrentClocksEventReasons``.

    Returns:
        Names in `HARMFUL` or `HARMLESS`, and ``unknown_0x...`` for a bit that newer drivers may set.
    """
    bits = (1 << position for position in range(mask.bit_length()) if mask & 1 << position)
    return tuple(_REASONS.get(bit, f"unknown_{bit:#x}") for bit in bits)


def harmful(limits: Iterable[str]) -> tuple[str, ...]:
    """Those of the limits that make a round count as throttled."""
    return tuple(name for name in limits if name in HARMFUL)


def throttling_problem(throttled: int, rounds: int, limits: Iterable[str]) -> str | None:
    """Why a row is unstable because of throttling, and what to do; None where it is not.

    Args:
        throttled: The number of rounds that were throttled.
        rounds: The number of all rounds.
        limits: What was seen to limit the clocks.
    """
    if not too_many(throttled, rounds):
        return None
    causes = [f"{name}: {HARMFUL[name]}" for name in harmful(limits)]
    return f"{throttled} of {rounds} rounds were throttled ({'; '.join(causes)})"


@dataclass(frozen=True, slots=True)
class PcieLink:
    """A PCIe link, now (it may slow down in idleness) and at the most that card and system can do together."""

    generation: int | None
    width: int | None
    max_generation: int | None
    max_width: int | None


@dataclass(frozen=True, slots=True)
class GpuState:
    """A GPU at one moment. What the GPU does not report is None.

    Attributes:
        sm_clock_mhz: Of its multiprocessors.
        memory_clock_mhz: Of its memory.
        temperature_c: Of the chip, in degrees Celsius.
        power_w: Drawn by the whole board, in watts; averaged over a second on most GPUs since Ampere.
        clock_limits: What keeps the clocks from being higher (see `HARMFUL` and `HARMLESS`).
        pcie: Its link to the host.
    """

    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    temperature_c: int | None
    power_w: float | None
    clock_limits: tuple[str, ...] | None
    pcie: PcieLink

    def as_dict(self) -> dict[str, Any]:
        """The attributes by name, ready for JSON."""
        return asdict(self)


class GpuSampler:
    """Reads the state of one GPU; opened once, since opening NVML takes milliseconds.

    It works on every machine: without a GPU or NVML it has nothing to tell, and says why.

    Args:
        device: The GPU that torch runs on; its NVML handle is found by its UUID, so that ``CUDA_VISIBLE_DEVICES`` and
            CUDA's own order of devices do not matter.

    Attributes:
        missing: Why there is nothing to tell; None where there is.
    """

    def __init__(self, device: torch.device) -> None:
        self.missing: str | None = None
        self._handle: Any = None
        if device.type != "cuda":
            self.missing = f"{device.type} is no NVIDIA GPU"
            return
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            self.missing = f"NVML cannot be opened ({error}): check `nvidia-smi`"
            return
        self._handle = find_gpu(str(torch.cuda.get_device_properties(device).uuid))
        if self._handle is None:
            self.close()
            self.missing = f"NVML does not know {device}: check `nvidia-smi -L`"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of NVML; the sampler has nothing to tell from then on."""
        if self.missing is None:
            self.missing = "the sampler is closed"
            self._handle = None
            pynvml.nvmlShutdown()

    def sample(self) -> GpuState | None:
        """The state of the GPU now, or None where `missing` says why not."""
        if self.missing is not None:
            return None
        power = self.query(pynvml.nvmlDeviceGetPowerUsage)
        mask = self.query(pynvml.nvmlDeviceGetCurrentClocksEventReasons)
        return GpuState(
            sm_clock_mhz=self.query(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_SM),
            memory_clock_mhz=self.query(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_MEM),
            temperature_c=self.query(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU),
            power_w=None if power is None else power / 1000,
            clock_limits=None if mask is None else clock_limits(mask),
            pcie=PcieLink(
                generation=self.query(pynvml.nvmlDeviceGetCurrPcieLinkGeneration),
                width=self.query(pynvml.nvmlDeviceGetCurrPcieLinkWidth),
                max_generation=self.query(pynvml.nvmlDeviceGetMaxPcieLinkGeneration),
                max_width=self.query(pynvml.nvmlDeviceGetMaxPcieLinkWidth),
            ),
        )

    def throttling(self) -> tuple[str, ...]:
        """What harmfully limits the clocks now: one query, cheap enough for a loop of rounds.

        Returns:
            Names in `HARMFUL`; none where the GPU runs freely or does not say.
        """
        mask = self.query(pynvml.nvmlDeviceGetCurrentClocksEventReasons)
        return () if mask is None else harmful(clock_limits(mask))

    def query(self, function: Callable[..., Any], *arguments: object) -> Any:
        """The value of ``function(handle, *arguments)`` of `pynvml`, or None where there is none to be had."""
        if self._handle is None:
            return None
        try:
            return function(self._handle, *arguments)
        except pynvml.NVMLError:
            return None
