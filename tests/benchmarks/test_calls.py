"""What the suite's parts do, without a GPU: end to end needs none to be told apart."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar

import pytest
import torch

from benchmarks import test_inference as suite
from benchmarks.conftest import Builds, Built
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


class _Cyclic(_Noting):
    """A runner that a reference to itself keeps alive until the collector runs."""

    def __init__(self) -> None:
        super().__init__(SPEC, None)
        self.itself = self


class _Building:
    """A backend that says whether the runner before was gone when it built."""

    name: ClassVar[str] = "building"

    def __init__(self) -> None:
        self.before: weakref.ref[_Cyclic] | None = None
        self.builds = 0

    def build(self, _arrays: Any, _spec: BuildSpec) -> Runner:
        assert self.before is None or self.before() is None
        self.builds += 1
        runner = _Cyclic()
        self.before = weakref.ref(runner)
        return runner


def test_a_runner_s_rows_share_one_buffer_which_holds_no_row_s_images_when_the_next_begins() -> None:
    built = Built(_Noting(SPEC, None), 0)
    batch = torch.ones(2, 3, 32, 32, dtype=torch.uint8)

    first = built.buffer(batch)
    assert not first.any()
    first.copy_(batch)
    assert built.buffer(batch) is first
    assert not first.any()


def test_one_runner_is_held_and_the_one_before_is_gone_when_the_next_is_built() -> None:
    backend: Any = _Building()
    builds = Builds({})
    other = BuildSpec(torch.device("cpu"), Precision.FP32, BatchRange.exactly(3), InputType.UINT8)

    assert builds(backend, SPEC) is builds(backend, SPEC)
    builds(backend, other)
    builds(backend, SPEC)
    assert backend.builds == 3
