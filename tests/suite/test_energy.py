"""Which energy a row gets, and what it says where there is none."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pynvml
import pytest
import torch

from lenet.backends.base import Runner
from lenet.measurement.energy import NoEnergyError, idle_power, measure_energy
from lenet.measurement.gpu_state import GpuSampler
from lenet.results import Case
from lenet.suite import energy
from lenet.suite.energy import EnergyMeter, passes
from lenet.vocabulary import Mode
from tests.measurement.fakes import FakeNvml, fake_h100
from tests.measurement.test_energy import Machine
from tests.report.tables.examples import CASE

CPU = torch.device("cpu")


class Device:
    """A runner and its device: a call takes the device a millisecond of work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.machine = Machine(idle=50, busy=250)
        self.log: list[str] = []
        clock = self.machine.clock
        monkeypatch.setattr(energy, "RaplCounter", lambda: self.machine)
        monkeypatch.setattr(energy, "idle_power", partial(idle_power, clock=clock, sleep=self._sleep))
        monkeypatch.setattr(energy, "measure_energy", partial(measure_energy, clock=clock))

    def _sleep(self, seconds: float) -> None:
        self.log.append("rest")
        self.machine.sleep(seconds)

    def call(self) -> None:
        self.log.append("call")
        self.machine.chunk = 1e-3
        self.machine.work()

    def on_stream(self) -> AbstractContextManager[None]:
        return nullcontext()

    def synchronize(self) -> None:
        self.log.append("wait")

    def measure(self, meter: EnergyMeter, case: Case = CASE) -> dict[str, Any]:
        runner = cast("Runner", self)
        return meter(passes(self.call, runner, case, 1e-3), runner, case)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(monkeypatch)


def meter(notes: list[str], where: torch.device = CPU, *, asked: bool = True) -> EnergyMeter:
    return EnergyMeter(where, GpuSampler(where), notes, asked=asked)


def test_a_row_has_its_energy_and_idle_power_is_measured_once(device: Device) -> None:
    measured = meter([])
    first = device.measure(measured)["energy"]
    assert first["idle_watts"] == pytest.approx(50, rel=0.01)
    assert first["joules_per_1000_images"] == pytest.approx(250 * 1e-3, rel=0.02)  # of batches of 1000
    assert first["joules_above_idle_per_1000_images"] == pytest.approx(200 * 1e-3, rel=0.03)
    assert device.log[-11:] == [*["call"] * 10, "wait"]  # about a hundredth of a second of work
    rests = device.log.count("rest")
    assert device.measure(measured)["energy_missing"] is None
    assert device.log.count("rest") == rests


def test_end_to_end_each_call_is_waited_for(device: Device) -> None:
    case = replace(CASE, mode=Mode.END_TO_END, host_memory="pinned")
    assert device.measure(meter([]), case)["energy"] is not None
    assert device.log[-21:] == [*["call", "wait"] * 10, "wait"]


def test_without_the_option_nothing_runs(device: Device) -> None:
    notes: list[str] = []
    assert device.measure(meter(notes, asked=False)) == {}
    assert (device.log, notes) == ([], [])


def test_a_reason_is_stored_with_each_row_and_told_once(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Machine:
        device.log.append("looked")
        raise NoEnergyError("this machine has no RAPL")

    monkeypatch.setattr(energy, "RaplCounter", missing)
    notes: list[str] = []
    measured = meter(notes)
    for _ in range(2):
        assert device.measure(measured) == {"energy": None, "energy_missing": "this machine has no RAPL"}
    assert notes == ["Energy was not measured: this machine has no RAPL."]
    assert device.log == ["looked"]


def test_a_counter_that_fails_in_a_row_leaves_the_next_row_its_energy(device: Device) -> None:
    notes: list[str] = []
    measured = meter(notes)
    assert device.measure(measured)["energy"] is not None
    device.machine.step = 1e9
    assert "stood still" in device.measure(measured)["energy_missing"]
    device.machine.step = 0.1
    assert device.measure(measured)["energy"] is not None
    assert len(notes) == 1


def test_a_cold_cache_has_no_energy(device: Device) -> None:
    assert "cold cache" in device.measure(meter([]), replace(CASE, cold_cache=True))["energy_missing"]
    assert device.log == []


def test_a_gpu_is_asked_by_nvml(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml, gpu = FakeNvml(monkeypatch), fake_h100(monkeypatch)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", lambda _: int(1e3 * device.machine.read()))
    found = device.measure(meter([], gpu))["energy"]
    assert found["counter"] == "NVML"
    assert found["joules"] / found["seconds"] == pytest.approx(250, rel=0.02)

    def unsupported(_: object) -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", unsupported)
    assert "NVML tells no energy" in device.measure(meter([], gpu))["energy_missing"]
    nvml.uuid = "another"
    assert "NVML does not know cuda:0" in device.measure(meter([], gpu))["energy_missing"]
