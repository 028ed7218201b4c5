"""Torch-TensorRT: what it is handed, and what is refused. The library is a fake."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from lenet import backends, parity
from lenet.architecture import INPUT_SHAPE
from lenet.backends import torch_tensorrt
from lenet.backends.base import BatchRange, BuildSpec, Runner
from lenet.backends.precision import DTYPES
from lenet.backends.torch_tensorrt import TorchTensorRT, TorchTensorRTRTX
from lenet.engine_cache import EngineCacheWarning
from lenet.errors import BackendError
from lenet.vocabulary import InputType, Precision
from lenet.weights import Arrays
from tests.backends.holding import held, without_collector
from tests.fakes.torch_tensorrt_api import FakeModule, FakeTorchTensorRT, UnsupportedOperatorException

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)

both = pytest.mark.parametrize("backend", [TorchTensorRT(), TorchTensorRTRTX()], ids=lambda one: one.name)
REQUIRES = {
    "torch-tensorrt": ["torch<2.15.0,>=2.14.0", "tensorrt-cu13<11.2.0,>=11.1.0", 'executorch<1.5; extra == "all"'],
    "torch-tensorrt-rtx": ["torch<2.15.0,>=2.14.0", "tensorrt_rtx<1.7.0.0,>=1.6.1.120"],
}
"""Of what the wheels of 2.14.0 require."""
INSTALLED = {"torch": "2.14.1+cu130", "tensorrt-cu13": "11.1.0.106", "tensorrt-rtx": "1.6.1.120", "onnx": "1.23.2"}


def install(monkeypatch: pytest.MonkeyPatch, backend: TorchTensorRT, **changes: str | None) -> None:
    """Have an environment with a backend's distribution, 2.14.0, and with what `INSTALLED` and the changes say."""
    found = INSTALLED | {backend.name: "2.14.0"} | {name.replace("_", "-"): text for name, text in changes.items()}

    def version(name: str) -> str:
        text = found.get(name.replace("_", "-"))
        if text is None:
            raise metadata.PackageNotFoundError(name)
        return text

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda name: REQUIRES[name])


def use_fake(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (8, 9)) -> FakeTorchTensorRT:
    library = FakeTorchTensorRT()
    monkeypatch.setitem(sys.modules, "torch_tensorrt", library)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA GeForce RTX 4060 Ti")
    return library


class TestProbe:
    @both
    def test_absent(self, backend: TorchTensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
        install(monkeypatch, backend, **{backend.name: None})
        command = backends.entry(backend.name).install
        assert command.endswith(f'pip install -e ".[{backend.name}]"')
        assert backend.probe(CUDA).reason == f"{backend.name} is not installed: {command}"
        assert backend.probe(CPU).reason == f"{backend.name} runs on cuda alone"

    @both
    def test_the_table_leads_here(self, backend: TorchTensorRT) -> None:
        assert type(backends.load(backend.name)) is type(backend)

    @pytest.mark.parametrize(
        ("backend", "changes", "reason"),
        [
            (
                TorchTensorRT(),
                {"torch": "2.15.0"},
                "torch-tensorrt 2.14.0 requires torch<2.15.0,>=2.14.0 (2.15.0 is installed): ",
            ),
            (
                TorchTensorRT(),
                {"torch": "2.11.0", "tensorrt_cu13": "10.15.1.29"},
                (
                    "torch-tensorrt 2.14.0 requires torch<2.15.0,>=2.14.0 (2.11.0 is installed) and "
                    "tensorrt-cu13<11.2.0,>=11.1.0 (10.15.1.29 is installed): "
                ),
            ),
            (
                TorchTensorRT(),
                {"tensorrt_cu13": None, "tensorrt_cu12": "11.1.0.106"},
                "torch-tensorrt 2.14.0 requires tensorrt-cu13<11.2.0,>=11.1.0 (not installed): ",
            ),
            (
                TorchTensorRTRTX(),
                {"tensorrt_rtx": "1.7.1.116"},
                "torch-tensorrt-rtx 2.14.0 requires tensorrt_rtx<1.7.0.0,>=1.6.1.120 (1.7.1.116 is installed): ",
            ),
            (TorchTensorRT(), {"tensorrt_cu13": None}, "tensorrt is not installed: "),
            (
                TorchTensorRT(),
                {"torch_tensorrt": "2.11.0"},
                "torch-tensorrt 2.11.0 is too old, at least 2.14 is wanted: ",
            ),
            (
                TorchTensorRT(),
                {"tensorrt_cu13_bindings": "11.0.0.114"},
                "two versions of tensorrt: tensorrt-cu13 11.1.0.106, tensorrt-cu13-bindings 11.0.0.114, ",
            ),
            (
                TorchTensorRT(),
                {"tensorrt_cu12": "11.1.0.106"},
                "two versions of tensorrt: tensorrt-cu13 11.1.0.106, tensorrt-cu12 11.1.0.106, ",
            ),
            (
                TorchTensorRTRTX(),
                {"torch_tensorrt": "2.14.0"},
                "torch-tensorrt and torch-tensorrt-rtx overwrite each other's files: ",
            ),
        ],
    )
    def test_an_environment_that_cannot_work(
        self,
        backend: TorchTensorRT,
        changes: dict[str, str | None],
        reason: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        install(monkeypatch, backend, **changes)
        found = str(backend.probe(CUDA).reason)
        assert found.startswith(reason)
        assert found.endswith(backends.entry(backend.name).install)
        assert not backend.probe(CUDA).broken

    def test_nothing_is_imported_where_there_is_no_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its import asks the driver for one, and would fail."""
        install(monkeypatch, TorchTensorRT())
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch_tensorrt, "_library", lambda: pytest.fail("it is imported"))
        assert TorchTensorRT().probe(CUDA).reason == "PyTorch sees no CUDA device: check `nvidia-smi`"

    def test_unloadable_and_talkative(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        install(monkeypatch, TorchTensorRT())
        use_fake(monkeypatch)
        (tmp_path / "torch_tensorrt.py").write_text(
            "import logging\nlogging.captureWarnings(True)\nlogging.getLogger(__name__ + '.x').warning('said')\n"
            "print('import error')\nraise OSError('libnvinfer.so.11: cannot open')"
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "torch_tensorrt")
        monkeypatch.setattr(logging.getLogger("torch_tensorrt"), "level", logging.NOTSET)
        records: list[logging.LogRecord] = []
        handler = logging.NullHandler()
        monkeypatch.setattr(handler, "handle", records.append)
        monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
        shown = warnings.showwarning
        found = TorchTensorRT().probe(CUDA)
        left = warnings.showwarning
        logging.captureWarnings(capture=False)
        assert found.reason == "torch_tensorrt cannot be loaded: libnvinfer.so.11: cannot open"
        assert found.broken
        assert left is shown
        assert records == []
        assert capsys.readouterr() == ("", "import error\n")

    @both
    def test_available(self, backend: TorchTensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
        install(monkeypatch, backend)
        use_fake(monkeypatch)
        monkeypatch.setattr(torch_tensorrt, "targets", lambda _: {"sm75": 0, "sm89": 1})
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", sys)
        availability = backend.probe(CUDA)
        assert availability
        assert availability.version == "2.14.0"

    def test_a_gpu_that_rtx_does_not_support(self, monkeypatch: pytest.MonkeyPatch) -> None:
        install(monkeypatch, TorchTensorRTRTX())
        use_fake(monkeypatch, (9, 0))
        monkeypatch.setattr(torch_tensorrt, "targets", lambda _: {"sm75": 0, "sm89": 1})
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", sys)
        reason = TorchTensorRTRTX().probe(CUDA).reason
        assert reason == "tensorrt-rtx runs on sm75, sm89, not on compute capability 9.0"


@pytest.mark.parametrize(
    ("backend", "old"),
    [(TorchTensorRT(), {Precision.FP32, Precision.FP16}), (TorchTensorRTRTX(), {Precision.FP16})],
)
def test_a_precision_that_the_gpu_has_not(
    backend: TorchTensorRT, old: set[Precision], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fake(monkeypatch, (8, 0))
    for precision in DTYPES:
        assert backend.executed_precision(precision, CUDA) == precision
        with pytest.raises(BackendError, match=f"{backend.name} does not run {precision} on cpu"):
            backend.executed_precision(precision, CPU)
    with pytest.raises(BackendError, match="does not run int8 on cuda"):
        backend.executed_precision(Precision.INT8, CUDA)
    use_fake(monkeypatch, (7, 5))
    for precision in set(DTYPES) - old:
        with pytest.raises(BackendError, match=r"8\.0 or newer"):
            backend.executed_precision(precision, CUDA)
    assert {backend.executed_precision(precision, CUDA) for precision in old} == old


BATCHES = BatchRange(1, 4, 8)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTorchTensorRT:
    """The library is a fake, and the device the CPU."""
    monkeypatch.setenv("LENET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    return use_fake(monkeypatch)


def build(
    arrays: Arrays,
    precision: Precision = Precision.FP32,
    batches: BatchRange = BATCHES,
    input_type: InputType = InputType.FLOAT32,
    backend: TorchTensorRT | None = None,
) -> Runner:
    return (backend or TorchTensorRT())._build(arrays, BuildSpec(CPU, precision, batches, input_type))


class TestBuild:
    @pytest.mark.parametrize("input_type", InputType)
    @pytest.mark.parametrize("precision", DTYPES)
    def test_the_program_that_is_handed_over_is_right(
        self, fake: FakeTorchTensorRT, arrays: Arrays, precision: Precision, input_type: InputType
    ) -> None:
        with build(arrays, precision, BATCHES, input_type) as runner:
            (options,) = fake.take("convert_exported_program_to_serialized_trt_engine")
            assert options["disable_tf32"] == (precision != "tf32")
            for size in (1, 8):
                images = torch.randn(size, *INPUT_SHAPE, generator=torch.Generator().manual_seed(size))
                if input_type is InputType.UINT8:
                    images = (images.abs() * 60).clamp(0, 255).to(torch.uint8)
                logits = runner.forward(images)
                allowed = parity.tolerance(arrays, images, precision)
                assert logits.dtype is torch.float32
                assert parity.compare(logits, parity.reference(arrays, images), allowed).right
        types = {parameter.dtype for parameter in options["exported_program"].state_dict.values()}
        assert types == {DTYPES[precision]}, "the program is what says the types"

    @pytest.mark.parametrize(
        ("batches", "shapes"),
        [
            (BatchRange.exactly(1), {"shape": (1, *INPUT_SHAPE)}),
            (
                BATCHES,
                {f"{name}_shape": (size, *INPUT_SHAPE) for name, size in (("min", 1), ("opt", 4), ("max", 8))},
            ),
        ],
    )
    def test_the_options(
        self, fake: FakeTorchTensorRT, arrays: Arrays, batches: BatchRange, shapes: dict[str, Any]
    ) -> None:
        build(arrays, batches=batches).close()
        (options,) = fake.take("convert_exported_program_to_serialized_trt_engine")
        assert options["arg_inputs"] == [shapes | {"dtype": torch.float32}]
        assert options["device"] == {"gpu_id": 0}
        assert (options["arg_input_binding_names"], options["output_binding_names"]) == (("images",), "logits")
        assert not Path(options["timing_cache_path"]).parent.exists(), "what lies there is nobody else's, and is gone"

    @both
    def test_the_module_that_runs_the_engine(
        self, fake: FakeTorchTensorRT, arrays: Arrays, backend: TorchTensorRT
    ) -> None:
        build(arrays, backend=backend).close()
        (setup,) = (arguments for name, arguments in fake.calls if name == "setup_engine")
        eager = {"dynamic_shapes_kernel_specialization_strategy": "eager", "runtime_cache": None}
        assert setup["runtime_settings"] == (eager if backend.name == "torch-tensorrt-rtx" else None)
        (module,) = fake.take("TorchTensorRTModule")
        assert (module["input_binding_names"], module["output_binding_names"]) == (["images"], ["logits"])
        assert module["settings"] == {"device": {"gpu_id": 0}, "lazy_engine_init": True}

    def test_the_second_build_loads_the_engine(self, fake: FakeTorchTensorRT, arrays: Arrays) -> None:
        with build(arrays) as first, build(arrays) as second:
            assert len(fake.take("convert_exported_program_to_serialized_trt_engine")) == 1
            assert first.facts() == second.facts()
            assert set(first.facts()) == {"library_version", "plan_sha256"}
        other = {name: array * 2 for name, array in arrays.items()}
        changes: list[Callable[[], Runner]] = [
            lambda: build(other),
            lambda: build(arrays, Precision.TF32),
            lambda: build(arrays, batches=BatchRange.exactly(4)),
            lambda: build(arrays, input_type=InputType.UINT8),
            lambda: build(arrays, backend=TorchTensorRTRTX()),
        ]
        for change in changes:
            change().close()
        assert len(fake.take("convert_exported_program_to_serialized_trt_engine")) == len(changes)

    def test_another_tensorrt_builds_anew_and_the_row_says_which(
        self, fake: FakeTorchTensorRT, arrays: Arrays, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for version in ("11.1.0.106", "11.1.1.1"):
            with monkeypatch.context() as patch:
                install(patch, TorchTensorRT(), tensorrt_cu13=version)
                with build(arrays) as runner:
                    assert runner.facts()["library_version"] == version
        assert len(fake.take("convert_exported_program_to_serialized_trt_engine")) == 2

    def test_an_operator_that_would_fall_back_to_pytorch_is_an_error(
        self, fake: FakeTorchTensorRT, arrays: Arrays
    ) -> None:
        fake.broken = UnsupportedOperatorException("Conversion of function aten::linalg_inv_ex not supported!\nWhile")
        with pytest.raises(BackendError, match=r"a network that torch_tensorrt 2\.14\.0 converts as a whole") as caught:
            build(arrays)
        assert caught.value.found == "Conversion of function aten::linalg_inv_ex not supported!"

    def test_a_builder_that_says_nothing_is_an_error_too(self, fake: FakeTorchTensorRT, arrays: Arrays) -> None:
        fake.broken = AssertionError()
        with pytest.raises(BackendError, match=r"AssertionError\(\)"):
            build(arrays)

    def test_an_option_that_a_release_has_not_is_not_lost_in_silence(
        self, fake: FakeTorchTensorRT, arrays: Arrays
    ) -> None:
        fake.lacks = ("disable_tf32", "timing_cache_path")
        with pytest.raises(BackendError, match="it has no option disable_tf32, timing_cache_path"):
            build(arrays)
        assert fake.take("convert_exported_program_to_serialized_trt_engine") == []

    def test_an_engine_that_is_refused_is_an_error_and_is_not_kept(
        self, fake: FakeTorchTensorRT, arrays: Arrays, tmp_path: Path
    ) -> None:
        fake.refuses = "Unable to deserialize the TensorRT engine"
        with pytest.raises(BackendError, match=r"(?s)found:  Unable to deserialize.*loads the engine that it just"):
            build(arrays)
        assert list((tmp_path / "cache").glob("*.engine")) == []

    def test_an_engine_of_the_cache_that_is_refused_is_built_anew_with_a_warning(
        self, fake: FakeTorchTensorRT, arrays: Arrays, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        build(arrays).close()
        setup, refused = FakeModule.setup_engine, iter(["another driver"])

        def set_up(module: FakeModule) -> None:
            module._refuses = next(refused, "")
            setup(module)

        monkeypatch.setattr(FakeModule, "setup_engine", set_up)
        with pytest.warns(EngineCacheWarning, match="the library refuses it"):
            build(arrays).close()
        assert len(fake.take("convert_exported_program_to_serialized_trt_engine")) == 2

    @pytest.mark.usefixtures("fake")
    @pytest.mark.parametrize("end", ["close", "del"])
    def test_what_a_runner_held_is_gone_without_the_collector(self, arrays: Arrays, end: str) -> None:
        """But the fake's own engine, which the fake keeps, and what the first export of a process leaves in cycles."""
        build(arrays).close()
        with without_collector():
            runner = build(arrays)
            (module,) = [one for one in held(runner) if type(one()).__name__ == "FakeModule"]
            if end == "close":
                runner.close()
            else:
                del runner
            assert module() is None

    @pytest.mark.usefixtures("fake")
    def test_the_bare_call_is_the_module_s(self, arrays: Arrays) -> None:
        with build(arrays) as runner:
            images = torch.randn(4, *INPUT_SHAPE)
            bare = runner.bare(images)
            assert bare is not None
            with torch.inference_mode():
                logits = bare()
                assert isinstance(logits, torch.Tensor)
                assert torch.equal(logits, runner.forward(images))
