from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from lenet import export, weights
from lenet.architecture import LAYERS
from lenet.cli import main
from lenet.data.augmentation import normalize
from lenet.data.synthetic import synthetic
from lenet.errors import ExportError, WeightsError
from lenet.models.pytorch_lenet import from_weights

onnx = pytest.importorskip("onnx", reason='pip install -e ".[onnx]"')

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
HALF_ROUNDINGS = 8
"""How many roundings of the half type a logit may be off by: one for each cast, weight and layer on its way, which
cancel in part (1.8 were measured)."""


@pytest.fixture(scope="session", params=[1, 2, 33], ids="batch{}".format)
def images(request: pytest.FixtureRequest) -> np.ndarray:
    generator = np.random.default_rng(request.param)
    return generator.standard_normal((request.param, 3, 32, 32), dtype=np.float32)


def pytorch_logits(arrays: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        logits: np.ndarray = from_weights(arrays)(torch.from_numpy(images)).numpy()
        return logits


def reference_logits(model: bytes, images: np.ndarray) -> np.ndarray:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(onnx.load_from_string(model))
    (logits,) = evaluator.run(None, {export.INPUT: images})
    assert isinstance(logits, np.ndarray)
    return logits


def onnxruntime_logits(model: bytes, images: np.ndarray) -> np.ndarray:
    onnxruntime = pytest.importorskip("onnxruntime", reason='pip install -e ".[onnx]"')
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {export.INPUT: images})
    assert isinstance(logits, np.ndarray)
    return logits


@pytest.mark.parametrize("execute", [reference_logits, onnxruntime_logits])
def test_float32_gives_pytorchs_logits(
    execute: object, onnx_models: dict[torch.dtype, bytes], arrays: dict[str, np.ndarray], images: np.ndarray
) -> None:
    assert callable(execute)
    logits = execute(onnx_models[torch.float32], images)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, pytorch_logits(arrays, images), rtol=0, atol=1e-5)


def test_bytes_are_taken_where_they_are_asked_for(arrays: dict[str, np.ndarray]) -> None:
    split = synthetic(5)
    model = export.to_onnx(arrays, images=torch.uint8)
    (images,) = onnx.load_from_string(model).graph.input
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    wanted = pytorch_logits(arrays, normalize(split.images).numpy())
    np.testing.assert_allclose(onnxruntime_logits(model, split.images.numpy()), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_off_by_a_few_roundings(
    dtype: torch.dtype, onnx_models: dict[torch.dtype, bytes], arrays: dict[str, np.ndarray], images: np.ndarray
) -> None:
    logits, wanted = reference_logits(onnx_models[dtype], images), pytorch_logits(arrays, images)
    assert logits.dtype == np.float32
    rounding = torch.finfo(dtype).eps / 2
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=HALF_ROUNDINGS * rounding * np.abs(wanted).max())
    assert not np.array_equal(logits, wanted), "nothing was rounded"


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_ends_are_float32_with_a_dynamic_batch(dtype: torch.dtype, onnx_models: dict[torch.dtype, bytes]) -> None:
    model = onnx.load_from_string(onnx_models[dtype])
    onnx.checker.check_model(model, full_check=True)
    (images,), (logits,) = model.graph.input, model.graph.output

    def dimensions(value: object) -> list[str | int]:
        return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]  # type: ignore[attr-defined]

    assert (images.name, dimensions(images)) == ("images", ["batch", 3, 32, 32])
    assert (logits.name, dimensions(logits)) == ("logits", ["batch", 10])
    assert images.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert logits.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [entry.version for entry in model.opset_import] == [22 if dtype is torch.bfloat16 else 20]


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_inside_have_the_type_and_the_architectures_names(
    dtype: torch.dtype, onnx_models: dict[torch.dtype, bytes], arrays: dict[str, np.ndarray]
) -> None:
    graph = onnx.load_from_string(onnx_models[dtype]).graph
    element = {
        torch.float32: onnx.TensorProto.FLOAT,
        torch.float16: onnx.TensorProto.FLOAT16,
        torch.bfloat16: onnx.TensorProto.BFLOAT16,
    }[dtype]
    types = {tensor.name: tensor.data_type for tensor in graph.initializer if tensor.name in arrays}
    assert types == dict.fromkeys(arrays, element)
    casts = [node.output[0] for node in graph.node if node.op_type == "Cast"]
    assert len(casts) == (0 if dtype is torch.float32 else 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_layer_is_a_node_of_its_name(dtype: torch.dtype, onnx_models: dict[torch.dtype, bytes]) -> None:
    graph = onnx.load_from_string(onnx_models[dtype]).graph
    assert [node.name for node in graph.node if node.op_type != "Cast"] == [layer.name for layer in LAYERS]


@pytest.mark.programs
def test_another_process_writes_the_same_bytes(
    onnx_models: dict[torch.dtype, bytes], arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    np.savez(tmp_path / "arrays.npz", allow_pickle=False, **arrays)
    code = (
        "import numpy, torch; from lenet.export import to_onnx; arrays = dict(numpy.load('arrays.npz'));"
        "[open(str(t), 'wb').write(to_onnx(arrays, t)) for t in (torch.float32, torch.bfloat16)]"
    )
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    for dtype in (torch.float32, torch.bfloat16):
        assert (tmp_path / str(dtype)).read_bytes() == onnx_models[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_trace_of_the_machine_is_left(dtype: torch.dtype, onnx_models: dict[torch.dtype, bytes]) -> None:
    assert str(Path(__file__).parents[1]).encode() not in onnx_models[dtype]
    assert b"site-packages" not in onnx_models[dtype]
    assert b"stack_trace" not in onnx_models[dtype]


def test_the_order_of_the_weights_does_not_matter(
    onnx_models: dict[torch.dtype, bytes], arrays: dict[str, np.ndarray]
) -> None:
    assert export.to_onnx(dict(reversed(arrays.items()))) == onnx_models[torch.float32]


def test_other_weights_give_other_bytes(onnx_models: dict[torch.dtype, bytes], arrays: dict[str, np.ndarray]) -> None:
    other = arrays | {"fc3.bias": arrays["fc3.bias"] + np.float32(1)}
    assert export.to_onnx(other) != onnx_models[torch.float32]


def test_weights_that_do_not_fit_are_refused(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(WeightsError, match=r"fc3\.bias has the wrong shape"):
        export.to_onnx(arrays | {"fc3.bias": np.zeros(11, np.float32)})


def test_a_missing_package_is_named_with_the_command(
    arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "package_version", lambda _: None)
    with pytest.raises(ExportError, match=r'(?s)found:  no onnx\n.*pip install -e "\.\[export\]"'):
        export.to_onnx(arrays)


def test_a_dtype_that_the_operators_lack_is_refused_by_the_checker(
    arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "LATER_OPSET", 18)
    with pytest.raises(ExportError, match=r"(?s)ONNX's checker refuses LeNet.*bfloat16.*onnx \d"):
        export.to_onnx(arrays, torch.bfloat16)


def test_lenet_export_writes_the_model(
    onnx_models: dict[torch.dtype, bytes], arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    weights.save(tmp_path / "w.safetensors", arrays, {})
    out = tmp_path / "lenet.onnx"
    options = ["--onnx", str(out), "--weights", str(tmp_path / "w.safetensors"), "--precision", "fp16"]
    result = CliRunner().invoke(main, ["export", *options])
    assert result.exit_code == 0, result.output
    assert out.read_bytes() == onnx_models[torch.float16]
    digest = hashlib.sha256(onnx_models[torch.float16]).hexdigest()
    assert result.stdout.startswith(f"{out}: {out.stat().st_size:,} bytes, sha256 {digest}, exported in ")
