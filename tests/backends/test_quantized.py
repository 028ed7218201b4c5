"""Every backend that runs the quantised networks here, against their exact evaluation."""

from __future__ import annotations

import importlib.util
import io
import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv2d

from lenet import backends, devices, weights
from lenet.architecture import INPUT_SHAPE
from lenet.backends import onnxruntime, openvino
from lenet.backends import precision as policy
from lenet.backends.base import BatchRange, BuildSpec, Runner
from lenet.backends.onnx_model import onnx_model
from lenet.cli import main
from lenet.comparison import layer_at_fault, logits_of
from lenet.data.augmentation import normalize
from lenet.data.synthetic import synthetic
from lenet.errors import BackendError, UnavailableError
from lenet.parity import Reference
from lenet.quantization import FORMATS, Scales, calibrate
from lenet.vocabulary import InputType, Precision

CPU = torch.device("cpu")
ARRAYS = weights.load().arrays
BATCHES = BatchRange(1, 8, 16)
PRECISIONS = [Precision(name) for name in FORMATS]


@cache
def scales(precision: Precision) -> Scales:
    """Scales that every CPU adds rightly with."""
    reduce_range = precision is Precision.INT8
    return calibrate(ARRAYS, synthetic(20).images, precision, reduce_range=reduce_range)


def subjects() -> list[tuple[str, str, Precision, InputType]]:
    devices_here = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    found = []
    for name in backends.names():
        backend = backends.load(name)
        for device in set(devices_here) & set(backend.devices):
            for precision in PRECISIONS:
                try:
                    backend.executed_precision(precision, devices.resolve(device))
                except BackendError:
                    continue
                found += [(name, device, precision, input_type) for input_type in InputType]
    return sorted(found)


@cache
def built(name: str, device: str, precision: Precision, input_type: InputType) -> Runner | str:
    backend, target = backends.load(name), devices.resolve(device)
    availability = backend.probe(target)
    if not availability:
        return availability.reason or "unavailable"
    return backend.build(ARRAYS, BuildSpec(target, precision, BATCHES, input_type, scales(precision)))


@pytest.fixture(params=subjects(), ids="-".join)
def runner(request: pytest.FixtureRequest) -> Runner:
    found = built(*request.param)
    if isinstance(found, str):
        pytest.skip(found)
    return found


@settings(max_examples=5, suppress_health_check=list(HealthCheck))
@given(size=st.integers(1, 16), seed=st.integers(0, 2**32), level=st.sampled_from([0.01, 1.0, 100.0]))
def test_logits_are_the_quantised_networks(runner: Runner, size: int, seed: int, level: float) -> None:
    """Images may saturate the first quantisation."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (size, *INPUT_SHAPE), dtype=torch.uint8, generator=generator)
    if runner.spec.input is InputType.FLOAT32:
        images = normalize(images) * level
    precision = runner.spec.precision
    compared = Reference(ARRAYS, images, scales).compare(logits_of(runner, images, size), precision)
    assert compared.right, compared


def refusal(name: str, precision: Precision, device: str) -> str | None:
    """Why a backend does not run a precision on a type of device, or None if it does."""
    try:
        backends.load(name).executed_precision(precision, torch.device(device))
    except BackendError as error:
        return error.found
    return None


@pytest.mark.parametrize("name", backends.names())
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_backend_without_a_precision_names_those_with_it(name: str, precision: Precision) -> None:
    known = backends.load(name).devices
    refusals = [refusal(name, precision, device) for device in known]
    wanted = [f"no {precision} on {device}: {policy.QUANTIZED[precision]} run it" for device in known]
    assert all(found in {None, told} for found, told in zip(refusals, wanted, strict=True))
    assert (None in refusals) == (name in policy.QUANTIZED[precision].replace(",", "").split())


def test_onnxruntime_that_computes_in_float_is_refused() -> None:
    """ONNX Runtime 1.32 fuses no convolution of the standard layout with its quantisation."""
    pytest.importorskip("onnxruntime", reason='pip install -e ".[onnx]"')
    spec = BuildSpec(CPU, Precision.INT8, BATCHES)
    assert onnxruntime.open_session(onnx_model(ARRAYS, spec, integer=True), spec, None)
    with pytest.raises(BackendError, match=r"ONNX Runtime does not run int8 here\n  found:  .*FusedConv"):
        onnxruntime.open_session(onnx_model(ARRAYS, spec), spec, None)


def test_openvino_that_computes_in_float_is_refused() -> None:
    pytest.importorskip("openvino", reason='pip install -e ".[openvino]"')
    spec = BuildSpec(CPU, Precision.INT8, BATCHES)
    openvino.refuse_float_layers(openvino.compile_model(onnx_model(ARRAYS, spec)))
    floats = openvino.compile_model(onnx_model(ARRAYS, BuildSpec(CPU, Precision.FP32, BATCHES)))
    with pytest.raises(BackendError, match=r"OpenVINO does not run int8 here\n  found:  FullyConnected by "):
        openvino.refuse_float_layers(floats)


@pytest.mark.parametrize(
    ("flags", "saturates"),
    [("fpu avx2 fma", True), ("avx2 avx_vnni", False), ("avx2 avx512_vnni", False), ("asimd", False)],
)
def test_openvino_refuses_weights_that_would_saturate(
    flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, saturates: bool
) -> None:
    """With the shipped weights, whose range is whole. Reduced ones are built above on any CPU."""
    pytest.importorskip("openvino", reason='pip install -e ".[openvino]"')
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(policy, "_CPU_INFO", tmp_path / "cpuinfo")
    spec = BuildSpec(CPU, Precision.INT8, BATCHES)
    if not saturates:
        backends.load("openvino").build(ARRAYS, spec).close()
        return
    with pytest.raises(
        UnavailableError, match=r"(?s)sums would saturate.*weight is 127.*lenet quantize --precision int8"
    ):
        backends.load("openvino").build(ARRAYS, spec)
    done = CliRunner().invoke(
        main, ["doctor", "openvino", "--here", "--precision", "int8", "--device", "cpu", "--json"]
    )
    (found,) = json.load(io.StringIO(done.stdout))["backends"]
    assert (done.exit_code, found["unavailable"]) == (0, True)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_layer_at_fault_is_named(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return conv2d(x, weight, bias) * (1.01 if len(weight) == 16 else 1)

    monkeypatch.setattr("lenet.models.quantized_lenet.conv2d", faulty)
    spec = BuildSpec(CPU, precision, BATCHES)
    assert layer_at_fault(backends.load("pytorch"), ARRAYS, spec, normalize(synthetic(8).images), precision) == "conv2"


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason='tensorrt_rtx is not installed: pip install -e ".[tensorrt-rtx]"',
)
class TestTensorRTRTX:
    """It builds for a GPU that is not here."""

    def build(self, precision: str, out: Path, *options: str) -> bytes:
        command = ["build", "--backend", "tensorrt-rtx", "--target", "sm89", "--precision", precision]
        done = CliRunner().invoke(main, [*command, *options, "--out", str(out)])
        assert done.exit_code == 0, done.stderr
        return out.read_bytes()

    def test_an_int8_engine_for_one_batch_size_is_the_same_each_time(self, tmp_path: Path) -> None:
        one = ("--min-batch=200", "--opt-batch=200", "--max-batch=200")
        first, second = (self.build("int8", tmp_path / name, *one) for name in ("1", "2"))
        assert first == second

    def test_an_int8_engine_for_a_range_is_the_same_each_time(self, tmp_path: Path) -> None:
        """But for the numbers in the names of its inner values, which differ between builds (1.7.1.116)."""
        first, second = (re.sub(rb"__mye\d+", b"", self.build("int8", tmp_path / name)) for name in ("1", "2"))
        assert first == second
        assert len(first) > 100_000

    def test_an_fp8_engine_is_built(self, tmp_path: Path) -> None:
        assert b"fp8" in self.build("fp8", tmp_path / "engine")

    def test_fp8_is_refused_for_an_older_gpu(self) -> None:
        from lenet.backends.tensorrt_rtx import TensorRTRTX

        model = onnx_model(ARRAYS, BuildSpec(CPU, Precision.FP8, BATCHES))
        with pytest.raises(BackendError, match="fp8_e4m3"):
            TensorRTRTX().build_ahead(model, Precision.FP8, BATCHES, "sm86")
