from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lenet import backends
from lenet.architecture import INPUT_SHAPE
from lenet.backends import tensorrt, tensorrt_engine, tensorrt_rtx, tensorrt_versions
from lenet.backends.base import BatchRange, BuildSpec, Runner
from lenet.backends.precision import DTYPES
from lenet.backends.tensorrt import TensorRT
from lenet.backends.tensorrt_api import logger
from lenet.backends.tensorrt_engine import TensorRTBackend
from lenet.backends.tensorrt_rtx import TensorRTRTX
from lenet.engine_cache import EngineCacheWarning
from lenet.errors import BackendError
from lenet.models.pytorch_lenet import from_weights
from lenet.vocabulary import InputType, Precision
from tests.backends.holding import held, without_collector
from tests.fakes import tensorrt_api
from tests.fakes.tensorrt_api import STREAM_HANDLE, FakeParserError, FakeTensorRT

ROOT = Path(__file__).parents[2]
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
BATCHES = BatchRange(1, 4, 8)
SPEC = BuildSpec(CPU, Precision.FP32, BATCHES)

VERSIONS = {"tensorrt": ("10.15.1.29", "11.4.0.106"), "tensorrt_rtx": ("1.7.1.116",)}
"""What the fake is of, by module: the bounds of what was read from NVIDIA's bindings."""

both = pytest.mark.parametrize("backend", [TensorRT(), TensorRTRTX()], ids=lambda backend: backend.name)


def fake_library(
    monkeypatch: pytest.MonkeyPatch, backend: TensorRTBackend, version: str = "", arrays: Any = None
) -> FakeTensorRT:
    """A fake in the place of the backend's library."""

    def network(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits: np.ndarray = from_weights(arrays)(torch.from_numpy(images.copy())).numpy()
            return logits

    library = FakeTensorRT(backend.module, version or VERSIONS[backend.module][0], network)
    monkeypatch.setitem(sys.modules, backend.module, library)
    monkeypatch.setattr(tensorrt_versions, "package_version", lambda _: None)  # a real one may be installed
    return library


def fake_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA GeForce RTX 4060 Ti")


class TestProbe:
    @both
    def test_absent(self, backend: TensorRTBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, backend.module, None)
        reason = backend.probe(CUDA).reason
        assert reason is not None
        assert reason.startswith(f"{backend.module} is not installed, ")
        assert reason.endswith(f'pip install -e ".[{backend.name}]"')
        assert not backend.probe(CUDA).broken

    @both
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("raise OSError('libcudart.so.13: cannot open shared object file')", "libcudart.so.13: cannot open"),
            ("import tensorrt_no_such_bindings", "No module named 'tensorrt_no_such_bindings'"),
        ],
    )
    def test_unloadable(
        self, backend: TensorRTBackend, text: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / f"{backend.module}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, backend.module, raising=False)
        found = backend.probe(CUDA)
        assert f"{backend.module} cannot be loaded: {shown}" in str(found.reason)
        assert found.broken

    @pytest.mark.parametrize(
        ("backend", "version", "verdict"),
        [
            (TensorRT(), "8.6.1", "too old"),
            (TensorRT(), "10.14.1.48.post1", "too old"),
            (TensorRT(), "12.0.0.1", "too new"),
            (TensorRT(), "nonsense", "too old"),
            (TensorRTRTX(), "1.3.0.35", "too old"),
            (TensorRTRTX(), "2.0.0.1", "too new"),
        ],
    )
    def test_of_a_version_that_is_not_supported(
        self, backend: TensorRTBackend, version: str, verdict: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake_library(monkeypatch, backend, version)
        reason = str(backend.probe(CUDA).reason)
        assert f"{backend.module} {version} is {verdict}, {backend.module} >= " in reason
        assert reason.endswith(f'pip install -e ".[{backend.name}]"')

    @pytest.mark.parametrize(
        ("backend", "version"),
        [
            (TensorRT(), "10.15.1.29"),
            (TensorRT(), "10.16.1.11"),
            (TensorRT(), "11.0.0.114"),
            (TensorRT(), "11.4.0.106"),
            (TensorRTRTX(), "1.4.0.76"),
            (TensorRTRTX(), "1.7.1.116"),
        ],
    )
    def test_available(self, backend: TensorRTBackend, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_library(monkeypatch, backend, version)
        fake_gpu(monkeypatch, (8, 9))
        availability = backend.probe(CUDA)
        assert availability
        assert availability.version == version

    @both
    def test_the_exporter_is_absent(self, backend: TensorRTBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_library(monkeypatch, backend)
        monkeypatch.setattr(tensorrt_engine, "missing_packages", lambda: ["onnx"])
        assert backend.probe(CUDA).reason == f"onnx not installed: {backends.entry(backend.name).install}"

    @both
    def test_no_gpu(self, backend: TensorRTBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_library(monkeypatch, backend)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert backend.probe(CUDA).reason == "PyTorch sees no CUDA device: check `nvidia-smi`"
        assert backend.probe(CPU).reason == f"{backend.name} runs on cuda alone"

    def test_a_gpu_that_rtx_does_not_support(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_library(monkeypatch, TensorRTRTX())
        fake_gpu(monkeypatch, (9, 0))
        reason = TensorRTRTX().probe(CUDA).reason
        assert reason == "tensorrt-rtx 1.7.1.116 runs on sm89, sm120, not on compute capability 9.0"

    @both
    def test_the_table_leads_here(self, backend: TensorRTBackend) -> None:
        assert type(backends.load(backend.name)) is type(backend)


class TestPrecision:
    @both
    @pytest.mark.parametrize("precision", DTYPES)
    def test_an_ampere_gpu_runs_what_is_asked(
        self, backend: TensorRTBackend, precision: Precision, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake_gpu(monkeypatch, (8, 0))
        assert backend.executed_precision(precision, CUDA) == precision
        with pytest.raises(BackendError, match=f"does not run {precision} on cpu"):
            backend.executed_precision(precision, CPU)

    @pytest.mark.parametrize(
        ("backend", "runs"),
        [(TensorRT(), {Precision.FP32, Precision.FP16}), (TensorRTRTX(), {Precision.FP16})],
    )
    def test_an_older_gpu_runs_less(
        self, backend: TensorRTBackend, runs: set[Precision], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake_gpu(monkeypatch, (7, 5))
        for precision in DTYPES:
            with nullcontext() if precision in runs else pytest.raises(BackendError, match=r"8\.0 or newer"):
                assert backend.executed_precision(precision, CUDA) == precision


class Fake:
    """A backend whose library, GPU, streams and CUDA graphs are fakes, and whose device is the CPU."""

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
        backend: TensorRTBackend,
        version: str,
    ) -> None:
        self.arrays = arrays
        self.directory = directory
        self.backend = backend
        self.library = fake_library(monkeypatch, backend, version, arrays=arrays)
        fake_gpu(monkeypatch, (8, 9))
        monkeypatch.setenv("LENET_CACHE", str(directory))
        monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
        monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
        monkeypatch.setattr(torch.cuda, "CUDAGraph", tensorrt_api.FakeCudaGraph)
        monkeypatch.setattr(torch.cuda, "graph", tensorrt_api.capture)
        monkeypatch.setattr(tensorrt_api.FakeCudaGraph, "library", self.library, raising=False)
        for module in (tensorrt, tensorrt_rtx):
            monkeypatch.setattr(module, "new_stream", lambda _: tensorrt_api.FakeStream(self.library))
        monkeypatch.setattr(
            tensorrt_engine, "onnx_model", lambda _, spec: f"{spec.image_dtype} {DTYPES[spec.precision]}".encode()
        )

    def build(self, spec: BuildSpec = SPEC) -> Runner:
        return self.backend._build(self.arrays, spec)

    def calls(self) -> list[tuple[Any, ...]]:
        return self.library.take_calls()

    def names(self) -> list[str]:
        return [call[0] for call in self.calls()]

    def assert_right(self, logits: torch.Tensor, images: torch.Tensor) -> None:
        with torch.inference_mode():
            torch.testing.assert_close(logits, from_weights(self.arrays)(images), rtol=0, atol=1e-6)


def in_every_version(*of: TensorRTBackend) -> list[Any]:
    return [
        pytest.param((backend, version), id=f"{backend.name}-{version}")
        for backend in of
        for version in VERSIONS[backend.module]
    ]


@pytest.fixture(params=in_every_version(TensorRT()))
def fake(
    request: pytest.FixtureRequest, arrays: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fake]:
    """Of TensorRT, or of the backend that a test is parametrised with, in every version."""
    yield Fake(arrays, tmp_path / "cache", monkeypatch, *request.param)
    logger.cache_clear()


def fake_of(*of: TensorRTBackend) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("fake", in_every_version(*of), indirect=True)


def images(batch: int) -> torch.Tensor:
    return torch.randn(batch, *INPUT_SHAPE, generator=torch.Generator().manual_seed(batch))


class TestBuildWithTheFake:
    @fake_of(TensorRT(), TensorRTRTX())
    @pytest.mark.parametrize("precision", DTYPES)
    def test_every_setting_is_explicit(self, fake: Fake, precision: Precision) -> None:
        fake.build(BuildSpec(CPU, precision, BATCHES))
        ((_, settings),) = [call for call in fake.calls() if call[0] == "build_serialized_network"]
        library = fake.library
        assert settings["flags"] == ({library.BuilderFlag.TF32} if precision is Precision.TF32 else set())
        assert settings["profile"] == ("images", (1, 3, 32, 32), (4, 3, 32, 32), (8, 3, 32, 32))
        assert settings["profiling_verbosity"] is library.ProfilingVerbosity.DETAILED
        assert settings["builder_optimization_level"] == 3
        assert settings.get("num_compute_capabilities") == (1 if fake.backend.name == "tensorrt-rtx" else None)

    @fake_of(TensorRTRTX())
    def test_rtx_builds_for_the_gpu_at_hand(self, fake: Fake) -> None:
        fake.build()
        assert ("set_compute_capability", fake.library.ComputeCapability.SM89, 0) in fake.calls()

    @fake_of(TensorRT(), TensorRTRTX())
    @pytest.mark.parametrize(
        ("call", "problem"),
        [
            ("Builder", "made no Builder"),
            ("OnnxParser", "made no OnnxParser"),
            ("Runtime", "made no Runtime"),
            ("add_optimization_profile", "refused the profile"),
            ("build_serialized_network", "made no engine"),
            ("deserialize_cuda_engine", "refused to load the engine that it just built"),
            ("create_execution_context", "made no execution context"),
            ("set_tensor_address", "refused the address of the logits"),
        ],
    )
    def test_what_the_library_refuses_is_shown_with_its_log(self, fake: Fake, call: str, problem: str) -> None:
        fake.library.refused.add(call)
        with pytest.raises(BackendError) as caught:
            fake.build()
        assert problem in caught.value.summary
        assert caught.value.found == f"{call} was refused"

    @fake_of(TensorRTRTX())
    @pytest.mark.parametrize(
        ("call", "problem"),
        [
            ("set_compute_capability", "refused the target"),
            ("create_runtime_config", "made no runtime configuration"),
            ("create_runtime_cache", "made no runtime cache"),
            ("set_runtime_cache", "refused the runtime cache"),
        ],
    )
    def test_what_rtx_refuses_is_shown_with_its_log(self, fake: Fake, call: str, problem: str) -> None:
        fake.library.refused.add(call)
        with pytest.raises(BackendError) as caught:
            fake.build()
        assert problem in caught.value.summary
        assert caught.value.found == f"{call} was refused"

    def test_a_level_that_the_library_ignores_is_an_error(self, fake: Fake) -> None:
        fake.library.refused.add("builder_optimization_level")
        fake.backend = TensorRT(optimization_level=9)
        with pytest.raises(BackendError, match="refused optimisation level 9"):
            fake.build()

    def test_every_parser_error_is_shown(self, fake: Fake) -> None:
        fake.library.parser_errors = [
            FakeParserError("Conv", "conv1", "kernel is too large"),
            FakeParserError("", "", "no opset"),
        ]
        with pytest.raises(BackendError, match="cannot parse the ONNX model") as caught:
            fake.build()
        assert caught.value.found.split("\n          ") == ["Conv node conv1: kernel is too large", "no opset"]

    @fake_of(TensorRT(), TensorRTRTX())
    def test_the_second_build_loads_the_engine(self, fake: Fake) -> None:
        first, built = fake.build(), fake.names()
        second, loaded = fake.build(), fake.names()
        assert "build_serialized_network" in built
        assert "build_serialized_network" not in loaded
        assert first.facts() == second.facts()
        assert first.facts()["library_version"] == fake.library.__version__
        assert len(first.facts()["plan_sha256"]) == 64

    def test_an_engine_that_the_library_refuses_is_rebuilt_with_one_warning(
        self, fake: Fake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake.build()
        fake.calls()
        deserialize = tensorrt_api.FakeRuntime.deserialize_cuda_engine
        answers = iter([lambda *_: None, deserialize])

        def refuse_the_first(runtime: tensorrt_api.FakeRuntime, plan: bytes) -> Any:
            return next(answers)(runtime, plan)

        monkeypatch.setattr(tensorrt_api.FakeRuntime, "deserialize_cuda_engine", refuse_the_first)
        with pytest.warns(EngineCacheWarning, match="the library refuses it") as caught:
            fake.build()
        assert len(caught) == 1
        assert fake.names().count("build_serialized_network") == 1

    @fake_of(TensorRT(), TensorRTRTX())
    def test_the_key_holds_all_that_the_engine_depends_on(self, fake: Fake) -> None:
        fake.build(BuildSpec(CPU, Precision.TF32, BATCHES))
        (path,) = fake.directory.glob("*.engine")
        key = json.loads(path.read_bytes().partition(b"\n")[0])["key"]
        assert len(key.pop("source")) == 64
        assert key == {
            "library": fake.backend.module,
            "version": fake.library.__version__,
            "target": "NVIDIA GeForce RTX 4060 Ti, compute capability 8.9",
            "cuda": str(torch.version.cuda).partition(".")[0],
            "precision": "tf32",
            "tf32": True,
            "input": "float32",
            "batches": [1, 4, 8],
            "optimization_level": 3,
        }

    def test_other_weights_types_and_batches_are_other_engines(self, fake: Fake) -> None:
        for spec in (
            SPEC,
            dataclasses.replace(SPEC, precision=Precision.FP16),
            dataclasses.replace(SPEC, batches=BatchRange.exactly(4)),
            dataclasses.replace(SPEC, input=InputType.UINT8),
        ):
            fake.build(spec)
            assert "build_serialized_network" in fake.names()
        assert len(list(fake.directory.glob("*.engine"))) == 4

    def test_a_library_for_another_cuda_builds_another_engine(
        self, fake: Fake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("tensorrt-cu12", "tensorrt-cu13"):
            monkeypatch.setattr(tensorrt_versions, "package_version", {name: fake.library.__version__}.get)
            fake.build()
            assert "build_serialized_network" in fake.names()


class TestRunWithTheFake:
    def test_the_first_pass_tells_shape_and_addresses_and_queues_on_the_runners_stream(self, fake: Fake) -> None:
        runner, batch = fake.build(), images(4)
        address_of_logits = fake.calls()[-1]
        logits = runner.forward(batch)
        assert address_of_logits == ("set_tensor_address", "logits", logits.data_ptr())
        assert fake.calls() == [
            ("set_input_shape", "images", (4, 3, 32, 32)),
            ("set_tensor_address", "images", batch.data_ptr()),
            ("execute_async_v3", STREAM_HANDLE),
        ]
        fake.assert_right(logits, batch)

    @fake_of(TensorRT(), TensorRTRTX())
    def test_the_same_images_again_are_one_call(self, fake: Fake) -> None:
        runner, batch = fake.build(), images(4)
        runner.forward(batch)
        fake.calls()
        runner.forward(batch)
        assert fake.calls() == [("execute_async_v3", STREAM_HANDLE)]

    def test_only_what_changes_is_told(self, fake: Fake) -> None:
        runner, batch = fake.build(), images(8)
        runner.forward(batch)
        fake.calls()
        runner.forward(batch[:3])
        assert fake.names() == ["set_input_shape", "execute_async_v3"]
        runner.forward(images(8)[5:])
        assert fake.names() == ["set_tensor_address", "execute_async_v3"]

    @fake_of(TensorRT(), TensorRTRTX())
    def test_logits_are_right_at_every_batch_size_and_share_one_buffer(self, fake: Fake) -> None:
        runner = fake.build()
        addresses = set()
        for size in (1, 8, 3, 8, 1):
            batch = images(size)
            logits = runner.forward(batch)
            assert logits.shape == (size, 10)
            fake.assert_right(logits, batch)
            addresses.add(logits.data_ptr())
        assert len(addresses) == 1

    @fake_of(TensorRT(), TensorRTRTX())
    @pytest.mark.parametrize(
        ("call", "problem"),
        [
            ("set_input_shape", "refused the shape (4, 3, 32, 32)"),
            ("set_tensor_address", "refused the address of the images"),
            ("execute_async_v3", "refused the forward pass"),
        ],
    )
    def test_a_refused_call_is_an_error_with_the_log(self, fake: Fake, call: str, problem: str) -> None:
        runner = fake.build()
        fake.library.refused.add(call)
        with pytest.raises(BackendError) as caught:
            runner.forward(images(4))
        assert problem in caught.value.summary
        assert caught.value.found == f"{call} was refused"

    def test_a_batch_beyond_the_profile_never_reaches_the_library(self, fake: Fake) -> None:
        runner = fake.build()
        fake.calls()
        with pytest.raises(BackendError, match="do not fit this runner"):
            runner.forward(images(9))
        assert fake.calls() == []

    @fake_of(TensorRT(), TensorRTRTX())
    def test_the_bare_call_is_the_librarys_alone(self, fake: Fake) -> None:
        runner, batch = fake.build(), images(4)
        bare = runner.bare(batch)
        assert bare is not None
        logits = runner.forward(batch)
        fake.calls()
        batch.mul_(2)
        assert bare() is True
        assert fake.calls() == [("execute_async_v3", STREAM_HANDLE)]
        fake.assert_right(logits, batch)

    def test_synchronize_waits_for_the_runners_stream(self, fake: Fake) -> None:
        runner = fake.build()
        fake.calls()
        runner.synchronize()
        assert fake.calls() == [("synchronize",)]


@fake_of(TensorRT(cuda_graph=True))
class TestCudaGraphWithTheFake:
    def test_a_pass_is_run_and_waited_for_before_it_is_captured(self, fake: Fake) -> None:
        runner, batch = fake.build(), images(4)
        fake.calls()
        logits = runner.forward(batch)
        assert fake.calls()[2:] == [
            ("execute_async_v3", STREAM_HANDLE),
            ("synchronize",),
            ("begin_capture", STREAM_HANDLE, "thread_local"),
            ("execute_async_v3", STREAM_HANDLE),
            ("end_capture",),
            ("replay",),
        ]
        fake.assert_right(logits, batch)

    def test_the_same_images_again_are_one_replay_which_reads_them_anew(self, fake: Fake) -> None:
        runner, batch = fake.build(), images(4)
        runner.forward(batch)
        fake.calls()
        batch.mul_(2)
        fake.assert_right(runner.forward(batch), batch)
        assert fake.calls() == [("replay",)]

    def test_the_bare_call_is_the_replay(self, fake: Fake) -> None:
        runner, batch = fake.build(), images(4)
        bare = runner.bare(batch)
        assert bare is not None
        fake.calls()
        bare()
        assert fake.calls() == [("replay",)]

    def test_there_is_a_graph_for_each_batch_size_and_address(self, fake: Fake) -> None:
        runner, one, other = fake.build(), images(4), images(8)
        for batch, captures in ((one, 1), (other, 1), (other[:4], 1), (one, 0), (other, 0), (other[:4], 0)):
            fake.calls()
            fake.assert_right(runner.forward(batch), batch)
            assert fake.names().count("begin_capture") == captures

    def test_a_replay_tells_the_library_no_address(self, fake: Fake) -> None:
        """So the next capture has to, also of the images that were replayed last."""
        runner, one, other = fake.build(), images(4), images(8)
        for batch in (one, other, one, one[:2]):
            fake.assert_right(runner.forward(batch), batch)

    def test_graphs_are_few_and_the_latest_used(self, fake: Fake) -> None:
        runner = fake.build()
        first = images(4)
        runner.forward(first)
        for number in range(20):
            runner.forward(torch.full((4, *INPUT_SHAPE), float(number)))
        fake.calls()
        fake.assert_right(runner.forward(first), first)
        assert fake.names().count("begin_capture") == 1

    def test_a_pass_that_is_refused_in_the_capture_is_an_error_and_no_graph(
        self, fake: Fake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runner, batch = fake.build(), images(4)
        execute = tensorrt_api.FakeContext.execute_async_v3
        monkeypatch.setattr(
            tensorrt_api.FakeContext,
            "execute_async_v3",
            lambda self, handle: not self._library.capturing and execute(self, handle),
        )
        for _ in range(2):
            with pytest.raises(BackendError, match="refused the forward pass that was to be captured"):
                runner.forward(batch)
        assert "replay" not in fake.names()


class TestCloseWithTheFake:
    @fake_of(TensorRT(), TensorRT(cuda_graph=True), TensorRTRTX())
    @pytest.mark.parametrize("end", ["close", "del"])
    def test_engine_context_and_graphs_are_gone_without_the_collector(self, fake: Fake, end: str) -> None:
        kinds = (tensorrt_api.FakeEngine, tensorrt_api.FakeContext, tensorrt_api.FakeStream, tensorrt_api.FakeCudaGraph)
        with without_collector():
            runner = fake.build()
            for size in (4, 8, 4):
                runner.forward(images(size))
            references = held(runner, *kinds)
            assert {type(reference()) for reference in references} >= set(kinds[:3])
            if end == "close":
                fake.calls()
                runner.close()
                assert fake.names() == ["synchronize"]
            else:
                del runner
            assert [reference() for reference in references if reference() is not None] == []

    @fake_of(TensorRT(), TensorRT(cuda_graph=True), TensorRTRTX())
    def test_a_closed_runner_calls_the_library_no_more(self, fake: Fake) -> None:
        runner, batch = fake.build(), images(4)
        runner.forward(batch)
        runner.close()
        fake.calls()
        for use, arguments in {"forward": (batch,), "bare": (batch,), "facts": ()}.items():
            with pytest.raises(BackendError, match="was closed"):
                getattr(runner, use)(*arguments)
        runner.close()
        assert fake.calls() == []


class TestRtxWithTheFake:
    @fake_of(TensorRTRTX())
    def test_the_context_is_made_with_eager_kernels_and_the_runtime_cache(self, fake: Fake) -> None:
        fake.build()
        calls = fake.calls()
        names = [call[0] for call in calls]
        assert names.index("set_runtime_cache") < names.index("create_execution_context")
        settings = calls[names.index("create_execution_context")][1]
        strategy = fake.library.DynamicShapesKernelSpecializationStrategy
        assert settings["dynamic_shapes_kernel_specialization_strategy"] is strategy.EAGER
        assert settings["cuda_graph_strategy"] is fake.library.CudaGraphStrategy.DISABLED
        assert settings["runtime_cache"] is not None

    @fake_of(TensorRTRTX(cuda_graph=True))
    def test_rtx_captures_graphs_itself(self, fake: Fake) -> None:
        runner, batch = fake.build(), images(4)
        (settings,) = [call[1] for call in fake.calls() if call[0] == "create_execution_context"]
        assert settings["cuda_graph_strategy"] is fake.library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        fake.assert_right(runner.forward(batch), batch)
        assert "begin_capture" not in fake.names()

    @fake_of(TensorRTRTX())
    def test_kernels_are_stored_at_the_first_pass_of_a_batch_size_and_read_by_the_next_build(self, fake: Fake) -> None:
        runner = fake.build()
        for size, serialized in ((4, 1), (4, 0), (8, 1), (4, 0)):
            fake.calls()
            runner.forward(images(size))
            assert fake.names().count("serialize") == serialized
        (path,) = fake.directory.glob("*.kernels")
        assert path.read_bytes().endswith(b"\nkernels 4 8")

        written = path.stat().st_mtime_ns
        again = fake.build()
        assert ("deserialize", b"kernels 4 8") in fake.calls()
        again.forward(images(4))
        assert path.stat().st_mtime_ns == written, "nothing new was compiled, and yet it was written"

    @fake_of(TensorRTRTX())
    def test_kernels_that_the_library_refuses_are_compiled_anew(self, fake: Fake) -> None:
        fake.build().forward(images(4))
        fake.library.refused.add("deserialize")
        fake.build().forward(images(8))
        (path,) = fake.directory.glob("*.kernels")
        assert path.read_bytes().endswith(b"\nkernels 8")
