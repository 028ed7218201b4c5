"""The gate's canary: a fixed network, whose times show changes of the machine and not of the code.

It does not import lenet. The gate runs one copy of this file in the processes of both base and head. On a GPU it
replays a CUDA graph, whose time is the GPU's: launched one by one its kernels would take the host's time, which
differs by 8 % from process to process on a shared host (docs/results/gate-h200.md).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

ROUNDS = 200
ROUNDS_ON_A_CPU = 100
"""Some 0.05 s, as long as a turn of a row lasts there (`lenet.gate.rounds`)."""
WARMUPS = 20
BATCH_ON_A_GPU = 1000


def test_canary(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> None:
    import torch
    from torch.nn.functional import conv2d, linear, max_pool2d

    asked = request.config.getoption("--device")
    on_gpu = asked == "cuda" or (asked == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if on_gpu else "cpu")
    generator = torch.Generator().manual_seed(0)
    shapes = ((BATCH_ON_A_GPU if on_gpu else 1, 3, 32, 32), (6, 3, 5, 5), (16, 6, 5, 5), (10, 400))
    images, first, second, last = (torch.randn(shape, generator=generator).to(device) for shape in shapes)

    def network() -> None:
        with torch.inference_mode():
            hidden = max_pool2d(conv2d(images, first).relu(), 2)
            hidden = max_pool2d(conv2d(hidden, second).relu(), 2)
            linear(hidden.flatten(1), last)

    benchmark.extra_info["device"] = str(device)
    rounds = ROUNDS if on_gpu else ROUNDS_ON_A_CPU
    benchmark.pedantic(captured(network) if on_gpu else network, rounds=rounds, warmup_rounds=WARMUPS)


def captured(network: Callable[[], None]) -> Callable[[], None]:
    """A call that replays the network's CUDA graph and waits for it."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # the libraries set themselves up in the first run, which cannot be captured
        network()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        network()

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize()

    return replay
