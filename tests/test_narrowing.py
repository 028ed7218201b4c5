"""Every place that rounds weights to a narrower type, with a weight that does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from lenet import backends, export, kernels, weights
from lenet.backends.base import BatchRange, BuildSpec
from lenet.cli import main
from lenet.errors import LenetError, WeightsError
from lenet.models.byte_input import fold_normalization
from lenet.vocabulary import InputType, Precision
from lenet.weights import Arrays

CPU = torch.device("cpu")
TOO_LARGE = 7e4
"""For fp16, whose largest number is 65,504."""


def with_one(arrays: Arrays, name: str, value: float) -> Arrays:
    changed = arrays[name].copy()
    changed.flat[0] = value
    return arrays | {name: changed}


def pack(precision: str, arrays: Arrays, *, bytes_in: bool = False) -> np.ndarray:
    return kernels.pack(arrays, kernels.Variant(precision, 1, bytes_in=bytes_in, shared_bytes=99 * 1024))


def build(arrays: Arrays, input_type: InputType) -> object:
    spec = BuildSpec(CPU, Precision.FP16, BatchRange.exactly(1), input_type)
    return backends.load("pytorch").build(arrays, spec)


NARROWING: dict[str, Callable[[Arrays], object]] = {
    "export": lambda arrays: export.to_onnx(arrays, torch.float16),
    "export of bytes": lambda arrays: export.to_onnx(arrays, torch.float16, torch.uint8),
    "pytorch": lambda arrays: build(arrays, InputType.FLOAT32),
    "pytorch of bytes": lambda arrays: build(arrays, InputType.UINT8),
    "fused": lambda arrays: pack("fp16", arrays),
    "fused of bytes": lambda arrays: pack("fp16", arrays, bytes_in=True),
}


@pytest.mark.parametrize("name", ["conv2.weight", "fc1.weight", "fc3.weight"])
@pytest.mark.parametrize("place", NARROWING)
def test_a_weight_beyond_fp16_is_named(place: str, name: str, arrays: Arrays) -> None:
    if place.startswith("export"):
        pytest.importorskip("onnx", reason='pip install -e ".[onnx]"')
    with pytest.raises(WeightsError, match=rf"{name} does not fit into float16\n  found:  a value of size 70000"):
        NARROWING[place](with_one(arrays, name, TOO_LARGE))


def test_the_folded_weights_are_what_must_fit(arrays: Arrays) -> None:
    """Of bytes, conv1's weights are divided by 255 and more: a weight that is too large may fit, a bias may not."""
    large = with_one(arrays, "conv1.weight", TOO_LARGE)
    assert np.isfinite(pack("fp16", large, bytes_in=True).view(np.float16)[:100]).all()
    with pytest.raises(WeightsError, match=r"conv1\.weight does not fit into float16"):
        pack("fp16", large)
    largest = float(np.finfo(np.float32).max)
    beyond = arrays | {"conv1.weight": np.full_like(arrays["conv1.weight"], -largest)}
    for fold in (fold_normalization, lambda changed: pack("fp32", changed, bytes_in=True)):
        with pytest.raises(WeightsError, match=r"conv1\.bias does not fit into float32"):
            fold(beyond)


def test_fp16x2_and_bf16_take_what_fp16_does_not(arrays: Arrays) -> None:
    large = with_one(arrays, "fc1.weight", TOO_LARGE)
    for precision in ("fp16x2", "bf16", "fp32"):
        assert pack(precision, large).size
    with pytest.raises(WeightsError, match=r"fc1\.weight does not fit into bfloat16"):
        pack("bf16", with_one(arrays, "fc1.weight", float(np.finfo(np.float32).max)))


def test_the_commands_refuse_before_they_write(arrays: Arrays, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason='pip install -e ".[onnx]"')
    weights.save(tmp_path / "w.safetensors", with_one(arrays, "fc2.weight", TOO_LARGE), {})
    out = tmp_path / "out"
    options = ["--weights", str(tmp_path / "w.safetensors"), "--precision", "fp16"]
    done = CliRunner().invoke(main, ["export", "--onnx", str(out), *options])
    assert (done.exit_code, out.exists()) == (LenetError.exit_code, False)
    assert "lenet: fc2.weight does not fit into float16\n" in done.stderr
