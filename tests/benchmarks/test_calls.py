"""What a round of each mode does, without a GPU: end to end needs none to be told apart."""

from __future__ import annotations

import pytest
import torch

from benchmarks import test_inference as suite
from lenet.backends.base import BatchRange, BuildSpec, InputType, Precision, Runner
from lenet.measurement.modes import Mode

SPEC = BuildSpec(torch.device("cpu"), Precision.FP32, BatchRange.exactly(2), InputType.UINT8)


class _Noting(Runner):
    """Gives back the images that it gets."""

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


@pytest.mark.parametrize(
    ("mode", "memory", "gets_the_hosts", "copies"),
    [
        (Mode.FORWARD, "pinned", False, False),
        (Mode.END_TO_END, "pinned", False, True),
        (Mode.END_TO_END, "pageable", False, True),
        (Mode.END_TO_END, "zero-copy", True, False),
    ],
)
def test_only_zero_copy_hands_over_the_host_s_memory(
    mode: Mode, memory: str, *, gets_the_hosts: bool, copies: bool
) -> None:
    images, host = torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.ones(2, 3, 32, 32, dtype=torch.uint8)
    call = suite._call(_Noting(SPEC, None), images, mode, memory, lambda: host)
    assert call() is (host if gets_the_hosts else images)
    assert bool(images.all()) == copies
