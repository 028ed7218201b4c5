"""The copy of a batch from the host to the GPU alone: the floor of every end-to-end row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from lenet.measurement.protocol import Protocol
from lenet.suite.bridge import Store
from lenet.vocabulary import HostMemory, InputType, Mode

if TYPE_CHECKING:
    import torch

    from lenet.measurement.gpu_state import GpuSampler
    from lenet.measurement.host_state import HostWatch
    from lenet.suite.images import Batches


def test_transfer(
    benchmark: BenchmarkFixture,
    store: Store,
    batch_size: int,
    host_memory: HostMemory,
    input_type: InputType,
    device: torch.device,
    protocol: Protocol,
    sampler: GpuSampler,
    host: HostWatch,
    batches: Batches,
) -> None:
    import torch

    from lenet.measurement.gpu_state import throttling_problem
    from lenet.measurement.host_state import slowed_problem
    from lenet.measurement.rounds import measure
    from lenet.measurement.statistics import instabilities, median, summarize

    if device.type == "cpu" or host_memory is HostMemory.ZERO_COPY:
        pytest.skip("on a CPU nothing is copied" if device.type == "cpu" else "zero-copy copies nothing")
    source = batches.on_host(batch_size, input_type, host_memory)
    target = torch.empty_like(source, device=device)
    stream = torch.cuda.Stream(device)

    def copy() -> None:
        target.copy_(source, non_blocking=True)

    with torch.inference_mode(), torch.cuda.stream(stream):  # outside of the rounds, as in end-to-end rows
        samples = measure(
            copy,
            mode=Mode.END_TO_END,
            stream=stream,
            protocol=protocol,
            throttling=sampler.throttling,
            host=host,
        )
    seconds = samples.seconds.tolist()
    size = source.numel() * source.element_size()
    throttled, slowed = int(samples.throttled.sum()), int(samples.slowed.sum())
    problems = (
        throttling_problem(throttled, len(samples.throttled), samples.throttling),
        slowed_problem(slowed, len(samples.slowed)),
    )
    benchmark.group = "transfer"
    benchmark.extra_info.update({"bytes": size, "gigabytes_per_second": size / median(seconds) / 1e9})
    if unstable := [*instabilities(summarize(seconds)), *filter(None, problems)]:
        benchmark.extra_info["unstable"] = unstable
    store(seconds)
    assert torch.equal(target.cpu(), source)
