"""The gate's canary: a fixed network, whose times show changes of the machine and not of the code.

It does not import lenet. The gate runs one copy of this file in the processes of both base and head.
"""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.nn.functional import conv2d, linear, max_pool2d

ROUNDS = 200
WARMUPS = 20


def test_canary(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> None:
    asked = request.config.getoption("--device")
    on_gpu = asked == "cuda" or (asked == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if on_gpu else "cpu")
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 3, 32, 32), (6, 3, 5, 5), (16, 6, 5, 5), (10, 400))
    images, first, second, last = (torch.randn(shape, generator=generator).to(device) for shape in shapes)

    def call() -> None:
        with torch.inference_mode():
            hidden = max_pool2d(conv2d(images, first).relu(), 2)
            hidden = max_pool2d(conv2d(hidden, second).relu(), 2)
            linear(hidden.flatten(1), last)
        if on_gpu:
            torch.cuda.synchronize()

    benchmark.extra_info["device"] = str(device)
    benchmark.pedantic(call, rounds=ROUNDS, warmup_rounds=WARMUPS)
