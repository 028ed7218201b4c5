"""LeNet's inference: backend x mode x batch size x precision. Each row's parity is checked before it is timed."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from lenet.results import Case
from lenet.suite.bridge import Store
from lenet.suite.fixtures import MachineLimits
from lenet.suite.options import chosen
from lenet.vocabulary import HostMemory, InputType, Mode, Precision

if TYPE_CHECKING:
    import torch

    from lenet.backends.base import Backend, BuildSpec
    from lenet.data.cifar10 import Split
    from lenet.quantization import Scales
    from lenet.suite.builds import Builds
    from lenet.suite.images import Batches
    from lenet.suite.instruments import Instruments
    from lenet.weights import Weights


@pytest.fixture
def spec(
    device: torch.device, precision: Precision, batch_size: int, input_type: InputType, scales: Scales | None
) -> BuildSpec:
    from lenet.backends.base import BatchRange, BuildSpec

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
    from lenet import devices, weights
    from lenet.suite.sustained import depth_of

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
        weights=weights.digest(network.arrays),
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
    instruments: Instruments,
    limits: MachineLimits,
    build: Builds,
    network: Weights,
    batches: Batches,
) -> None:
    from lenet.comparison import RowParity
    from lenet.suite.facts import failing_with_the_layer, row_facts
    from lenet.suite.one_batch import call_of, run_one_batch
    from lenet.suite.sustained import run_sustained

    reference = batches.reference(case.batch_size, spec.input)
    built = build(backend, spec)
    runner = built.runner
    if case.zero_copy and not runner.maps_host_memory:
        pytest.skip(f"{backend.name} does not read the host's memory: zero-copy is not for it")
    with runner.on_stream():
        images = built.buffer(reference.images[: case.batch_size])
    call, source = call_of(runner, images, case, batches)
    parity = RowParity(call, source, runner, reference, case.precision)
    with failing_with_the_layer(backend, network, built, reference, case.precision):
        compared = parity.check_before()
    machine = limits.find()
    before = instruments.sampler.sample()
    run = partial(run_one_batch, call, case, runner)
    if case.mode is Mode.THROUGHPUT:
        request.addfinalizer(build.close)  # what a runner keeps of a ring would count as other rows' memory
        run = partial(run_sustained, case, backend, built, network.arrays, batches)
    with failing_with_the_layer(backend, network, built, reference, case.precision):
        samples, throughput, peak, joules = run(instruments)
    after = instruments.sampler.sample()
    with failing_with_the_layer(backend, network, built, reference, case.precision):
        parity.check_after()
    benchmark.group = f"{case.mode}, batch {case.batch_size}, {spec.precision}, {spec.input}"
    benchmark.extra_info.update(row_facts(case, samples, runner, machine, compared))
    benchmark.extra_info.update({**joules, **({"throughput": asdict(throughput)} if throughput else {})})
    benchmark.extra_info["gpu_before"] = before.as_dict() if before else None
    benchmark.extra_info["gpu_after"] = after.as_dict() if after else None
    benchmark.extra_info["peak_memory_bytes"] = built.taken(peak, zero_copy=case.zero_copy) if peak else None
    store(samples.seconds.tolist())


def _skip_what_means_nothing(mode: Mode, device: torch.device, *, cold_cache: bool) -> None:
    if mode is Mode.END_TO_END and device.type == "cpu":
        pytest.skip("on a CPU nothing is copied: end-to-end would repeat forward")
    if cold_cache and (mode is not Mode.FORWARD or device.type == "cpu"):
        pytest.skip("a cold cache is for forward passes on a GPU")
