"""The time before the first batch: a build, a build again from caches, and the first inference."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from lenet.suite.bridge import Store
from lenet.vocabulary import InputType, Precision

if TYPE_CHECKING:
    import torch

    from lenet.backends.base import Backend, Runner
    from lenet.quantization import Scales
    from lenet.suite.images import Batches
    from lenet.weights import Weights

_T = TypeVar("_T")


@pytest.mark.usefixtures("executed", "threads")
@pytest.mark.parametrize("step", ["build", "first_inference", "build_again"])
def test_build(
    benchmark: BenchmarkFixture,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    step: str,
    backend: Backend,
    batch_size: int,
    precision: Precision,
    input_type: InputType,
    device: torch.device,
    network: Weights,
    batches: Batches,
    scales: Scales | None,
) -> None:
    """One round each. At first the caches of engines, TorchInductor's and Triton's kernels are empty."""
    import torch

    from lenet.backends.base import BatchRange, BuildSpec

    monkeypatch.setenv("LENET_CACHE", str(tmp_path / "engines"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    spec = BuildSpec(device, precision, BatchRange.exactly(batch_size), input_type, scales)
    images = batches.reference(batch_size, input_type).images[:batch_size].to(device)

    def build() -> Runner:
        torch.compiler.reset()
        return backend.build(network.arrays, spec)

    with ExitStack() as open_runners:
        built, seconds = _timed(build)
        open_runners.enter_context(built)
        if step == "first_inference":
            _, seconds = _timed(lambda: _infer(built, images))
        elif step == "build_again":
            again, seconds = _timed(build)
            open_runners.enter_context(again)
        facts = built.facts()
    benchmark.group = f"{step}, batch {batch_size}, {precision}, {input_type}"
    benchmark.extra_info["facts"] = facts
    store([seconds])


def _infer(runner: Runner, images: torch.Tensor) -> None:
    runner.forward(images)
    runner.synchronize()


def _timed(call: Callable[[], _T]) -> tuple[_T, float]:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    result = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, time.perf_counter() - began
