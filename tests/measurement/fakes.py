"""Small stand-ins for a GPU and its management library, for machines that have neither."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

from lenet.measurement import clocks, rounds

UUID = "8d2f7c1e-0a4b-4c55-9f3e-1b2a3c4d5e6f"

H100_ANSWERS: dict[str, Any] = {
    "nvmlDeviceGetClockInfo": {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 2619},
    "nvmlDeviceGetMaxClockInfo": {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 2619},
    "nvmlDeviceGetApplicationsClock": {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 2619},
    "nvmlDeviceGetTemperature": {pynvml.NVML_TEMPERATURE_GPU: 34},
    "nvmlDeviceGetPowerUsage": 121_450,
    "nvmlDeviceGetEnforcedPowerLimit": 700_000,
    "nvmlDeviceGetCurrentClocksEventReasons": 0,
    "nvmlDeviceGetCurrPcieLinkGeneration": 5,
    "nvmlDeviceGetCurrPcieLinkWidth": 16,
    "nvmlDeviceGetMaxPcieLinkGeneration": 5,
    "nvmlDeviceGetMaxPcieLinkWidth": 16,
}


class FakeNvml:
    """The functions of `pynvml` that are used, answering for one GPU and recording their names.

    ``answers`` may be changed between calls; an error as an answer is raised.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, uuid: str = f"GPU-{UUID}") -> None:
        self.uuid = uuid
        self.opened = 0
        self.calls: list[str] = []
        self.answers = dict(H100_ANSWERS)
        monkeypatch.setattr(pynvml, "nvmlInit", self._open)
        monkeypatch.setattr(pynvml, "nvmlShutdown", self._close)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", self._handle)
        monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda: "580.159.04")
        for name in self.answers:
            monkeypatch.setattr(pynvml, name, self._query(name))

    def _open(self) -> None:
        self.opened += 1

    def _close(self) -> None:
        self.opened -= 1

    def _handle(self, uuid: str) -> str:
        if uuid != self.uuid:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return "the handle"

    def _query(self, name: str) -> Callable[..., Any]:
        def function(handle: str, *arguments: int) -> Any:
            assert handle == "the handle"
            self.calls.append(name)
            answer = self.answers[name]
            if isinstance(answer, Exception):
                raise answer
            return answer[arguments[0]] if arguments else answer

        return function


def fake_h100(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Let torch see one H100, as far as describing it goes."""
    properties = SimpleNamespace(
        name="NVIDIA H100 80GB HBM3",
        uuid=UUID,
        major=9,
        minor=0,
        total_memory=85_017_755_648,
        multi_processor_count=132,
        L2_cache_size=52_428_800,
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92400)
    return torch.device("cuda", 0)


class FakeGpu:
    """One stream and its host on a simulated time, in seconds.

    Launching takes the host ``launch`` seconds and returns; the stream works through what was launched. Recording an
    event takes the host no time, and the stream ``recording`` seconds. What the stream was told is kept in ``log``.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, launch: float = 5e-6, clock_hz: float = 2e9) -> None:
        self.launch = launch
        self.recording = 0.0
        self.clock_hz = clock_hz
        self.now = 100.0
        self.idle_at = 0.0
        self.log: list[str] = []
        self.stream: Any = SimpleNamespace(device=torch.device("cuda", 0), synchronize=self._synchronize)
        for module in (clocks, rounds):
            monkeypatch.setattr(module, "perf_counter", lambda: self.now)
        monkeypatch.setattr(torch.cuda, "Event", lambda *, enable_timing: FakeEvent(self, timing=enable_timing))
        monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
        monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: self.run(cycles / clock_hz, name="hold"))
        monkeypatch.setattr(torch, "empty", self._buffer)

    def run(self, seconds: float, *, times: int = 1, name: str = "kernel") -> None:
        """Launch kernels that take the stream so long each."""
        for _ in range(times):
            self.now += self.launch
            self.idle_at = max(self.idle_at, self.now) + seconds
            self.log.append(name)

    def _synchronize(self) -> None:
        self.now = max(self.now, self.idle_at)
        self.log.append("synchronize")

    def _buffer(self, size: int, *, dtype: torch.dtype, device: torch.device) -> Any:
        assert device == self.stream.device
        return SimpleNamespace(zero_=lambda: self.run(20e-6, name=f"zero {size * dtype.itemsize} bytes"))


class FakeEvent:
    """An event of a `FakeGpu`."""

    def __init__(self, gpu: FakeGpu, *, timing: bool) -> None:
        assert timing, "without timing, elapsed_time fails"
        self.gpu = gpu
        self.time: float | None = None

    def record(self, stream: object) -> None:
        assert stream is self.gpu.stream, "recorded on another stream than the runner's"
        self.time = self.gpu.idle_at = max(self.gpu.now, self.gpu.idle_at) + self.gpu.recording
        self.gpu.log.append("record")

    def query(self) -> bool:
        return self.time is None or self.time <= self.gpu.now

    def synchronize(self) -> None:
        assert self.time is not None
        self.gpu.now = max(self.gpu.now, self.time)

    def elapsed_time(self, end: FakeEvent) -> float:
        """Milliseconds, as CUDA has it; an event that the device has not passed is an error there."""
        assert self.time is not None
        assert end.time is not None
        assert end.query(), "the end was not waited for"
        return 1e3 * (end.time - self.time)
