"""How a runner ends: what it held is gone when it is closed, and it cannot be used any more."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch

from lenet import backends
from lenet.architecture import INPUT_SHAPE
from lenet.backends.base import Backend, BatchRange, BuildSpec, Runner
from lenet.comparison import compare_backends, doctor, layer_at_fault
from lenet.data.synthetic import synthetic
from lenet.errors import BackendError
from lenet.measurement.memory import allocated, free_workspaces
from lenet.vocabulary import InputType, Precision
from lenet.weights import Arrays
from tests.backends.holding import held, without_collector
from tests.programs import COMPILED

CPU = torch.device("cpu")
BATCHES = BatchRange(1, 16, 64)
"""As in `tests.backends.test_parity`: what torch.compile compiles for one, it finds in its cache for the other."""
HOLD = {"pytorch": 10, "pytorch-compile": 10, "onnxruntime": 4}
"""The least that a backend holds: parameters; two bindings' images and logits. Of others that run on a CPU, one."""


def build(name: str, arrays: Arrays, input_type: InputType = InputType.FLOAT32) -> Runner:
    backend = backends.load(name)
    if reason := backend.probe(CPU).reason:
        pytest.skip(reason)
    return backend.build(arrays, BuildSpec(CPU, Precision.FP32, BATCHES, input_type))


def run(runner: Runner) -> None:
    """Passes with two buffers, each new and known."""
    for buffer in (torch.zeros(2, *INPUT_SHAPE), torch.ones(1, *INPUT_SHAPE)):
        images = buffer.to(runner.spec.image_dtype)
        for _ in range(2):
            runner.forward(images)


@pytest.mark.parametrize("end", ["close", "del"])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.programs] if name in COMPILED else [])
        for name in backends.names()
        if name != "pytorch-aot"
    ],
)
def test_what_a_runner_held_is_gone_without_the_collector(arrays: Arrays, name: str, end: str) -> None:
    """tests/backends/test_pytorch_aot.py has this for a package, which it compiles once."""
    kinds = []
    if name == "onnxruntime":
        onnxruntime = pytest.importorskip("onnxruntime", reason=backends.entry(name).install)
        kinds = [onnxruntime.InferenceSession, onnxruntime.IOBinding]
    elif name == "jax":
        jax = pytest.importorskip("jax", reason=backends.entry(name).install)
        kinds = [jax.Array, jax.stages.Compiled]
    with without_collector():
        runner = build(name, arrays)
        run(runner)
        references = held(runner, *kinds)
        assert len(references) >= HOLD.get(name, 1) + len(kinds)
        if end == "close":
            runner.close()
        else:
            del runner
        assert [reference() for reference in references if reference() is not None] == []


@pytest.fixture(scope="module", params=["pytorch", "onnxruntime"])
def closed(request: pytest.FixtureRequest, arrays: Arrays) -> Runner:
    with build(request.param, arrays) as runner:
        run(runner)
    return runner


@pytest.mark.parametrize(
    "use",
    [
        lambda runner: runner.forward(torch.zeros(1, *INPUT_SHAPE)),
        lambda runner: runner.bare(torch.zeros(1, *INPUT_SHAPE)),
        lambda runner: runner.on_stream(),
        lambda runner: runner.is_current(),
        lambda runner: runner.synchronize(),
        lambda runner: runner.facts(),
        lambda runner: runner.spec,
        lambda runner: runner.__enter__(),
    ],
    ids=["forward", "bare", "on_stream", "is_current", "synchronize", "facts", "spec", "enter"],
)
def test_a_closed_runner_cannot_be_used(closed: Runner, use: Callable[[Runner], object]) -> None:
    said = (
        r"(?s)this runner was closed and cannot be used.*found:  a closed runner\n  wanted: .* open\n.*`Backend.build`"
    )
    with pytest.raises(BackendError, match=said):
        use(closed)


def test_closing_twice_and_an_error_in_the_block_close_once(arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[type] = []
    monkeypatch.setattr(Runner, "synchronize", lambda runner: waits.append(type(runner)))
    runner = build("pytorch", arrays)
    kind = type(runner)
    with pytest.raises(ZeroDivisionError), runner:
        raise ZeroDivisionError
    runner.close()
    assert waits == [kind], "the queued passes are waited for, once"


def test_a_runner_whose_stream_failed_is_closed_all_the_same(arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Runner) -> None:
        raise RuntimeError("CUDA error")

    runner = build("pytorch", arrays)
    monkeypatch.setattr(Runner, "synchronize", fail)
    with pytest.raises(RuntimeError, match="CUDA error"):
        runner.close()
    assert not vars(runner)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Runner]:
    """The runners that are built from here on."""
    runners: list[Runner] = []
    build_one = Backend.build

    def build(backend: Backend, arrays: Arrays, spec: BuildSpec) -> Runner:
        runners.append(build_one(backend, arrays, spec))
        return runners[-1]

    monkeypatch.setattr(Backend, "build", build)
    return runners


def test_a_comparison_closes_what_it_builds(arrays: Arrays, built: list[Runner]) -> None:
    compare_backends(["pytorch"], arrays, synthetic(8), device=CPU, precision=Precision.FP32, batch_size=8)
    assert [vars(runner) for runner in built] == [{}]


def test_the_search_for_a_layer_closes_what_it_builds(arrays: Arrays, built: list[Runner]) -> None:
    spec = BuildSpec(CPU, Precision.FP32, BatchRange.exactly(8))
    images = torch.randn(8, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))
    layer_at_fault(backends.load("pytorch"), arrays, spec, images, "fp32")
    assert len(built) >= 1
    assert not any(vars(runner) for runner in built)


@pytest.mark.parametrize("fails", [False, True])
def test_an_examination_closes_what_it_builds(
    arrays: Arrays, built: list[Runner], monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    if fails:
        monkeypatch.setattr(doctor, "logits_of", lambda *_: 1 / 0)
    assert doctor.examine("pytorch", arrays, CPU, Precision.FP32).passed != fails
    assert [vars(runner) for runner in built] == [{}]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU, whose allocator is asked")
@pytest.mark.parametrize("name", ["pytorch", "pytorch-cudagraph", "fused", "onnxruntime", "onnxruntime-cudagraph"])
def test_a_gpu_s_memory_is_what_it_was_before_the_build(arrays: Arrays, name: str) -> None:
    """cuBLAS keeps a workspace for each stream that it ran on, until it is told to free it."""
    device = torch.device("cuda", torch.cuda.current_device())
    backend = backends.load(name)
    if reason := backend.probe(device).reason:
        pytest.skip(reason)
    images = torch.zeros(100, *INPUT_SHAPE, device=device)
    torch.cuda.synchronize()

    def used() -> int:
        torch.cuda.synchronize()
        free_workspaces(device)
        return allocated(device)

    with without_collector():
        before = used()
        with backend.build(arrays, BuildSpec(device, Precision.FP32, BatchRange.exactly(100))) as runner:
            for _ in range(2):
                runner.forward(images)
            during = allocated(device)
        after = used()
    sys.stdout.write(f"{name}: {before:,} bytes before the build, {during:,} built, {after:,} after close()\n")
    assert during > before
    assert after == before
