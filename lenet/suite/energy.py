"""The energy of rows, if ``--energy`` asks for it. It is measured after a row's rounds, so that no time holds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pynvml
import torch

from lenet.backends.base import Runner
from lenet.devices import no_garbage_collection
from lenet.measurement.energy import Counter, NoEnergyError, NvmlCounter, RaplCounter, idle_power, measure_energy
from lenet.measurement.gpu_state import GpuSampler
from lenet.results import Case
from lenet.vocabulary import Mode

__all__ = ["CHUNK", "EnergyMeter", "passes"]

CHUNK: Final = 0.01
"""Seconds of work between two looks at the clock."""


class EnergyMeter:
    """Measures the energy of rows. Idle power is measured once, after the first row's rounds.

    Args:
        device: The device to measure.
        sampler: Reads the GPU.
        notes: Gets each reason why rows have no energy, once.
        asked: Whether energy is asked for.
    """

    def __init__(self, device: torch.device, sampler: GpuSampler, notes: list[str], *, asked: bool) -> None:
        self._device = device
        self._sampler = sampler
        self._notes = notes
        self._asked = asked
        self._missing: str | None = None
        self._idle: tuple[Counter, float] | None = None

    def __call__(self, work: Callable[[], int], runner: Runner, case: Case) -> dict[str, Any]:
        """Measure a row's energy.

        Args:
            work: Does about `CHUNK` seconds of the row's work to its end, and returns its number of images.
            runner: Its runner.
            case: What the row measures.

        Returns:
            The facts to store: ``energy``, or the reason why there is none. Empty if energy is not asked for.
        """
        if not self._asked:
            return {}
        try:
            if case.cold_cache:
                raise NoEnergyError(
                    "a cold cache is emptied between passes, which takes energy too: leave out --cold-cache"
                )
            counter, watts = self._ready()
            with torch.inference_mode(), runner.on_stream(), no_garbage_collection():
                found = measure_energy(work, counter, watts)
        except NoEnergyError as error:
            note = f"Energy was not measured: {error}."
            if note not in self._notes:
                self._notes.append(note)
            return {"energy": None, "energy_missing": str(error)}
        return {"energy": found.to_json(), "energy_missing": None}

    def _ready(self) -> tuple[Counter, float]:
        """The device's counter and its idle power."""
        if self._missing is not None:
            raise NoEnergyError(self._missing)
        if self._idle is None:
            try:
                counter = self._counter()
                self._idle = counter, idle_power(counter)
            except NoEnergyError as error:
                self._missing = str(error)
                raise
        return self._idle

    def _counter(self) -> Counter:
        if self._device.type != "cuda":
            return RaplCounter()
        if self._sampler.missing is not None:
            raise NoEnergyError(self._sampler.missing)
        return NvmlCounter(lambda: self._sampler.query(pynvml.nvmlDeviceGetTotalEnergyConsumption))


def passes(call: Callable[[], object], runner: Runner, case: Case, median: float) -> Callable[[], int]:
    """The work of a row of one batch at a time. End to end, each pass is synchronised.

    Args:
        call: The call that the rounds timed.
        runner: Its runner.
        case: What the row measures.
        median: The row's median, in seconds.
    """
    calls = max(1, round(CHUNK / median))
    each = case.mode is Mode.END_TO_END

    def work() -> int:
        for _ in range(calls):
            call()
            if each:
                runner.synchronize()
        runner.synchronize()
        return calls * case.batch_size

    return work
