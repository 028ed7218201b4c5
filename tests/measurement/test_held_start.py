from __future__ import annotations

import pytest
import torch

from lenet.measurement.held_start import HeldStart, sm_clock_hz
from tests.measurement.fakes import FakeGpu

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.mark.parametrize(
    ("launch", "held"), [(0.0, 1e-3), (0.24e-3, 1e-3), (0.3e-3, 1.2e-3), (20e-3, 80e-3), (26e-3, 0.1), (10.0, 0.1)]
)
def test_a_stream_is_held_back_for_four_launches_within_bounds(gpu: FakeGpu, launch: float, held: float) -> None:
    start = HeldStart(gpu.stream)
    start.fit(launch)
    start()

    assert gpu.idle_at - gpu.now == pytest.approx(held, rel=1e-6)


def test_a_stream_is_held_back_for_a_millisecond_before_anything_is_known(gpu: FakeGpu) -> None:
    HeldStart(gpu.stream)()

    assert gpu.idle_at - gpu.now == pytest.approx(1e-3, rel=1e-6)


@needs_gpu
def test_the_sm_clock_is_plausible() -> None:
    assert 3e8 < sm_clock_hz(torch.cuda.Stream()) < 4e9
