from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from lenet import devices
from lenet.errors import DeviceError


def test_auto_and_cpu_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.resolve("auto") == devices.resolve("cpu") == torch.device("cpu")
    with pytest.raises(DeviceError, match=r"(?s)--device cuda: there is no CUDA device.*torch .*--device cpu"):
        devices.resolve("cuda")


def test_auto_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert devices.resolve("auto") == devices.resolve("cuda") == torch.device("cuda:0")
    assert devices.resolve("cpu") == torch.device("cpu")


def test_each_process_of_torchrun_gets_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: chosen[-1])
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert devices.resolve("cuda") == torch.device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(DeviceError, match=r"(?s)no GPU for process 2.*found:  2 GPUs.*--nproc-per-node=2"):
        devices.resolve("auto")


def test_a_cpu_is_described_with_its_threads() -> None:
    before = torch.get_num_threads()
    try:
        devices.set_threads(2)
        assert devices.describe(torch.device("cpu")) == "CPU, 2 threads"
        devices.set_threads(None)
        assert torch.get_num_threads() == 2
        devices.set_threads(1)
        assert devices.describe(torch.device("cpu")) == "CPU, 1 thread"
    finally:
        torch.set_num_threads(before)


def test_nothing_disturbs_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what a GPU would notice, a CPU can tell that the collector is off, and how the capture was begun."""
    seen: list[object] = []

    @contextmanager
    def capture(graph: object, *, stream: object, capture_error_mode: str) -> Iterator[None]:
        seen.extend((graph, stream, capture_error_mode, gc.isenabled()))
        yield
        seen.append(gc.isenabled())

    monkeypatch.setattr(torch.cuda, "graph", capture)
    with devices.capturing("graph", "stream"):  # type: ignore[arg-type]
        assert not gc.isenabled()
    assert gc.isenabled()
    assert seen == ["graph", "stream", "thread_local", False, False]
