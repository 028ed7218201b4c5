from __future__ import annotations

import dataclasses
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from lenet import backends
from lenet.backends import tensorrt_engine, tensorrt_versions
from lenet.backends.base import BatchRange, BuildSpec
from lenet.backends.precision import DTYPES
from lenet.backends.tensorrt import TensorRT
from lenet.backends.tensorrt_engine import TensorRTBackend
from lenet.backends.tensorrt_rtx import TensorRTRTX
from lenet.engine_cache import EngineCacheWarning
from lenet.errors import BackendError
from lenet.vocabulary import InputType, Precision
from tests.backends.tensorrt_fakes import BATCHES, CPU, CUDA, SPEC, Fake, fake_gpu, fake_library, fake_of
from tests.fakes import tensorrt_api
from tests.fakes.tensorrt_api import FakeParserError

both = pytest.mark.parametrize("backend", [TensorRT(), TensorRTRTX()], ids=lambda backend: backend.name)


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
