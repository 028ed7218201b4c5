"""What disturbs measurements now."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lenet.measurement import gpu_state, readiness
from lenet.measurement.control_groups import GroupLimits
from lenet.measurement.readiness import OtherWork, disturbances

CPU = torch.device("cpu")


def idle_machine(monkeypatch: pytest.MonkeyPatch, quota: float | None = None, *, plugged: bool = True) -> OtherWork:
    monkeypatch.setattr(readiness, "group_limits", lambda _: GroupLimits(quota, None))
    monkeypatch.setattr(psutil, "sensors_battery", lambda: SimpleNamespace(power_plugged=plugged), raising=False)
    work = OtherWork()
    work.cpus = [0, 1]
    return work


def test_a_quiet_machine_gets_no_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert disturbances(idle_machine(monkeypatch, quota=2.0), 0.0, CPU, tmp_path) == []


def test_each_disturbance_is_a_line_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    governor = tmp_path / "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor"
    governor.parent.mkdir(parents=True)
    governor.write_text("powersave\n")
    found = disturbances(idle_machine(monkeypatch, quota=1.5, plugged=False), 1.5, CPU, tmp_path)
    assert found == [
        "other work keeps 1.5 of 2 CPUs busy: end it, or measure when it is over",
        "a quota allows 1.5 of 2 CPUs, and stops threads in mid-round: lift it, or set OMP_NUM_THREADS=1",
        "the CPU saves power (governor powersave): `sudo cpupower frequency-set --governor performance`",
        "the machine runs on its battery: plug it in",
    ]


def test_a_gpu_that_others_use_or_that_is_not_locked_gets_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Sampler:
        def __init__(self, device: torch.device) -> None: ...

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

        def query(self, function: Any, *_: object) -> Any:
            return SimpleNamespace(gpu=87) if "Utilization" in function.__name__ else 1980

        def throttling(self) -> tuple[str, ...]:
            return ("sw_power_cap",)

        def sample(self) -> Any:
            return SimpleNamespace(sm_clock_mhz=345)

    monkeypatch.setattr(gpu_state, "GpuSampler", Sampler)
    busy, throttled, unlocked = disturbances(idle_machine(monkeypatch), 0.0, torch.device("cuda", 0), tmp_path)
    assert busy == "other work keeps the GPU busy for 87 % of the time: end it (`nvidia-smi` lists it)"
    assert throttled.startswith("the GPU is throttled (sw_power_cap): raise the power limit")
    assert "nvidia-smi -lgc 1980" in unlocked


@given(busy=st.integers(0, 100), own=st.integers(0, 100), idle=st.integers(0, 100))
def test_other_work_is_what_is_neither_idle_nor_this_process_s(busy: int, own: int, idle: int) -> None:
    work = OtherWork()
    work.cpus = [0, 1]
    looks = iter([(5.0, 1.0, 7.0), (5.0 + busy, 1.0 + own, 7.0 + idle)])
    work._look = lambda: next(looks)  # type: ignore[method-assign]
    work.look()
    found = work.look()
    assert 0 <= found <= 2
    if busy <= own:
        assert found == 0
    elif idle == own == 0:
        assert found == pytest.approx(2)


@pytest.mark.programs
def test_own_work_and_that_of_children_is_no_other_work() -> None:
    """The kernel counts in hundredths of a second, hence the margin."""
    work = OtherWork()
    busy = "import time\nend = time.monotonic() + 1\nwhile time.monotonic() < end: pass"
    with subprocess.Popen([sys.executable, "-c", busy]) as child:
        time.sleep(0.7)
        seen, own, _ = work._look()
        child.wait()
    assert own - work._seen[1] > 0.1, "the child's time is this process's"
    assert seen >= work._seen[0]
