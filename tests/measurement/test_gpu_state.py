from __future__ import annotations

import json

import pynvml
import pytest
import torch

from lenet.measurement.gpu_state import (
    HARMFUL,
    HARMLESS,
    GpuSampler,
    PcieLink,
    clock_limits,
    harmful,
    throttling_problem,
)
from tests.measurement.fakes import UUID, FakeNvml, fake_h100

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    return FakeNvml(monkeypatch)


@pytest.fixture
def h100(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    return fake_h100(monkeypatch)


@pytest.mark.parametrize(
    ("mask", "names"),
    [
        (pynvml.nvmlClocksEventReasonNone, ()),
        (pynvml.nvmlClocksEventReasonGpuIdle, ("gpu_idle",)),
        (pynvml.nvmlClocksEventReasonApplicationsClocksSetting, ("applications_clocks_setting",)),
        (pynvml.nvmlClocksEventReasonSwPowerCap, ("sw_power_cap",)),
        (pynvml.nvmlClocksThrottleReasonHwSlowdown, ("hw_slowdown",)),
        (pynvml.nvmlClocksEventReasonSyncBoost, ("sync_boost",)),
        (pynvml.nvmlClocksEventReasonSwThermalSlowdown, ("sw_thermal_slowdown",)),
        (pynvml.nvmlClocksThrottleReasonHwThermalSlowdown, ("hw_thermal_slowdown",)),
        (pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown, ("hw_power_brake_slowdown",)),
        (pynvml.nvmlClocksEventReasonDisplayClockSetting, ("display_clock_setting",)),
        (0x200, ("board_limit",)),
        (0x400, ("reliability",)),
        (0x4 | 0x20, ("sw_power_cap", "sw_thermal_slowdown")),
        (1 << 40, ("unknown_0x10000000000",)),
    ],
)
def test_each_bit_of_nvml_has_its_name(mask: int, names: tuple[str, ...]) -> None:
    assert clock_limits(mask) == names


def test_idle_and_chosen_clocks_are_harmless_and_slowdowns_are_not() -> None:
    assert {"gpu_idle", "applications_clocks_setting", "display_clock_setting"} <= HARMLESS
    assert harmful(["gpu_idle", "sw_power_cap", "hw_slowdown", "unknown_0x800"]) == ("sw_power_cap", "hw_slowdown")
    assert not HARMLESS & HARMFUL.keys()


@pytest.mark.parametrize(("throttled", "unstable"), [(0, False), (20, False), (21, True), (100, True)])
def test_a_row_is_unstable_when_more_than_a_fifth_of_it_was_throttled(throttled: int, *, unstable: bool) -> None:
    problem = throttling_problem(throttled, 100, ("sw_power_cap",))

    assert (problem is not None) == unstable


def test_an_unstable_row_says_why_and_what_to_do() -> None:
    problem = throttling_problem(30, 100, ("gpu_idle", "sw_power_cap"))

    assert problem is not None
    assert problem.startswith("30 of 100 rounds were throttled (sw_power_cap: raise the power limit")
    assert "nvidia-smi" in problem
    assert "gpu_idle" not in problem


def test_a_sample_tells_clocks_temperature_power_and_link(nvml: FakeNvml, h100: torch.device) -> None:
    nvml.answers["nvmlDeviceGetCurrentClocksEventReasons"] = 0x4
    nvml.answers["nvmlDeviceGetCurrPcieLinkWidth"] = 8

    state = GpuSampler(h100).sample()

    assert state is not None
    assert (state.sm_clock_mhz, state.memory_clock_mhz) == (1980, 2619)
    assert (state.temperature_c, state.power_w) == (34, 121.45)
    assert state.clock_limits == ("sw_power_cap",)
    assert state.pcie == PcieLink(generation=5, width=8, max_generation=5, max_width=16)
    assert json.loads(json.dumps(state.as_dict()))["pcie"]["width"] == 8


def test_what_the_gpu_does_not_report_is_none(nvml: FakeNvml, h100: torch.device) -> None:
    unsupported = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    nvml.answers = dict.fromkeys(nvml.answers, unsupported)

    sampler = GpuSampler(h100)
    state = sampler.sample()

    assert state is not None
    assert state.sm_clock_mhz is None
    assert state.power_w is None
    assert state.clock_limits is None
    assert state.pcie == PcieLink(None, None, None, None)
    assert sampler.throttling() == ()


def test_throttling_is_one_query(nvml: FakeNvml, h100: torch.device) -> None:
    sampler = GpuSampler(h100)
    nvml.answers["nvmlDeviceGetCurrentClocksEventReasons"] = 0x1 | 0x40
    nvml.calls.clear()

    assert sampler.throttling() == ("hw_thermal_slowdown",)
    assert nvml.calls == ["nvmlDeviceGetCurrentClocksEventReasons"]


def test_the_handle_is_found_by_the_uuid_that_torch_sees(monkeypatch: pytest.MonkeyPatch, h100: torch.device) -> None:
    FakeNvml(monkeypatch, uuid=f"MIG-{UUID}")

    assert GpuSampler(h100).missing is None


def test_a_gpu_that_nvml_does_not_know_is_said_to_be_missing(
    monkeypatch: pytest.MonkeyPatch, h100: torch.device
) -> None:
    nvml = FakeNvml(monkeypatch, uuid="GPU-another")

    sampler = GpuSampler(h100)

    assert sampler.missing == "NVML does not know cuda:0: check `nvidia-smi -L`"
    assert sampler.sample() is None
    assert nvml.opened == 0


def test_nvml_is_closed_once(nvml: FakeNvml, h100: torch.device) -> None:
    with GpuSampler(h100) as sampler:
        assert nvml.opened == 1
    assert nvml.opened == 0
    sampler.close()

    assert nvml.opened == 0
    assert sampler.sample() is None
    assert sampler.throttling() == ()
    assert sampler.missing == "the sampler is closed"


def test_without_nvml_the_sampler_says_why(monkeypatch: pytest.MonkeyPatch, h100: torch.device) -> None:
    def absent() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", absent)
    sampler = GpuSampler(h100)

    assert sampler.missing == "NVML cannot be opened (NVML Shared Library Not Found): check `nvidia-smi`"
    assert sampler.sample() is None


def test_on_a_cpu_the_sampler_opens_nothing(nvml: FakeNvml) -> None:
    sampler = GpuSampler(torch.device("cpu"))

    assert sampler.missing == "cpu is no NVIDIA GPU"
    assert sampler.sample() is None
    assert sampler.throttling() == ()
    assert nvml.opened == 0


@needs_gpu
def test_a_real_gpu_reports_plausible_clocks_and_link() -> None:
    with GpuSampler(torch.device("cuda", torch.cuda.current_device())) as sampler:
        assert sampler.missing is None
        state = sampler.sample()

    assert state is not None
    assert state.sm_clock_mhz is not None
    assert 100 <= state.sm_clock_mhz <= 5000
    assert state.temperature_c is not None
    assert 0 < state.temperature_c < 110
    assert state.clock_limits is not None
    assert not [name for name in state.clock_limits if name.startswith("unknown")]
