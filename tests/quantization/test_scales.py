from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lenet import weights
from lenet.data.synthetic import synthetic
from lenet.documents import to_json
from lenet.errors import LenetError, QuantizationError
from lenet.quantization import FORMATS, Scales, calibrate, load, path_beside, resolve, save
from lenet.vocabulary import Precision
from lenet.weights import Arrays

INT8 = Precision.INT8


@pytest.fixture(scope="module")
def scales(arrays: Arrays) -> Scales:
    return calibrate(arrays, synthetic(20).images, INT8)


@pytest.mark.parametrize("precision", [Precision(name) for name in FORMATS])
def test_the_shipped_weights_have_shipped_scales(precision: Precision) -> None:
    shipped = weights.load().arrays
    found = resolve(shipped, precision, None)
    assert found.precision == precision
    assert found.digest == weights.digest(shipped)
    assert found.notes == {"method": "percentile", "seed": 0, "images": 256, "reduce_range": False}


def test_what_is_saved_is_loaded(scales: Scales, arrays: Arrays, tmp_path: Path) -> None:
    path = path_beside(tmp_path / "weights.safetensors", INT8)
    save(path, scales)
    found = load(path, arrays, INT8)
    assert path.name == "weights.int8.safetensors"
    assert (found.inputs, found.digest, found.notes) == (scales.inputs, scales.digest, scales.notes)
    assert all(np.array_equal(found.weights[name], scales.weights[name]) for name in scales.weights)
    content = path.read_bytes()
    save(path, found)
    assert path.read_bytes() == content


def tensors(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    """Write a file again with other tensors."""

    def write(path: Path) -> None:
        arrays, metadata = weights.read_safetensors(path)
        change(arrays)
        path.write_bytes(weights.to_safetensors(arrays, metadata))

    return write


def metadata(**changed: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        arrays, found = weights.read_safetensors(path)
        texts = {key: to_json(value) for key, value in changed.items() if value is not None}
        kept = {key: text for key, text in found.items() if key not in changed}
        path.write_bytes(weights.to_safetensors(arrays, kept | texts))

    return write


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, r"the weights have no int8 scales\n  found:  no "),
    "damaged": (flip, "is damaged"),
    "of weights": (lambda path: path.write_bytes(weights.SHIPPED.read_bytes()), "holds no scales"),
    "of fp8": (metadata(precision="fp8"), r"holds scales of another precision\n  found:  fp8"),
    "of other weights": (metadata(weights="00" * 32), r"belong to other weights\n  found:  weights 000000000000"),
    "without a tensor": (tensors(lambda a: a.pop("fc1.weight_scale")), r"fc1\.weight_scale\n  found:  no such tensor"),
    "with another tensor": (tensors(lambda a: a.update(x=np.zeros(1))), r"LeNet: x\n  found:  float64 \(1,\)"),
    "of another shape": (
        tensors(lambda a: a.update({"conv1.weight_scale": np.ones(5, np.float32)})),
        r"conv1\.weight_scale\n  found:  float32 \(5,\)\n  wanted: float32 \(6,\)",
    ),
    "of another dtype": (
        tensors(lambda a: a.update({"fc3.input_scale": np.ones((), np.float64)})),
        r"fc3\.input_scale\n  found:  float64 \(\)",
    ),
    "zero": (tensors(lambda a: a["fc2.weight_scale"].__setitem__(3, 0)), r"fc2\.weight_scale is no scale\n  found:  0"),
    "not finite": (
        tensors(lambda a: a.update({"fc2.input_scale": np.array(np.inf, np.float32)})),
        r"fc2\.input_scale is no scale\n  found:  inf",
    ),
    "negative": (tensors(lambda a: a["fc2.weight_scale"].__setitem__(3, -1)), r"found:  -1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_file_is_refused(fault: str, scales: Scales, arrays: Arrays, tmp_path: Path) -> None:
    path = tmp_path / "weights.int8.safetensors"
    save(path, scales)
    spoil, message = FAULTS[fault]
    spoil(path)
    with pytest.raises(LenetError, match=message):
        load(path, arrays, INT8)


def test_an_error_names_the_command_that_makes_the_scales(arrays: Arrays, tmp_path: Path) -> None:
    own = tmp_path / "my weights.v2.safetensors"
    own.touch()
    path = path_beside(own, INT8)
    with pytest.raises(QuantizationError) as missing:
        load(path, arrays, INT8)
    assert missing.value.hint == f"lenet quantize --precision int8 --weights '{tmp_path}/my weights.v2.safetensors'"
    with pytest.raises(QuantizationError) as of_others:
        resolve(arrays, INT8, None)
    assert of_others.value.hint == "lenet quantize --precision int8 --weights FILE"
    with pytest.raises(QuantizationError) as of_another_suffix:
        load(path_beside(tmp_path / "weights.bin", INT8), arrays, INT8)
    assert of_another_suffix.value.hint == "lenet quantize --precision int8 --weights FILE"


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - {"missing"}))
def test_a_file_that_the_command_would_not_replace_is_to_be_deleted_first(
    fault: str, scales: Scales, arrays: Arrays, tmp_path: Path
) -> None:
    own = tmp_path / "weights.safetensors"
    own.touch()
    path = path_beside(own, INT8)
    save(path, scales)
    FAULTS[fault][0](path)
    with pytest.raises(LenetError) as refused:
        load(path, arrays, INT8)
    assert refused.value.hint == f"delete it, then lenet quantize --precision int8 --weights {own}"


def test_scales_of_other_weights_are_refused(scales: Scales, arrays: Arrays) -> None:
    with pytest.raises(QuantizationError, match="belong to other weights"):
        resolve(weights.load().arrays, INT8, scales)
    with pytest.raises(QuantizationError, match="belong to other weights"):
        resolve(arrays, INT8, None)
    assert resolve(arrays, INT8, scales) is scales
    with pytest.raises(QuantizationError, match=r"fc1\.input_scale is no scale"):
        resolve(arrays, INT8, replace(scales, inputs={**scales.inputs, "fc1": np.float32(np.nan)}))
