from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lenet import backends
from lenet.backends.base import NO_GPU, BatchRange, BuildSpec, Runner
from lenet.backends.buffer_cache import BindingRunner, Bound
from lenet.errors import BackendError
from lenet.vocabulary import InputType, Precision
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


class _Mapping(BindingRunner):
    """One that reads pinned host memory; its "logits" are its images."""

    maps_host_memory: ClassVar[bool] = True

    def _bind(self, images: torch.Tensor) -> Bound:
        return Bound(lambda: None, images)


def test_only_a_runner_that_maps_host_memory_takes_it_and_only_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = BuildSpec(torch.device("cuda", 0), Precision.FP32, BatchRange(1, 1, 4), InputType.UINT8)
    host = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    not_pinned = r"(?s)uint8 \(2, 3, 32, 32\) on cpu, not pinned, contiguous\n.*on cuda:0 or in pinned host memory"
    with pytest.raises(BackendError, match=not_pinned):
        _Mapping(spec, None).forward(host)
    asked: list[torch.Tensor] = []

    def is_pinned(tensor: torch.Tensor) -> bool:
        asked.append(tensor)
        return True

    monkeypatch.setattr(torch.Tensor, "is_pinned", is_pinned)
    runner = _Mapping(spec, None)
    assert runner.forward(host) is runner.forward(host) is host
    assert len(asked) == 1, "the driver was asked at each call"
    with pytest.raises(BackendError, match=r"on cpu, contiguous\n  wanted: .* on cuda:0, contiguous"):
        _OnGpu(spec, None).forward(host)
    with pytest.raises(BackendError, match=r"wanted: torch.uint8 \(1 to 4"):
        runner.forward(host.float())


@pytest.mark.parametrize("input_type", InputType)
def test_each_shape_is_judged(arrays: Arrays, input_type: InputType) -> None:
    """A shape that was right once is not looked at again, which must not let another through."""
    runner = backends.load("pytorch").build(arrays, BuildSpec(CPU, Precision.FP32, BatchRange(2, 4, 8), input_type))
    for size, fits in ((4, True), (4, True), (9, False), (8, True), (1, False), (4, True)):
        images = torch.zeros(size, 3, 32, 32, dtype=getattr(torch, input_type))
        with nullcontext() if fits else pytest.raises(BackendError, match="do not fit this runner"):
            assert runner.forward(images).shape == (size, 10)


@pytest.mark.parametrize(("index", "current", "switches"), [(0, 7, 0), (0, 0, 1), (1, 6, 0), (None, 7, 0)])
def test_the_stream_is_switched_only_where_another_is_current(
    monkeypatch: pytest.MonkeyPatch, index: int | None, current: int, switches: int
) -> None:
    switched: list[object] = []
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: current + index, raising=False)

    def switch(stream: object) -> AbstractContextManager[None]:
        switched.append(stream)
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "stream", switch)
    waits: list[str] = []
    stream: Any = SimpleNamespace(cuda_stream=7, synchronize=lambda: waits.append("for the stream"))
    device = torch.device("cuda" if index is None else f"cuda:{index}")
    runner = _OnGpu(BuildSpec(device, Precision.FP32, BatchRange.exactly(1)), stream)
    with runner.on_stream():
        pass
    assert switched == [stream] * switches
    assert not waits
    runner.synchronize()
    assert waits == ["for the stream"]


@pytest.mark.parametrize(("there", "reason"), [(True, None), (False, NO_GPU)])
def test_a_gpu_is_there_where_pytorch_sees_one(
    monkeypatch: pytest.MonkeyPatch, there: bool, reason: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert backends.load("pytorch").probe(torch.device("cuda", 0)).reason == reason
