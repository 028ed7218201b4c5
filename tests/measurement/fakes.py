"""Small stand-ins for a GPU and its management library, for machines that have neither."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

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
        monkeypatch.setattr(pynvml, "nvmlSystemGetCudaDriverVersion_v2", lambda: 13000)
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
    return torch.device("cuda", 0)
