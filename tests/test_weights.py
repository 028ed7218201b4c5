from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import save as save_tensors

from lenet import weights
from lenet.architecture import PARAMETER_SHAPES
from lenet.errors import WeightsError
from lenet.weights import Arrays


def test_what_is_saved_is_loaded(arrays: Arrays, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    weights.save(path, arrays, {"recipe": {"epochs": 60}})
    loaded = weights.load(path)
    assert loaded.arrays.keys() == arrays.keys()
    assert all(np.array_equal(loaded.arrays[name], arrays[name]) for name in arrays)
    assert json.loads(loaded.metadata["recipe"]) == {"epochs": 60}


@given(name=st.sampled_from(list(PARAMETER_SHAPES)), value=st.sampled_from([np.nan, np.inf, -np.inf]), data=st.data())
def test_one_value_that_is_not_finite_is_found(arrays: Arrays, name: str, value: float, data: st.DataObject) -> None:
    changed = arrays[name].copy()
    changed.flat[data.draw(st.integers(0, changed.size - 1))] = value
    with pytest.raises(WeightsError, match=rf"{name} is not finite\n  found:  1 values"):
        weights.check(arrays | {name: changed}, "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {k: v for k, v in a.items() if k != "fc1.bias"}, r"a tensor is missing\n  found:  no fc1\.bias"),
        (lambda a: a | {"fc4.bias": a["fc3.bias"]}, r"a tensor is not LeNet's\n  found:  fc4\.bias"),
        (lambda a: a | {"fc1.weight": a["fc1.weight"].T.copy()}, r"(?s)wrong shape.*\(400, 120\).*\(120, 400\)"),
        (lambda a: a | {"fc3.bias": a["fc3.bias"].astype(np.float64)}, r"(?s)wrong dtype.*float64.*float32"),
    ],
)
def test_weights_that_do_not_fit_are_refused(arrays: Arrays, tmp_path: Path, change: object, message: str) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(change(arrays), path)  # type: ignore[operator]
    with pytest.raises(WeightsError, match=message):
        weights.load(path)


@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "BF16"), (torch.float8_e4m3fn, "F8_E4M3")])
def test_a_dtype_that_numpy_has_not_is_refused(arrays: Arrays, tmp_path: Path, dtype: torch.dtype, name: str) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(save_tensors({name: torch.tensor(array).to(dtype) for name, array in arrays.items()}))
    with pytest.raises(WeightsError, match=f"a tensor of dtype {name}, which NumPy has not"):
        weights.load(path)


def test_nothing_is_written_that_could_not_be_loaded(arrays: Arrays, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="missing"):
        weights.save(tmp_path / "weights.safetensors", {"fc1.bias": arrays["fc1.bias"]}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"\xff" * 100, None])
def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match="cannot read"):
        weights.load(path)


def test_a_directory_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="found:  Is a directory\n"):
        weights.load(tmp_path)


@given(cut=st.floats(0, 1, exclude_max=True))
def test_every_truncated_file_is_refused(cut: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    content = weights.SHIPPED.read_bytes()
    path = tmp_path_factory.mktemp("cut") / "weights.safetensors"
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(WeightsError):
        weights.load(path)


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_every_flipped_bit_is_noticed(place: float, bit: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Or changes no tensor, as in the name of the digest itself."""
    shipped = weights.load()
    path = tmp_path_factory.mktemp("flipped") / "weights.safetensors"
    weights.save(path, shipped.arrays, {"recipe": {"epochs": 60}})
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    try:
        found = weights.load(path)
    except WeightsError:
        return
    assert all(np.array_equal(array, shipped.arrays[name]) for name, array in found.arrays.items())


def test_a_value_changed_after_the_file_was_written_is_called_damage(arrays: Arrays, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    weights.save(path, arrays, {})
    content = path.read_bytes()
    path.write_bytes(content[:-4] + np.float32(0.5).tobytes())
    with pytest.raises(WeightsError, match=r"is damaged\n  found:  values other than those that were written"):
        weights.load(path)


def test_shipped_weights_name_recipe_and_metrics() -> None:
    shipped = weights.load()
    recipe = json.loads(shipped.metadata["recipe"])
    assert (recipe["epochs"], recipe["seed"], recipe["train_images"]) == (60, 0, 0)
    metrics = json.loads(shipped.metadata["metrics"])
    assert metrics["test_accuracy"] >= 0.715
    assert metrics["test_loss"] <= 0.82


def test_the_same_weights_give_the_same_file(arrays: Arrays) -> None:
    metadata = {str(number): "a value" for number in range(10)}
    files = {weights.to_safetensors(dict(reversed(arrays.items())), metadata) for _ in range(10)}
    files |= {weights.to_safetensors(arrays, dict(reversed(metadata.items()))) for _ in range(10)}
    assert len(files) == 1


def test_the_library_reads_what_is_written(arrays: Arrays, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    weights.save(path, arrays, {"note": "ä"})
    with safe_open(path, framework="numpy") as file:
        assert set(file.metadata()) == {"note", "sha256"}
        assert all(np.array_equal(file.get_tensor(name), array) for name, array in arrays.items())


@given(
    name=st.sampled_from(list(PARAMETER_SHAPES)),
    dtype=st.sampled_from([torch.float16, torch.bfloat16]),
    value=st.floats(allow_nan=False, allow_infinity=False, width=32),
)
def test_a_weight_beyond_a_type_is_named_and_any_other_is_rounded(
    arrays: Arrays, name: str, dtype: torch.dtype, value: float
) -> None:
    changed = arrays[name].copy()
    changed.flat[0] = value
    rounded = torch.tensor(changed).to(dtype)
    if rounded.isfinite().all():
        assert torch.equal(weights.narrow(arrays | {name: changed}, dtype)[name], rounded)
    else:
        with pytest.raises(
            WeightsError, match=rf"{name} does not fit into {str(dtype)[6:]}\n  found:  a value of size"
        ):
            weights.narrow(arrays | {name: changed}, dtype)
