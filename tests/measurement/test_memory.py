from __future__ import annotations

import pytest
import torch

from lenet.measurement.memory import PeakMemory, allocated, free_workspaces, peak_memory

MIB = 1 << 20
CUDA = torch.device("cuda", 0)

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


class FakeDeviceMemory:
    """PyTorch's allocator, and a library beside it, on one device of 1000 MiB."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.allocated = self.peak = self.reserved = self.elsewhere = self.queued = 0
        monkeypatch.setattr(torch.cuda, "synchronize", self._synchronize)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", self._reset)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: self.peak)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: self.reserved)
        monkeypatch.setattr(torch.cuda, "mem_get_info", self._info)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: self.allocated)

    def allocate(self, size: int) -> None:
        self.allocated += size
        self.peak = max(self.peak, self.allocated)
        self.reserved = max(self.reserved, self.allocated)

    def free(self, size: int) -> None:
        self.allocated -= size

    def _synchronize(self, _: torch.device) -> None:
        """What a library has queued to allocate (``cudaMallocAsync``) is taken when its stream comes to it."""
        self.elsewhere, self.queued = self.elsewhere + self.queued, 0

    def _reset(self, _: torch.device) -> None:
        self.peak = self.allocated

    def _info(self, _: torch.device) -> tuple[int, int]:
        return 1000 * MIB - self.reserved - self.elsewhere, 1000 * MIB


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> FakeDeviceMemory:
    return FakeDeviceMemory(monkeypatch)


def test_the_peak_holds_what_was_there_and_what_was_freed_again(memory: FakeDeviceMemory) -> None:
    def call() -> None:
        memory.allocate(40 * MIB)
        memory.free(40 * MIB)

    memory.allocate(10 * MIB)

    assert peak_memory(call, CUDA) == PeakMemory(allocated=50 * MIB, outside=0)


def test_an_earlier_peak_does_not_count(memory: FakeDeviceMemory) -> None:
    memory.allocate(500 * MIB)
    memory.free(500 * MIB)

    assert peak_memory(lambda: memory.allocate(MIB), CUDA) == PeakMemory(allocated=MIB, outside=0)


def test_what_another_library_takes_is_counted_once(memory: FakeDeviceMemory) -> None:
    def call() -> None:
        memory.allocate(30 * MIB)
        memory.elsewhere += 200 * MIB

    memory.elsewhere = 5 * MIB
    found = peak_memory(call, CUDA)

    assert found == PeakMemory(allocated=30 * MIB, outside=200 * MIB)
    assert found.total == 230 * MIB


def test_what_is_queued_is_waited_for_and_what_was_before_is_not_the_call_s(memory: FakeDeviceMemory) -> None:
    def call() -> None:
        memory.queued += 20 * MIB

    memory.queued = 500 * MIB

    assert peak_memory(call, CUDA) == PeakMemory(allocated=0, outside=20 * MIB)


def test_what_others_free_is_not_negative(memory: FakeDeviceMemory) -> None:
    def call() -> None:
        memory.elsewhere = 0

    memory.elsewhere = 100 * MIB

    assert peak_memory(call, CUDA) == PeakMemory(allocated=0, outside=0)


def test_what_cublas_keeps_is_given_back(memory: FakeDeviceMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    # PyTorch without CUDA has none.
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: memory.free(33 * MIB), raising=False)
    memory.allocate(40 * MIB)

    free_workspaces(torch.device("cpu"))
    assert (allocated(CUDA), allocated(torch.device("cpu"))) == (40 * MIB, 0)
    free_workspaces(CUDA)
    assert allocated(CUDA) == 7 * MIB


def test_what_is_held_before_is_not_the_call_s_and_no_memory_is_negative() -> None:
    peak = PeakMemory(allocated=30 * MIB, outside=2 * MIB)

    assert [peak.beyond(held) for held in (0, 31 * MIB, 32 * MIB, 33 * MIB)] == [32 * MIB, MIB, 0, None]


def test_there_is_none_on_a_cpu_but_the_call_is_run() -> None:
    calls: list[str] = []

    assert peak_memory(lambda: calls.append("run"), torch.device("cpu")) is None
    assert calls == ["run"]


@needs_gpu
def test_a_real_allocation_is_seen() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    found = peak_memory(lambda: torch.zeros(64 * MIB, dtype=torch.uint8, device=device), device)

    assert found is not None
    assert 64 * MIB <= found.allocated < 80 * MIB
