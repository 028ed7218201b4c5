"""What `Runner.forward` does at each call, of every backend that runs here, beside the library call that it wraps."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, partial
from types import FrameType
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lenet import backends, devices, weights
from lenet.architecture import INPUT_SHAPE
from lenet.backends.base import BatchRange, BuildSpec, Runner
from lenet.errors import BackendError
from lenet.vocabulary import InputType, Precision

STANDIN = "tripy on a CPU stand-in"

MOST_CALLS = {"pytorch": 7, "onnxruntime": 10, "tripy": 27, STANDIN: 27}
"""Functions, Python's and C's, that `forward` may call at each pass beside the library, by backend."""
MOST_CALLS_ELSEWHERE = 16
"""Of the others, which want a GPU. A CUDA graph takes most: `forward` asks whether the stream is current."""


def subjects() -> list[object]:
    """Backend and input type. TorchInductor's have the runner of eager PyTorch, and take seconds to build."""
    return [
        pytest.param((name, kind), id=f"{name}-{kind}", marks=[pytest.mark.nvtripy_on_cpu] if name == STANDIN else [])
        for name in (*backends.names(), STANDIN)
        if name not in {"pytorch-compile", "pytorch-aot"}
        for kind in InputType
    ]


@cache
def built(name: str, input_type: InputType) -> Runner | str:
    if name == STANDIN:
        from tests.standins.mlir_tensorrt_cpu.runner import build

        return build(weights.load().arrays, Precision.FP32, BatchRange(1, 2, 4), input_type)
    backend, device = backends.load(name), devices.resolve("auto")
    availability = backend.probe(device)
    if not availability:
        return availability.reason or "unavailable"
    spec = BuildSpec(device, Precision.FP32, BatchRange(1, 2, 4), input_type)
    return backend.build(weights.load().arrays, spec)


@pytest.fixture(params=subjects())
def runner(request: pytest.FixtureRequest) -> Runner:
    found = built(*request.param)
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture
def images(runner: Runner) -> torch.Tensor:
    with runner.on_stream():
        return torch.zeros(2, *INPUT_SHAPE, dtype=runner.spec.image_dtype, device=runner.spec.device)


def inside(runner: Runner, images: torch.Tensor, use: Callable[[Callable[[], Any]], Any]) -> tuple[Any, Any]:
    """What ``use`` makes of a pass and of the bare call, both made where the suite makes them."""
    bare = runner.bare(images)
    assert bare is not None
    with torch.inference_mode(), runner.on_stream():
        runner.forward(images)
        found = use(partial(runner.forward, images)), use(bare)
    runner.synchronize()
    return found


def count_calls(call: Callable[[], Any]) -> int:
    """Without the collector, which may begin anywhere, and then calls what others had it call: Hypothesis's clock."""
    calls = 0

    def note(frame: FrameType, event: str, argument: Any) -> None:
        del frame, argument
        nonlocal calls
        calls += event in {"call", "c_call"}

    with devices.no_garbage_collection():
        sys.setprofile(note)
        try:
            call()
        finally:
            sys.setprofile(None)
    return calls


class _Operators(TorchDispatchMode):
    """Counts PyTorch's operators: whatever makes a tensor is one."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, operator: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        del types
        self.count += 1
        return operator(*arguments, **(options or {}))


def count_operators(call: Callable[[], Any]) -> int:
    operators = _Operators()
    with operators:
        call()
    return operators.count


def test_a_pass_calls_little_beside_the_library(
    runner: Runner, images: torch.Tensor, request: pytest.FixtureRequest
) -> None:
    name, _ = request.node.callspec.params["runner"]
    forward, bare = inside(runner, images, count_calls)
    assert forward - bare <= MOST_CALLS.get(name, MOST_CALLS_ELSEWHERE)


def test_a_pass_makes_no_tensor_beside_the_library_s(runner: Runner, images: torch.Tensor) -> None:
    forward, bare = inside(runner, images, count_operators)
    assert forward == bare


def test_a_pass_keeps_nothing_beside_what_the_library_keeps(runner: Runner, images: torch.Tensor) -> None:
    def kept(call: Callable[[], Any]) -> int:
        def more() -> int:
            before = sys.getallocatedblocks()
            for _ in range(300):
                call()
            return sys.getallocatedblocks() - before

        return min(more(), more())  # the first may also fill a cache

    forward, bare = inside(runner, images, kept)
    assert forward - bare < 150, "of 300 passes"


def test_a_pass_asks_nothing_that_was_known_at_the_build(
    runner: Runner, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor of images that it has met: the spec is gone, and what does not fit is refused all the same."""
    runner.forward(images)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "spec", None)
        runner.forward(images)
    runner.synchronize()
    with pytest.raises(BackendError, match="do not fit this runner"):
        runner.forward(images[:0])
