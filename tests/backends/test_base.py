from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lenet import backends
from lenet.backends.base import BatchRange, BuildSpec, Precision, Runner
from lenet.errors import BackendError
from lenet.weights import Arrays

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runner(arrays: Arrays) -> Runner:
    return backends.load("pytorch").build(arrays, BuildSpec(CPU, Precision.FP32, BatchRange(2, 4, 8)))


@given(minimum=st.integers(-3, 9), optimum=st.integers(-3, 9), maximum=st.integers(-3, 9))
def test_a_batch_range_is_ordered(minimum: int, optimum: int, maximum: int) -> None:
    if 1 <= minimum <= optimum <= maximum:
        batches = BatchRange(minimum, optimum, maximum)
        assert [size for size in range(12) if size in batches] == list(range(minimum, maximum + 1))
        assert batches.static == (minimum == maximum)
    else:
        with pytest.raises(BackendError, match="batch range"):
            BatchRange(minimum, optimum, maximum)


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (torch.zeros(4, 3, 32, 32, dtype=torch.float64), "torch.float64"),
        (torch.zeros(4, 3, 32, 32, dtype=torch.uint8), "torch.uint8"),
        (torch.zeros(3, 32, 32), r"\(3, 32, 32\)"),
        (torch.zeros(4, 1, 32, 32), r"\(4, 1, 32, 32\)"),
        (torch.zeros(4, 3, 32, 31), r"\(4, 3, 32, 31\)"),
        (torch.zeros(0, 3, 32, 32), r"\(0, 3, 32, 32\)"),
        (torch.zeros(1, 3, 32, 32), r"\(1, 3, 32, 32\)"),
        (torch.zeros(9, 3, 32, 32), r"\(9, 3, 32, 32\)"),
        (torch.zeros(4, 32, 32, 3).permute(0, 3, 1, 2), "not contiguous"),
        (torch.zeros(4, 3, 32, 32, device="meta"), "on meta"),
    ],
)
def test_images_that_do_not_fit_are_refused(runner: Runner, images: torch.Tensor, found: str) -> None:
    wanted = r"wanted: torch\.float32 \(2 to 8, 3, 32, 32\) on cpu, contiguous"
    with pytest.raises(BackendError, match=rf"(?s)do not fit this runner\n  found:  .*{found}.*{wanted}"):
        runner.forward(images)


def test_a_precision_that_is_not_there_is_refused(arrays: Arrays) -> None:
    with pytest.raises(BackendError, match="does not run tf32 on cpu"):
        backends.load("pytorch").build(arrays, BuildSpec(CPU, Precision.TF32, BatchRange.exactly(1)))


def test_a_device_that_is_not_there_is_refused(arrays: Arrays) -> None:
    with pytest.raises(BackendError, match=r"(?s)pytorch cannot run on meta here.*lenet backends"):
        backends.load("pytorch").build(arrays, BuildSpec(torch.device("meta"), Precision.FP32, BatchRange.exactly(1)))


class _OnGpu(Runner):
    """A runner on a GPU that is not there."""

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


@pytest.mark.parametrize(("current", "switches"), [(7, 0), (0, 1)])
def test_the_stream_is_switched_only_where_another_is_current(
    monkeypatch: pytest.MonkeyPatch, current: int, switches: int
) -> None:
    switched: list[object] = []
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: current + index, raising=False)

    def switch(stream: object) -> AbstractContextManager[None]:
        switched.append(stream)
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "stream", switch)
    stream = SimpleNamespace(cuda_stream=7)
    spec = BuildSpec(torch.device("cuda", 0), Precision.FP32, BatchRange.exactly(1))
    with _OnGpu(spec, stream).on_stream():  # type: ignore[arg-type]
        pass
    assert switched == [stream] * switches
