"""LeNet's inference: backend x mode x batch size x precision, by the coursework's protocol."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from lenet import devices
from lenet.backends.base import Backend, BatchRange, BuildSpec, Precision
from lenet.data.augmentation import normalize
from lenet.data.cifar10 import Split
from lenet.results import Case, Mode
from lenet.weights import Weights


def test_inference(
    benchmark: BenchmarkFixture,
    pedantic: Any,
    backend: Backend,
    mode: Mode,
    batch_size: int,
    precision: Precision,
    device: torch.device,
    shipped: Weights,
    test_split: Split,
) -> None:
    if mode == "end_to_end" and device.type == "cpu":
        pytest.skip("on a CPU nothing is copied: end-to-end would repeat forward")
    spec = BuildSpec(device, precision, BatchRange.exactly(batch_size))
    runner = backend.build(shipped.arrays, spec)
    host = normalize(test_split.images[:batch_size])
    images = host.to(device)
    benchmark.group = f"batch {batch_size}, {precision}, {mode}"
    executed = backend.executed_precision(precision, device)
    case = Case(backend.name, mode, executed, batch_size, devices.describe(device), test_split.source)
    benchmark.extra_info.update(case.to_extra_info())

    if mode == "forward":
        pedantic(runner.forward, images)
    else:

        def end_to_end() -> None:
            with runner.on_stream():
                images.copy_(host, non_blocking=True)
            runner.forward(images)
            runner.synchronize()

        pedantic(end_to_end)
