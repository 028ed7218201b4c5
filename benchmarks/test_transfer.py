"""The copy of a batch from the host to the GPU alone: the floor of every end-to-end row."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from lenet.measurement.clocks import Protocol, measure
from lenet.measurement.modes import Mode
from lenet.parity import Reference


def test_transfer(
    benchmark: BenchmarkFixture,
    store: Callable[[Iterable[float]], None],
    batch_size: int,
    host_memory: str,
    device: torch.device,
    protocol: Protocol,
    reference_of: Callable[[int], Reference],
) -> None:
    if device.type == "cpu":
        pytest.skip("on a CPU nothing is copied")
    host = reference_of(batch_size).images
    source = host.pin_memory() if host_memory == "pinned" else host
    target = torch.empty_like(host, device=device)
    stream = torch.cuda.Stream(device)

    def copy() -> None:
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)

    samples = measure(copy, mode=Mode.END_TO_END, stream=stream, protocol=protocol)
    seconds = samples.seconds
    size = host.numel() * host.element_size()
    benchmark.group = "transfer"
    benchmark.extra_info.update({"bytes": size, "gigabytes_per_second": size / float(seconds.mean()) / 1e9})
    store(seconds.tolist())
    assert torch.equal(target.cpu(), host)
