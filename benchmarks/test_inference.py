"""LeNet's inference: backend x mode x batch size x precision, each row checked for parity before it is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from statistics import median
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.conftest import Built
from lenet import devices
from lenet.backends.base import Backend, BatchRange, BuildSpec, Runner
from lenet.comparison import RowParity, layer_at_fault
from lenet.data.cifar10 import Split
from lenet.measurement.floor import Limits, floor
from lenet.measurement.gpu_state import GpuSampler, throttling_problem
from lenet.measurement.host_state import HostWatch, slowed_problem
from lenet.measurement.memory import peak_memory
from lenet.measurement.protocol import Protocol
from lenet.measurement.recorder import Samples, launch_problem
from lenet.measurement.rounds import measure
from lenet.measurement.statistics import instabilities, summarize
from lenet.parity import Comparison, ParityError, Reference
from lenet.results import Case
from lenet.vocabulary import HostMemory, InputType, Mode, Precision
from lenet.weights import Weights

UNDERCUT = "it is faster than the machine's limits, which were measured while it was busy: measure again"
FINER = "its logits lack the rounding of {}: the library ran a finer arithmetic, which the label does not say"
_QUICK_BUILD = 3.0
"""Seconds a build may take for a wrong row's layer to be looked for at once, by up to nine builds."""


def test_inference(
    benchmark: BenchmarkFixture,
    request: pytest.FixtureRequest,
    store: Callable[[Iterable[float]], None],
    backend: Backend,
    mode: Mode,
    batch_size: int,
    precision: Precision,
    executed: str,
    host_memory: HostMemory,
    input_type: InputType,
    device: torch.device,
    protocol: Protocol,
    sampler: GpuSampler,
    host: HostWatch,
    limits: Callable[[], Limits | None],
    build: Callable[[Backend, BuildSpec], Built],
    shipped: Weights,
    test_split: Split,
    reference_of: Callable[[int, InputType], Reference],
    host_images: Callable[[int, InputType, HostMemory], torch.Tensor],
) -> None:
    cold_cache = request.config.getoption("--cold-cache")
    _skip_what_means_nothing(mode, device, cold_cache=cold_cache)
    reference = reference_of(batch_size, input_type)
    built = build(backend, BuildSpec(device, precision, BatchRange.exactly(batch_size), input_type))
    runner = built.runner
    if mode is Mode.END_TO_END and host_memory is HostMemory.ZERO_COPY and not runner.maps_host_memory:
        pytest.skip(f"{backend.name} does not read the host's memory: zero-copy is not for it")
    with runner.on_stream():
        images = built.buffer(reference.images[:batch_size])
    source = images if mode is Mode.FORWARD else host_images(batch_size, input_type, host_memory)
    call = _call(runner, images, mode, host_memory, source)
    parity = RowParity(call, source, runner, reference, executed)
    with _failing_with_the_layer(backend, shipped, built, reference, executed):
        compared = parity.check_before()

    case = Case(
        backend=backend.name,
        mode=mode,
        asked=precision,
        precision=executed,
        batch_size=batch_size,
        device=devices.describe(device),
        images=test_split.content,
        host_memory=host_memory if mode is Mode.END_TO_END else None,
        cold_cache=cold_cache,
        protocol=request.config.getoption("--protocol"),
        input=input_type,
    )
    machine = limits()
    before = sampler.sample()
    with torch.inference_mode(), runner.on_stream():
        samples = measure(
            call,
            mode=mode,
            stream=runner.stream,
            protocol=protocol,
            cold_cache=cold_cache,
            throttling=sampler.throttling,
            host=host,
        )
        after = sampler.sample()
        peak = peak_memory(call, device)
    with _failing_with_the_layer(backend, shipped, built, reference, executed):
        parity.check_after()
    benchmark.group = f"{mode}, batch {batch_size}, {precision}, {input_type}"
    benchmark.extra_info.update(_facts(case, samples, runner, machine, compared))
    benchmark.extra_info["gpu_before"] = before.as_dict() if before else None
    benchmark.extra_info["gpu_after"] = after.as_dict() if after else None
    benchmark.extra_info["peak_memory_bytes"] = built.taken(peak, zero_copy=case.zero_copy) if peak else None
    store(samples.seconds.tolist())


def _call(
    runner: Runner, images: torch.Tensor, mode: Mode, host_memory: HostMemory, source: torch.Tensor
) -> Callable[[], torch.Tensor]:
    """What a round of the mode does, on the runner's stream.

    Args:
        runner: The backend's.
        images: The batch on the device, where it is copied to end to end.
        mode: What a round covers.
        host_memory: What the batch lies in, end to end.
        source: The batch in that memory.
    """
    if mode is Mode.FORWARD:
        return partial(runner.forward, images)
    if host_memory is HostMemory.ZERO_COPY:
        return partial(runner.forward, source)

    def copy_and_run() -> torch.Tensor:
        images.copy_(source, non_blocking=True)
        return runner.forward(images)

    return copy_and_run


def _skip_what_means_nothing(mode: Mode, device: torch.device, *, cold_cache: bool) -> None:
    if mode is Mode.END_TO_END and device.type == "cpu":
        pytest.skip("on a CPU nothing is copied: end-to-end would repeat forward")
    if cold_cache and (mode is Mode.END_TO_END or device.type == "cpu"):
        pytest.skip("a cold cache is for forward passes on a GPU")


@contextmanager
def _failing_with_the_layer(
    backend: Backend, shipped: Weights, built: Built, reference: Reference, executed: str
) -> Iterator[None]:
    """Fail the row where its logits are wrong, and name the layer where the builds that this takes are quick."""
    try:
        yield
    except ParityError as error:
        where = f"; {error.hint}"
        if built.build_seconds <= _QUICK_BUILD:
            layer = layer_at_fault(backend, shipped.arrays, built.runner.spec, reference.images, executed)
            where = f"; the layer at fault is {layer}" if layer else "; a new build shows no layer at fault"
        pytest.fail(f"{error.summary}: {error.found}{where}", pytrace=False)


def _facts(case: Case, samples: Samples, runner: Runner, limits: Limits | None, compared: Comparison) -> dict[str, Any]:
    """What is stored beside the row's times."""
    seconds = samples.seconds
    summary = summarize(seconds)
    by_device = samples.device is not None
    throttled, slowed = int(samples.throttled.sum()), int(samples.slowed.sum())
    lowest = floor(case.workload, limits) if limits else None
    problems = [
        throttling_problem(throttled, len(samples.throttled), samples.throttling),
        launch_problem(samples) if by_device else slowed_problem(slowed, len(samples.slowed)),
        UNDERCUT if lowest is not None and summary.median < lowest.seconds else None,
        FINER.format(case.precision) if compared.closeness and compared.closeness.finer else None,
    ]
    unstable = [*instabilities(summary), *filter(None, problems)]
    return {
        "case": asdict(case),
        "summary": summary.as_dict(),
        "images_per_second": case.batch_size / summary.median,
        "us_per_image": 1e6 * summary.median / case.batch_size,
        "tare": samples.tare if by_device else None,
        "wall_median": median(samples.wall_seconds.tolist()) if by_device else None,
        "floor": asdict(lowest) if lowest else None,
        "times_floor": summary.median / lowest.seconds if lowest else None,
        "launch_median": median(samples.launch.tolist()),
        "launch_bound_share": float(samples.launch_bound.mean()),
        "throttled": throttled,
        "throttling": list(samples.throttling),
        "slowed": slowed,
        "stopped": samples.stopped,
        "unstable": unstable,
        "facts": runner.facts(zero_copy=case.zero_copy),
        "max_abs_delta": compared.max_abs_delta,
        "share_of_tolerance": compared.max_share,
        "closeness": asdict(compared.closeness) if compared.closeness else None,
    }
