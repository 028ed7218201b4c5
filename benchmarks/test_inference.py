"""LeNet's inference: backend x mode x batch size x precision. Each row's parity is checked before it is timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from lenet import devices
from lenet.backends.base import Backend, BatchRange, BuildSpec, Runner
from lenet.comparison import RowParity
from lenet.data.cifar10 import Split
from lenet.measurement.gpu_state import GpuSampler
from lenet.measurement.host_state import HostWatch
from lenet.measurement.memory import peak_memory
from lenet.measurement.protocol import Protocol
from lenet.measurement.rounds import measure
from lenet.quantization import Scales
from lenet.results import Case
from lenet.suite.bridge import Store
from lenet.suite.builds import Builds
from lenet.suite.energy import EnergyMeter
from lenet.suite.facts import failing_with_the_layer, row_facts
from lenet.suite.fixtures import MachineLimits
from lenet.suite.images import Batches
from lenet.suite.options import chosen
from lenet.suite.sustained import Measured, depth_of, run_sustained
from lenet.vocabulary import HostMemory, InputType, Mode, Precision
from lenet.weights import Weights, digest


@pytest.fixture
def spec(
    device: torch.device, precision: Precision, batch_size: int, input_type: InputType, scales: Scales | None
) -> BuildSpec:
    return BuildSpec(device, precision, BatchRange.exactly(batch_size), input_type, scales)


@pytest.fixture
def case(
    request: pytest.FixtureRequest,
    backend: Backend,
    spec: BuildSpec,
    mode: Mode,
    batch_size: int,
    executed: str,
    host_memory: HostMemory,
    threads: int | None,
    network: Weights,
    test_split: Split,
) -> Case:
    """What the row measures, or a skip if that means nothing."""
    cold_cache = request.config.getoption("--cold-cache")
    _skip_what_means_nothing(mode, spec.device, cold_cache=cold_cache)
    on_host = mode is Mode.END_TO_END or (mode is Mode.THROUGHPUT and spec.device.type != "cpu")
    if mode is Mode.THROUGHPUT and not on_host and host_memory != chosen(request.config, "host_memory")[0]:
        pytest.skip("without a copy one host memory is enough")
    return Case(
        backend=backend.name,
        mode=mode,
        asked=spec.precision,
        precision=executed,
        batch_size=batch_size,
        device=devices.describe(spec.device),
        images=test_split.content,
        host_memory=host_memory if on_host else None,
        cold_cache=cold_cache,
        protocol=request.config.getoption("--protocol"),
        input=spec.input,
        weights=digest(network.arrays),
        threads=threads,
        depth=depth_of(request.config, spec.device) if mode is Mode.THROUGHPUT else None,
    )


def test_inference(
    request: pytest.FixtureRequest,
    benchmark: BenchmarkFixture,
    store: Store,
    backend: Backend,
    spec: BuildSpec,
    case: Case,
    protocol: Protocol,
    sampler: GpuSampler,
    host: HostWatch,
    limits: MachineLimits,
    build: Builds,
    network: Weights,
    batches: Batches,
    energy: EnergyMeter,
) -> None:
    reference = batches.reference(case.batch_size, spec.input)
    built = build(backend, spec)
    runner = built.runner
    if case.zero_copy and not runner.maps_host_memory:
        pytest.skip(f"{backend.name} does not read the host's memory: zero-copy is not for it")
    with runner.on_stream():
        images = built.buffer(reference.images[: case.batch_size])
    call, source = _call(runner, images, case, batches)
    parity = RowParity(call, source, runner, reference, case.precision)
    with failing_with_the_layer(backend, network, built, reference, case.precision):
        compared = parity.check_before()

    machine = limits.find()
    before = sampler.sample()
    run = partial(_run_one_batch, call, case, runner)
    if case.mode is Mode.THROUGHPUT:
        request.addfinalizer(build.close)  # what a runner keeps of a ring would count as other rows' memory
        run = partial(run_sustained, case, backend, built, network.arrays, batches)
    with failing_with_the_layer(backend, network, built, reference, case.precision):
        samples, throughput, peak = run(protocol, sampler, host)
    after = sampler.sample()
    with failing_with_the_layer(backend, network, built, reference, case.precision):
        parity.check_after()
    benchmark.group = f"{case.mode}, batch {case.batch_size}, {spec.precision}, {spec.input}"
    benchmark.extra_info.update(row_facts(case, samples, runner, machine, compared))
    benchmark.extra_info.update(energy(call, runner, case, benchmark.extra_info["summary"]["median"]))
    benchmark.extra_info.update({"throughput": asdict(throughput)} if throughput else {})
    benchmark.extra_info["gpu_before"] = before.as_dict() if before else None
    benchmark.extra_info["gpu_after"] = after.as_dict() if after else None
    benchmark.extra_info["peak_memory_bytes"] = built.taken(peak, zero_copy=case.zero_copy) if peak else None
    store(samples.seconds.tolist())


def _run_one_batch(
    call: Callable[[], torch.Tensor],
    case: Case,
    runner: Runner,
    protocol: Protocol,
    sampler: GpuSampler,
    host: HostWatch,
) -> Measured:
    """Measure a row of one batch at a time."""
    with torch.inference_mode(), runner.on_stream():
        samples = measure(
            call,
            mode=case.mode,
            stream=runner.stream,
            protocol=protocol,
            cold_cache=case.cold_cache,
            throttling=sampler.throttling,
            host=host,
        )
        return Measured(samples, None, peak_memory(call, runner.spec.device))


def _call(
    runner: Runner, images: torch.Tensor, case: Case, batches: Batches
) -> tuple[Callable[[], torch.Tensor], torch.Tensor]:
    """The call that is timed in each round, on the runner's stream, and the batch that it starts from.

    Args:
        runner: The backend's runner.
        images: The batch on the device. End to end, the batch is copied there.
        case: What the row measures.
        batches: The batch in the host's memory, end to end.
    """
    if case.host_memory is None:
        return partial(runner.forward, images), images
    source = batches.on_host(case.batch_size, runner.spec.input, HostMemory(case.host_memory))
    if case.zero_copy:
        return partial(runner.forward, source), source

    def copy_and_run() -> torch.Tensor:
        images.copy_(source, non_blocking=True)
        return runner.forward(images)

    return copy_and_run, source


def _skip_what_means_nothing(mode: Mode, device: torch.device, *, cold_cache: bool) -> None:
    if mode is Mode.END_TO_END and device.type == "cpu":
        pytest.skip("on a CPU nothing is copied: end-to-end would repeat forward")
    if cold_cache and (mode is not Mode.FORWARD or device.type == "cpu"):
        pytest.skip("a cold cache is for forward passes on a GPU")
