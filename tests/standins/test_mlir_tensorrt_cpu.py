"""The stand-in behaves as nvtripy needs its compiled half to, and stays out of everything but tests."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import lenet
from lenet.backends import entry, installed_version
from lenet.backends.tripy import _standard_error_kept
from tests.standins.mlir_tensorrt_cpu import install
from tests.standins.mlir_tensorrt_cpu.runner import device_tensor

TRIPY = entry("tripy")

on_standin = pytest.mark.nvtripy_on_cpu


@pytest.fixture(autouse=True)
def standard_error() -> Iterator[None]:
    """nvtripy's own functions leave standard error redirected; the backend puts it back around its calls of them."""
    with _standard_error_kept():
        yield


def test_it_is_in_no_other_test_process() -> None:
    """Marked tests run in a session of their own: this process imports what is installed, if anything."""
    assert not getattr(sys.modules.get("mlir_tensorrt"), "IS_CPU_STANDIN", False)
    assert not any("mlir_tensorrt_cpu" in entry for entry in sys.path)


def test_the_package_knows_it_only_to_refuse_it() -> None:
    sources = Path(lenet.__file__).parent.rglob("*.py")
    mentions = [line for path in sources for line in path.read_text().splitlines() if "standin" in line.lower()]
    assert mentions == ['    if getattr(mlir_tensorrt, "IS_CPU_STANDIN", False):']


@pytest.mark.parametrize("module", ["mlir_tensorrt", "nvtripy", "tensorrt"])
def test_it_refuses_to_come_late(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, sys)
    with pytest.raises(RuntimeError, match=rf"{module}.* is imported already; use a fresh process"):
        install()


@pytest.mark.programs
@pytest.mark.skipif(installed_version(TRIPY) is None, reason=f"nvtripy is not installed: {TRIPY.install}")
def test_its_plugin_runs_marked_tests_on_it_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = nvtripy_on_cpu\n")
    (tmp_path / "test_both.py").write_text(
        "import pytest\n"
        "@pytest.mark.nvtripy_on_cpu\n"
        "def test_marked():\n"
        "    import mlir_tensorrt, tensorrt\n"
        "    assert mlir_tensorrt.IS_CPU_STANDIN and tensorrt.IS_CPU_STANDIN\n"
        "def test_unmarked(): assert False\n"
    )
    root = Path(lenet.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.standins.mlir_tensorrt_cpu.plugin", "-p", "no:cacheprovider"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert "1 passed, 1 deselected" in done.stdout, done.stdout + done.stderr


@on_standin
def test_both_modules_say_what_they_are() -> None:
    import mlir_tensorrt

    tensorrt = importlib.import_module("tensorrt")

    for module in (mlir_tensorrt, tensorrt):
        assert module.IS_CPU_STANDIN
        assert module.__version__.endswith("+cpu.standin")


@on_standin
def test_eager_operations() -> None:
    import nvtripy as tp

    x = tp.Tensor([[1.0, -2.0], [3.0, 4.0]])
    assert (x + 1.0).tolist() == [[2.0, -1.0], [4.0, 5.0]]
    assert tp.relu(x).tolist() == [[1.0, 0.0], [3.0, 4.0]]
    assert (x @ tp.transpose(x, 0, 1)).tolist() == [[5.0, -5.0], [-5.0, 25.0]]
    assert tp.cast(x, tp.bfloat16).tolist() == x.tolist()
    assert tp.ones((2, 3)).tolist() == [[1.0] * 3] * 2
    assert tp.copy(tp.ones((2,)), tp.device("cpu")).device.kind == "cpu"


@on_standin
def test_an_operation_it_does_not_have_is_named() -> None:
    import nvtripy as tp

    with pytest.raises(tp.TripyException, match=r"the CPU stand-in has no tensorrt\.softmax"):
        tp.softmax(tp.ones((2, 3)), dim=1).eval()


@on_standin
def test_shapes_that_clash_are_reported_at_compilation_with_their_operation() -> None:
    import nvtripy as tp

    weight = tp.Tensor(np.ones((5, 2), dtype=np.float32))

    def multiply(x: tp.Tensor) -> tp.Tensor:
        return x @ weight

    with pytest.raises(tp.TripyException, match=r"'tensorrt.matrix_multiply' op") as caught:
        tp.compile(multiply, args=[tp.InputInfo(shape=((1, 2, 4), 3), dtype=tp.float32)])
    assert "return x @ weight" in str(caught.value), "the diagnostic was not traced back to the code"


@on_standin
def test_only_sizes_within_the_profile_have_to_fit() -> None:
    import nvtripy as tp

    def add(x: tp.Tensor) -> tp.Tensor:
        return x + tp.Tensor([1.0, 2.0, 3.0])

    tp.compile(add, args=[tp.InputInfo(shape=(3,), dtype=tp.float32)])
    with pytest.raises(tp.TripyException, match=r"'tensorrt.element_wise' op"):
        tp.compile(add, args=[tp.InputInfo(shape=((1, 3, 4),), dtype=tp.float32)])


@on_standin
def test_host_memory_is_no_input() -> None:
    import nvtripy as tp

    executable = tp.compile(tp.relu, args=[tp.InputInfo(shape=(2,), dtype=tp.float32)])
    with pytest.raises(tp.TripyException, match="expected to be on device: gpu but got: cpu"):
        executable(tp.Tensor(torch.zeros(2)))


@on_standin
def test_another_dtype_is_nvtripys_error() -> None:
    import nvtripy as tp

    executable = tp.compile(tp.relu, args=[tp.InputInfo(shape=(2,), dtype=tp.float32)])
    with pytest.raises(tp.TripyException, match="expected data type: float32 but got: float16"):
        executable(device_tensor(torch.zeros(2, dtype=torch.float16)))


@on_standin
def test_a_bare_array_is_the_attribute_error_that_nvtripy_makes_of_it() -> None:
    import nvtripy as tp

    executable = tp.compile(tp.relu, args=[tp.InputInfo(shape=(2,), dtype=tp.float32)])
    with pytest.raises(AttributeError, match="trace_tensor"):
        executable(np.zeros(2, dtype=np.float32))


@on_standin
def test_a_read_only_array_cannot_be_viewed() -> None:
    import nvtripy as tp

    array = np.zeros(2, dtype=np.float32)
    array.setflags(write=False)
    with pytest.raises(BufferError, match="readonly"):
        tp.Tensor(array)


@on_standin
def test_strided_memory_is_refused_in_nvtripys_words() -> None:
    import nvtripy as tp

    with pytest.raises(tp.TripyException, match="Non-canonical strides detected"):
        tp.Tensor(torch.zeros(2, 3).T)


@on_standin
def test_constants_are_copied_at_compilation() -> None:
    import nvtripy as tp

    source = np.ones(2, dtype=np.float32)
    bias = tp.Tensor(source)
    executable = tp.compile(lambda x: x + bias, args=[tp.InputInfo(shape=(2,), dtype=tp.float32)])
    source[:] = 100
    assert executable(device_tensor(torch.zeros(2))).tolist() == [1.0, 1.0]


@on_standin
def test_results_are_in_memory_of_their_own() -> None:
    import nvtripy as tp

    executable = tp.compile(lambda x: tp.reshape(x, (4,)), args=[tp.InputInfo(shape=(2, 2), dtype=tp.float32)])
    source = torch.zeros(2, 2)
    first = torch.from_dlpack(executable(device_tensor(source)))  # type: ignore[attr-defined]
    source.fill_(1.0)
    assert first.tolist() == [0.0] * 4
