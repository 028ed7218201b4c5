"""TensorRT for RTX itself, as far as it goes without a GPU."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from lenet import weights
from lenet.backends.base import BatchRange
from lenet.backends.precision import DTYPES
from lenet.backends.tensorrt_api import build_plan, logger
from lenet.backends.tensorrt_rtx import TensorRTRTX, targets
from lenet.cli import main
from lenet.errors import BackendError
from lenet.export import to_onnx
from lenet.vocabulary import Precision
from tests import preloaded
from tests.backends.tensorrt_fakes import BATCHES, CUDA, ROOT
from tests.fakes import tensorrt_api
from tests.fakes.tensorrt_api import FakeTensorRT
from tests.fakes.tensorrt_bindings import RECORDED

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason='tensorrt_rtx is not installed: pip install -e ".[tensorrt-rtx]"',
)


@pytest.fixture(scope="module")
def trt() -> ModuleType:
    module: ModuleType = pytest.importorskip("tensorrt_rtx", reason='pip install -e ".[tensorrt-rtx]"')
    return module


@pytest.fixture(scope="module")
def models(onnx_models: dict[torch.dtype, bytes]) -> dict[Precision, bytes]:
    return {precision: onnx_models[DTYPES[precision]] for precision in DTYPES}


@needs_rtx
class TestRealRtx:
    """What of TensorRT for RTX needs no GPU."""

    def test_the_fake_has_nothing_that_the_library_lacks(self, trt: ModuleType) -> None:
        fake = FakeTensorRT("tensorrt_rtx", "1.7.1.116", lambda images: images)
        for imitation, name in tensorrt_api.IMITATIONS.items():
            original = getattr(trt, name)
            assert [each for each in vars(imitation) if each[0] != "_" and not hasattr(original, each)] == []
        for name, value in vars(fake).items():
            if name[0].isupper() and hasattr(value, "__members__"):
                members = getattr(trt, name).__members__
                assert set(value.__members__) <= set(members)
                if name in RECORDED["11.4.0.106"]:
                    assert {each: int(members[each]) for each in value.__members__} == dict(value.__members__)
        assert trt.ILogger.ERROR < trt.ILogger.WARNING < trt.ILogger.INFO

    def test_this_machine_is_told_what_it_lacks(self, trt: ModuleType) -> None:
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
        availability = TensorRTRTX().probe(CUDA)
        assert availability.version == trt.__version__
        assert availability.reason == "PyTorch sees no CUDA device: check `nvidia-smi`"

    @pytest.mark.parametrize("precision", DTYPES)
    def test_the_parser_accepts_the_model(
        self, trt: ModuleType, models: dict[Precision, bytes], precision: Precision
    ) -> None:
        log = logger(trt)
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        assert parser.parse(models[precision])
        assert (network.num_inputs, network.num_outputs) == (1, 1)
        taken, given = network.get_input(0), network.get_output(0)
        assert (taken.name, tuple(taken.shape), taken.dtype) == ("images", (-1, 3, 32, 32), trt.float32)
        assert (given.name, tuple(given.shape), given.dtype) == ("logits", (-1, 10), trt.float32)
        inside = {network.get_layer(i).get_output(0).dtype for i in range(network.num_layers)}
        half = {Precision.FP16: trt.float16, Precision.BF16: trt.bfloat16}.get(precision)
        assert (half in inside) == (half is not None)

    @pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.BF16])
    def test_a_model_of_bytes_builds(self, arrays: dict[str, np.ndarray], precision: Precision) -> None:
        model = to_onnx(arrays, DTYPES[precision], torch.uint8)
        assert TensorRTRTX().build_ahead(model, precision, BATCHES, "sm89")

    @pytest.mark.programs
    def test_two_processes_build_the_same_engines_for_an_rtx_4060_ti(
        self, models: dict[Precision, bytes], tmp_path: Path
    ) -> None:
        # This process is one of the two. The other comes of one that has imported PyTorch and no TensorRT.
        # Not so for bf16, of which the library writes one of several engines that differ in some bytes.
        for precision, model in models.items():
            (tmp_path / f"{precision}.onnx").write_bytes(model)
        code = """
from pathlib import Path
from lenet.backends.base import BatchRange
from lenet.vocabulary import Precision
from lenet.backends.tensorrt_rtx import TensorRTRTX
for precision in (Precision.FP32, Precision.TF32, Precision.FP16):
    model = Path(f"{precision}.onnx").read_bytes()
    Path(f"{precision}.plan").write_bytes(
        TensorRTRTX().build_ahead(model, precision, BatchRange(1, 200, 10_000), "sm89")
    )
"""
        done = preloaded.run("-c", code, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
        assert done.returncode == 0, done.stderr
        for precision in (Precision.FP32, Precision.TF32, Precision.FP16):
            here = TensorRTRTX().build_ahead(models[precision], precision, BatchRange(1, 200, 10_000), "sm89")
            assert (tmp_path / f"{precision}.plan").read_bytes() == here

    def test_every_target_builds_in_fp16(self, trt: ModuleType, models: dict[Precision, bytes]) -> None:
        assert {"sm75", "sm80", "sm86", "sm89", "sm120"} <= set(targets(trt))
        for target in targets(trt):
            assert TensorRTRTX().build_ahead(models[Precision.FP16], Precision.FP16, BATCHES, target)

    def test_tf32_is_a_choice_that_changes_the_engine(self, models: dict[Precision, bytes]) -> None:
        fp32, tf32 = (
            TensorRTRTX().build_ahead(models[precision], precision, BATCHES, "sm89")
            for precision in (Precision.FP32, Precision.TF32)
        )
        assert fp32 != tf32

    def test_an_unknown_target_is_refused_with_the_known_ones(self) -> None:
        with pytest.raises(BackendError, match=r"(?s)does not build for 'sm90'.*wanted: sm75, .*sm89"):
            TensorRTRTX().build_ahead(b"", Precision.FP32, BATCHES, "sm90")

    def test_what_a_target_cannot_run_is_told_by_the_library(self, models: dict[Precision, bytes]) -> None:
        with pytest.raises(BackendError, match=r"(?s)made no engine\n  found:  .*(?i:sm75|turing)"):
            TensorRTRTX().build_ahead(models[Precision.BF16], Precision.BF16, BATCHES, "sm75")

    def test_a_level_out_of_range_is_refused(self, trt: ModuleType, models: dict[Precision, bytes]) -> None:
        with pytest.raises(BackendError, match="refused optimisation level 99"):
            build_plan(trt, models[Precision.FP32], precision=Precision.FP32, batches=BATCHES, optimization_level=99)

    @pytest.mark.parametrize("maximum", [2**31, 2**70])
    def test_a_batch_that_no_dimension_holds_is_refused(
        self, trt: ModuleType, models: dict[Precision, bytes], maximum: int
    ) -> None:
        with pytest.raises(BackendError, match=rf"refused the batch sizes\n  found:  .*\({maximum}, 3,.*: \w+"):
            build_plan(trt, models[Precision.FP32], precision=Precision.FP32, batches=BatchRange(1, 2, maximum))

    def test_bytes_that_are_no_onnx_are_refused_with_the_parsers_message(self, trt: ModuleType) -> None:
        with pytest.raises(BackendError, match=r"(?s)cannot parse.*found:  .*Failed to parse the ONNX model"):
            build_plan(trt, b"no model", precision=Precision.FP32, batches=BATCHES)

    def test_every_operator_that_the_parser_lacks_is_named(
        self, trt: ModuleType, models: dict[Precision, bytes]
    ) -> None:
        onnx = pytest.importorskip("onnx", reason='pip install -e ".[onnx]"')
        model = onnx.load_from_string(models[Precision.FP32])
        relus = [node for node in model.graph.node if node.op_type == "Relu"]
        relus[0].op_type, relus[1].op_type = "Frobnicate", "Wobble"
        with pytest.raises(BackendError) as caught:
            build_plan(trt, model.SerializeToString(), precision=Precision.FP32, batches=BATCHES)
        first, second = caught.value.found.split("\n          ")
        assert first.startswith(f"Frobnicate node {relus[0].name}: ")
        assert second.startswith(f"Wobble node {relus[1].name}: ")

    def test_lenet_build_writes_an_engine(
        self, arrays: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        weights.save(tmp_path / "w.safetensors", arrays, {})
        out = tmp_path / "lenet.plan"
        command = [
            "build",
            "--backend",
            "tensorrt-rtx",
            "--out",
            str(out),
            "--weights",
            str(tmp_path / "w.safetensors"),
        ]
        result = CliRunner().invoke(main, [*command, "--target", "sm89", "--precision", "fp16"])
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith(f"{out}: {out.stat().st_size:,} bytes, sha256 ")
        assert ", exported in " in result.output

        out.unlink()
        monkeypatch.setattr("lenet.export.to_onnx", lambda *_: pytest.fail("exported before the target was known"))
        result = CliRunner().invoke(main, [*command, "--target", "sm90"])
        assert result.exit_code == 2
        assert "does not build for 'sm90'" in result.output
        assert not out.exists()
