"""The time that `Runner.forward` adds to its bare library call, on the host, at batch 1.

A round is the bare call, then `forward`, each from an idle stream until it returns. On a GPU this is the time to queue
the work; on a CPU it includes the work. Taking turns in one run exposes both to the same load of the machine.

pytest-benchmark stores the times of `forward`. ``extra_info`` holds the median of the bare call and the median of the
rounds' differences.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from lenet.vocabulary import InputType, Precision

if TYPE_CHECKING:
    import torch

    from lenet.backends.base import Backend
    from lenet.data.cifar10 import Split
    from lenet.quantization import Scales
    from lenet.weights import Weights

CALLS = 10
"""Calls of each kind for each round of ``--rounds`` and ``--warmups``, because calls are short."""

USUAL_ROUNDS = 100
MICROSECONDS = 1e6


@pytest.mark.benchmark(timer=perf_counter)
@pytest.mark.usefixtures("threads")
def test_overhead(
    benchmark: BenchmarkFixture,
    request: pytest.FixtureRequest,
    backend: Backend,
    precision: Precision,
    executed: str,
    input_type: InputType,
    device: torch.device,
    network: Weights,
    test_split: Split,
    scales: Scales | None,
) -> None:
    import torch

    from lenet import devices
    from lenet.backends.base import BatchRange, BuildSpec
    from lenet.data.augmentation import normalize

    spec = BuildSpec(device, precision, BatchRange.exactly(1), input_type, scales)
    with backend.build(network.arrays, spec) as runner:
        with runner.on_stream():
            images = test_split.images[:1].to(device)
            if input_type is InputType.FLOAT32:
                images = normalize(images)
        bare = runner.bare(images)
        if bare is None:
            pytest.skip(f"{backend.name} names no library call apart from forward")
        bare_seconds: list[float] = []

        def time_bare() -> None:
            runner.synchronize()
            began = perf_counter()
            result = bare()
            bare_seconds.append(perf_counter() - began)
            runner.synchronize()
            del result  # the device may use its memory until here

        benchmark.group = f"forward over the bare library call, batch 1, {precision}, {input_type}"
        option = request.config.getoption
        with torch.inference_mode(), runner.on_stream():  # as in the suite's rows
            benchmark.pedantic(
                runner.forward,
                args=(images,),
                setup=time_bare,
                rounds=CALLS * (option("--rounds") or USUAL_ROUNDS),
                warmup_rounds=CALLS * option("--warmups"),
            )
    if benchmark.stats is not None:  # with --benchmark-disable it is
        labels = {"backend": backend.name, "precision": executed, "device": devices.describe(device)}
        benchmark.extra_info.update(labels | _added(bare_seconds, benchmark.stats.stats.data))


def _added(bare_seconds: list[float], forward_seconds: list[float]) -> dict[str, Any]:
    """Medians in microseconds: of the bare calls, of `forward`, and of what it adds."""
    alone = bare_seconds[-len(forward_seconds) :]
    added = [forward - bare for forward, bare in zip(forward_seconds, alone, strict=True)]
    times = {"bare_us": alone, "forward_us": forward_seconds, "added_us": added}
    # Clocks tick in tens of nanoseconds, so more digits would be noise.
    return {name: round(MICROSECONDS * median(all_), 2) for name, all_ in times.items()}
