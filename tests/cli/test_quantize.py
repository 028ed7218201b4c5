from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lenet import weights
from lenet.cli import main
from lenet.data.synthetic import synthetic
from lenet.quantization import load
from lenet.vocabulary import Precision
from lenet.weights import Arrays


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments])


@pytest.fixture
def images(noise_directory: Path) -> tuple[object, ...]:
    return ("--data", noise_directory, "--accept-unknown-data")


@pytest.fixture
def own(arrays: Arrays, tmp_path: Path) -> Path:
    weights.save(tmp_path / "own.safetensors", arrays, {})
    return tmp_path / "own.safetensors"


def test_scales_lie_beside_the_weights_and_are_used(own: Path, images: tuple[object, ...], arrays: Arrays) -> None:
    evaluate = ("evaluate", "--weights", own, "--backend=pytorch", "--precision=int8", "--device=cpu", *images)
    missing = invoke(*evaluate)
    assert missing.exit_code == 2
    assert "the weights have no int8 scales" in missing.stderr
    done = invoke("quantize", "--weights", own, "--precision=int8", "--images=4", "--method=max", "--seed=3", *images)
    assert done.exit_code == 0, done.stderr
    found = load(own.with_suffix(".int8.safetensors"), arrays, Precision.INT8)
    assert found.notes == {"method": "max", "seed": 3, "images": 4, "reduce_range": False}
    export = invoke("export", "--weights", own, "--precision=int8", "--onnx", own.parent / "int8.onnx")
    assert export.exit_code == 0, export.stderr


def test_evaluate_tells_the_cost_apart_from_the_runtimes_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lenet.cli.evaluate.load_split", lambda *_, **__: synthetic(40))
    command = ("evaluate", "--backend=pytorch", "--precision=int8", "--device=cpu")
    found = json.loads(invoke(*command, "--json").stdout)
    cost = found["quantization"]
    assert found["backends"][0]["right"]
    assert cost["accuracy"] == pytest.approx(found["backends"][0]["accuracy"], abs=1e-3)
    assert cost["loss"] == pytest.approx(found["backends"][0]["loss"], rel=1e-3)
    assert cost["float_loss"] != cost["loss"]
    told = invoke(*command).stdout
    assert "What int8 costs, without any runtime's error:" in told
    assert f"float64 {cost['float_loss']:.7f}" in told


def test_the_shipped_weights_keep_their_scales(images: tuple[object, ...], tmp_path: Path) -> None:
    refused = invoke("quantize", "--precision=fp8", *images)
    assert refused.exit_code == 2
    assert "next:   lenet quantize --precision fp8 --out quantized" in refused.stderr
    out = tmp_path / "new" / "directory"
    done = invoke("quantize", "--precision=fp8", "--images=2", "--out", out, *images)
    assert done.exit_code == 0, done.stderr
    arrays = weights.load(out / weights.SHIPPED.name).arrays
    assert load(out / "lenet_cifar10.fp8.safetensors", arrays, Precision.FP8).notes["images"] == 2


def test_a_missing_precision_is_told_with_the_choices() -> None:
    result = CliRunner().invoke(main, ["quantize"])
    assert result.exit_code == 2
    assert "int8" in result.stderr
    assert "\\u0009" not in result.stderr


def test_more_images_than_there_are_is_refused_at_once(images: tuple[object, ...], tmp_path: Path) -> None:
    refused = invoke("quantize", "--precision=int8", "--images=50001", "--out", tmp_path / "out", *images)
    assert refused.exit_code == 2
    assert "50001 is not in the range 1<=x<=50000" in refused.output


def test_only_scales_of_the_same_weights_and_range_are_replaced(
    own: Path, images: tuple[object, ...], arrays: Arrays, tmp_path: Path
) -> None:
    command = ("quantize", "--precision=int8", "--images=2", "--weights", own, *images)
    assert invoke(*command, "--reduce-range").exit_code == 0
    scales = own.with_suffix(".int8.safetensors")
    reduced = scales.read_bytes()
    refused = invoke(*command)
    assert refused.exit_code == 2
    assert f"{scales} is there, and is not replaced\n  found:  scales for a reduced range\n" in refused.stderr
    assert scales.read_bytes() == reduced
    assert invoke(*command, "--reduce-range", "--method=max").exit_code == 0, "the same range, found another way"
    assert scales.read_bytes() != reduced

    scales.write_text("notes")
    assert "found:  cannot read" in invoke(*command).stderr
    assert scales.read_text() == "notes"

    out = tmp_path / "out"
    out.mkdir()
    weights.save(out / own.name, {name: 2 * array for name, array in arrays.items()}, {})
    other = (out / own.name).read_bytes()
    refused = invoke(*command, "--out", out)
    assert (refused.exit_code, "found:  another content" in refused.stderr) == (2, True)
    assert (out / own.name).read_bytes() == other
