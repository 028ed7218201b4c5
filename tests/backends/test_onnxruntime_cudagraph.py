"""ONNX Runtime's own CUDA graphs: a number for each buffer, on a CPU imitation and, where there is one, on a GPU."""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lenet import backends
from lenet.architecture import INPUT_SHAPE
from lenet.backends import onnxruntime as base
from lenet.backends import onnxruntime_cudagraph
from lenet.backends.base import BatchRange, BuildSpec, Runner
from lenet.backends.buffer_cache import MOST_BUFFERS
from lenet.backends.onnxruntime import OnnxRuntime
from lenet.backends.onnxruntime_cudagraph import OnnxRuntimeCudaGraph
from lenet.errors import BackendError
from lenet.models.pytorch_lenet import from_weights
from lenet.vocabulary import InputType, Precision
from lenet.weights import Arrays
from tests.backends.holding import held, without_collector
from tests.fakes.onnxruntime_cuda import FakeCudaSession, FakeStream, imitation_of

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
SPEC = BuildSpec(CPU, Precision.FP32, BatchRange(1, 4, 8))
any_order = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """ONNX Runtime, whose sessions are imitations of those on CUDA."""
    found: ModuleType = pytest.importorskip("onnxruntime", reason='pip install -e ".[onnx]"')
    monkeypatch.setattr(found, "InferenceSession", imitation_of(found))
    for module in (base, onnxruntime_cudagraph):
        monkeypatch.setattr(module, "new_stream", lambda _: FakeStream())
    return found


def build(
    library: ModuleType, arrays: Arrays, spec: BuildSpec = SPEC, backend: OnnxRuntime | None = None
) -> tuple[Runner, FakeCudaSession]:
    runner = (backend or OnnxRuntimeCudaGraph())._build(arrays, spec)
    session: FakeCudaSession = library.InferenceSession.opened[-1]
    return runner, session


def images(size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, *INPUT_SHAPE, generator=torch.Generator().manual_seed(seed))


def assert_right(arrays: Arrays, logits: torch.Tensor, batch: torch.Tensor) -> None:
    with torch.inference_mode():
        torch.testing.assert_close(logits.cpu(), from_weights(arrays)(batch.cpu()), rtol=0, atol=1e-4)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.TF32])
def test_the_provider_is_told_to_capture_on_the_runner_s_stream(
    library: ModuleType, arrays: Arrays, precision: Precision
) -> None:
    spec = dataclasses.replace(SPEC, precision=precision)
    _, session = build(library, arrays, spec)
    _, plain = build(library, arrays, spec, OnnxRuntime())
    assert session.settings == {**plain.settings, "enable_cuda_graph": "1"}
    assert session.settings["user_compute_stream"] == str(FakeStream.cuda_stream)
    assert session.settings["use_tf32"] == str(int(precision is Precision.TF32))


@pytest.mark.parametrize("in_one_call", [True, False])
def test_the_first_pass_captures_and_every_other_one_is_a_replay(
    library: ModuleType, arrays: Arrays, monkeypatch: pytest.MonkeyPatch, *, in_one_call: bool
) -> None:
    """Whether ONNX Runtime makes the runs up to the capture in one call, or one in each."""
    monkeypatch.setattr(library.InferenceSession, "in_one_call", in_one_call)
    runner, session = build(library, arrays)
    batch = images(4)
    assert_right(arrays, runner.forward(batch), batch)
    first = session.take_calls()
    assert [name for name, _ in first[:3]] == ["run", "run", "capture"]
    assert first[-1][0] == "replay"
    batch.mul_(2)
    assert_right(arrays, runner.forward(batch), batch)
    bare = runner.bare(batch)
    assert bare is not None
    bare()
    assert session.take_calls() == [("replay", first[0][1])] * 3


@pytest.mark.parametrize("can_release", [True, False])
def test_a_graph_that_the_cache_drops_is_released(
    library: ModuleType, arrays: Arrays, monkeypatch: pytest.MonkeyPatch, *, can_release: bool
) -> None:
    """As far as the release of ONNX Runtime can."""
    if not can_release:
        monkeypatch.delattr(FakeCudaSession, "release_captured_graph")
    runner, session = build(library, arrays)
    buffers = [images(1, seed) for seed in range(MOST_BUFFERS + 2)]
    for buffer in buffers:
        runner.forward(buffer)
    calls = session.take_calls()
    captured = [number for name, number in calls if name == "capture"]
    released = [number for name, number in calls if name == "release"]
    assert released == (captured[:2] if can_release else [])
    assert_right(arrays, runner.forward(buffers[-1]), buffers[-1])
    assert_right(arrays, runner.forward(buffers[0]), buffers[0])


def test_no_run_waits_for_the_stream(library: ModuleType, arrays: Arrays) -> None:
    for backend in (OnnxRuntime(), OnnxRuntimeCudaGraph()):
        runner, session = build(library, arrays, backend=backend)
        runner.forward(images(4))
        for options in session.options:
            assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"


@any_order
@example(order=[(number, size) for size in (1, 2) for number in range(MOST_BUFFERS)])
@given(order=st.lists(st.tuples(st.integers(0, MOST_BUFFERS + 2), st.sampled_from([1, 2])), min_size=1, max_size=30))
def test_logits_are_right_in_any_order_of_buffers_and_batch_sizes(
    library: ModuleType, arrays: Arrays, order: list[tuple[int, int]]
) -> None:
    runner, session = build(library, arrays)
    buffers = [images(2, seed) for seed in range(MOST_BUFFERS + 3)]
    with torch.inference_mode():
        wanted = from_weights(arrays)(torch.cat(buffers)).view(len(buffers), 2, -1)
    captured: dict[int, tuple[int, int]] = {}
    for number, size in order:
        logits = runner.forward(buffers[number][:size])
        torch.testing.assert_close(logits, wanted[number, :size], rtol=0, atol=1e-4)
        for call, graph in session.take_calls():
            if call == "release":
                assert captured[graph] != (number, size), "a graph was released when it was wanted"
            else:
                assert captured.setdefault(graph, (number, size)) == (number, size), "two buffers share a graph"
    assert min(captured) > 0, "0 is the number of runs without one, and -1 of those that are not captured"


@pytest.mark.parametrize("input_type", InputType)
def test_bytes_and_floats_are_bound_as_they_are(library: ModuleType, arrays: Arrays, input_type: InputType) -> None:
    from lenet.data.augmentation import normalize

    pixels = torch.randint(0, 256, (3, *INPUT_SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = pixels if input_type is InputType.UINT8 else normalize(pixels)
    runner, _ = build(library, arrays, dataclasses.replace(SPEC, input=input_type))
    for _ in range(2):
        assert_right(arrays, runner.forward(batch), normalize(pixels))


def test_a_batch_out_of_range_never_reaches_the_library(library: ModuleType, arrays: Arrays) -> None:
    runner, session = build(library, arrays)
    for size in (0, 9):
        with pytest.raises(BackendError, match="do not fit this runner"):
            runner.forward(torch.zeros(size, *INPUT_SHAPE))
    assert session.take_calls() == []


def test_a_capture_that_fails_is_an_error_and_leaves_no_graph(library: ModuleType, arrays: Arrays) -> None:
    runner, session = build(library, arrays)
    session.refused = "CUDA failure 900: operation not permitted when stream is capturing"
    batch = images(2)
    with pytest.raises(BackendError, match=r"cannot capture(.|\n)*failure 900(.|\n)*the backend onnxruntime"):
        runner.forward(batch)
    ((_, failed), *_) = session.take_calls()
    session.refused = ""
    assert_right(arrays, runner.forward(batch), batch)
    assert failed not in {number for _, number in session.take_calls()}


def test_it_is_for_gpus_alone() -> None:
    backend = backends.load("onnxruntime-cudagraph")
    assert backend.probe(CPU).reason == "onnxruntime-cudagraph runs on cuda alone"
    for precision in Precision:
        with pytest.raises(BackendError, match=f"onnxruntime-cudagraph does not run {precision} on cpu"):
            backend.executed_precision(precision, CPU)
    assert backend.executed_precision(Precision.FP16, CUDA) == "fp16"
    with pytest.raises(BackendError, match="does not run bf16 on cuda"):
        backend.executed_precision(Precision.BF16, CUDA)


def test_a_build_without_cuda_is_told_a_command_that_leaves_one_distribution() -> None:
    library = pytest.importorskip("onnxruntime", reason='pip install -e ".[onnx]"')
    if "CUDAExecutionProvider" in library.get_available_providers():
        pytest.skip("this build of ONNX Runtime has the CUDA provider")
    for name in ("onnxruntime", "onnxruntime-cudagraph"):
        reason = str(backends.load(name).probe(CUDA).reason)
        assert reason.startswith("this build has no CUDAExecutionProvider: ")
        assert "uninstall --yes onnxruntime onnxruntime-gpu && " in reason, "one that stays would hold no files"
        assert reason.endswith('install -e ".[onnx-gpu]"')


@pytest.mark.parametrize("end", ["close", "del"])
def test_session_and_bindings_are_gone_without_the_collector(library: ModuleType, arrays: Arrays, end: str) -> None:
    with without_collector():
        runner, _ = build(library, arrays)
        library.InferenceSession.opened.clear()
        del _
        for size in (4, 2):
            for _ in range(2):
                runner.forward(images(size))
        references = held(runner, library.InferenceSession)
        if end == "close":
            runner.close()
        else:
            del runner
        assert [reference() for reference in references if reference() is not None] == []


needs_cuda = pytest.mark.skipif(
    not (available := OnnxRuntimeCudaGraph().probe(CUDA)), reason=f"onnxruntime-cudagraph: {available.reason}"
)


@needs_cuda
@pytest.mark.parametrize("backend", [OnnxRuntime(), OnnxRuntimeCudaGraph()], ids=lambda backend: backend.name)
class TestOnCuda:
    def built(self, backend: OnnxRuntime, arrays: Arrays, **changes: Any) -> Runner:
        return backend.build(arrays, dataclasses.replace(SPEC, device=CUDA, **changes))

    def test_every_batch_size_and_buffer_is_right_again_and_again(self, backend: OnnxRuntime, arrays: Arrays) -> None:
        with self.built(backend, arrays) as runner:
            buffers = [images(8, seed).to(CUDA) for seed in range(3)]
            torch.cuda.synchronize()
            for _ in range(3):
                for buffer in buffers:
                    for size in range(1, 9):
                        logits = runner.forward(buffer[:size])
                        runner.synchronize()
                        assert_right(arrays, logits, buffer[:size])
                    buffer.mul_(0.5)
                    torch.cuda.synchronize()

    def test_a_pass_waits_for_the_stream_and_not_the_host_for_it(self, backend: OnnxRuntime, arrays: Arrays) -> None:
        with self.built(backend, arrays) as runner:
            batch, others = torch.zeros(8, *INPUT_SHAPE, device=CUDA), images(8).to(CUDA)
            torch.cuda.synchronize()
            runner.forward(batch)
            runner.synchronize()
            assert runner.stream is not None
            with runner.on_stream():
                torch.cuda._sleep(2_000_000_000)  # clock cycles: about a second
                batch.copy_(others)
                logits = runner.forward(batch)
                assert not runner.stream.query(), "the call returned when its work was done"
            runner.synchronize()
            assert_right(arrays, logits, batch)

    def test_two_runners_do_not_disturb_each_other(self, backend: OnnxRuntime, arrays: Arrays) -> None:
        scaled = {name: np.float32(0.5) * value for name, value in arrays.items()}
        batch = images(4).to(CUDA)
        torch.cuda.synchronize()
        with self.built(backend, arrays) as one, self.built(backend, scaled) as other:
            for _ in range(3):
                for runner, weights in ((one, arrays), (other, scaled)):
                    logits = runner.forward(batch)
                    runner.synchronize()
                    assert_right(weights, logits, batch)
