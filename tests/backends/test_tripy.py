"""TriPy's backend: what it says where it cannot run, and its runner on the CPU stand-in."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from lenet.architecture import INPUT_SHAPE
from lenet.backends import entry, load
from lenet.backends import tripy as backend_module
from lenet.backends.base import Availability, BatchRange, BuildSpec
from lenet.backends.tripy import TriPy, compile_executable
from lenet.comparison import compare_backends, doctor
from lenet.data.synthetic import synthetic
from lenet.errors import BackendError
from lenet.models.pytorch_lenet import LeNet
from lenet.vocabulary import InputType, Precision
from tests import preloaded
from tests.backends.holding import held, without_collector
from tests.standins.mlir_tensorrt_cpu.runner import StandinRunner, build

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
ANY_BATCH = BatchRange(1, 8, 64)
SPEC = BuildSpec(CPU, Precision.FP32, ANY_BATCH)
on_standin = pytest.mark.nvtripy_on_cpu
pytestmark = pytest.mark.usefixtures("cache_directory")


@cache
def arrays() -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    return {name: tensor.detach().numpy() for name, tensor in LeNet().state_dict().items()}


@pytest.fixture
def runner() -> StandinRunner:
    return build(arrays(), Precision.FP32, ANY_BATCH)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where nvtripy is installed for good and there is a GPU of compute capability 8.9."""
    monkeypatch.setattr(backend_module, "package_version", lambda _: "0.1.7")
    monkeypatch.setattr(backend_module, "_imported", Availability)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))


def probe_in_a_fresh_process(preparation: str, *, broken: bool = False) -> str:
    script = (
        f"import sys, torch\n{preparation}\n"
        "from lenet.backends import load\n"
        "availability = load('tripy').probe(torch.device('cuda', 0))\n"
        f"assert not availability and availability.broken is {broken}\n"
        "print(availability.reason)\n"
    )
    done = preloaded.run("-c", script, cwd=Path.cwd(), env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_table_has_its_line() -> None:
    assert isinstance(load("tripy"), TriPy)
    assert load("tripy").name == "tripy"
    assert "-f https://nvidia.github.io/TensorRT-Incubator/packages.html" in entry("tripy").install


@pytest.mark.programs
def test_loading_the_backend_imports_no_vendor_library() -> None:
    script = "import sys; from lenet.backends import load; load('tripy'); assert 'nvtripy' not in sys.modules"
    done = preloaded.run("-c", script, cwd=Path.cwd(), env=os.environ)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("installed")
def test_available_where_everything_is_there() -> None:
    availability = TriPy().probe(CUDA)
    assert availability, availability.reason
    assert availability.version == "0.1.7"


@pytest.mark.usefixtures("installed")
def test_a_cpu_is_refused() -> None:
    assert TriPy().probe(CPU).reason == "tripy runs on cuda alone"


@pytest.mark.usefixtures("installed")
def test_another_gpu_than_the_first_is_refused() -> None:
    reason = TriPy().probe(torch.device("cuda", 1)).reason
    assert reason == "TriPy runs on cuda:0 alone, not on cuda:1: hide the other GPUs with CUDA_VISIBLE_DEVICES"


@pytest.mark.usefixtures("installed")
def test_no_gpu_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert TriPy().probe(CUDA).reason == "PyTorch sees no CUDA device: check `nvidia-smi`"


@pytest.mark.usefixtures("installed")
def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "package_version", lambda _: "0.2.0")
    availability = TriPy().probe(CUDA)
    assert availability.version == "0.2.0"
    assert availability.reason == (
        f"nvtripy 0.2.0 is installed, this backend is written for 0.1.7: {entry('tripy').install}"
    )


@pytest.mark.usefixtures("installed")
def test_a_python_without_wheels_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "_PYTHON", (3, 13))
    assert TriPy().probe(CUDA).reason == (
        "nvtripy's compiled half has wheels for Python 3.9 to 3.12, this is 3.13: use Python 3.12"
    )


@pytest.mark.programs
def test_not_installed_gives_the_command() -> None:
    hidden = "from importlib import metadata\nmetadata.Distribution.discover = classmethod(lambda *_, **__: iter(()))"
    assert probe_in_a_fresh_process(hidden) == f"nvtripy is not installed: {entry('tripy').install}"


PRETEND_INSTALLED = "import lenet.backends.tripy as module\nmodule.package_version = lambda _: '0.1.7'\n"


@pytest.mark.programs
def test_a_missing_compiled_half_gives_the_command() -> None:
    reason = probe_in_a_fresh_process(PRETEND_INSTALLED + "sys.modules['mlir_tensorrt'] = None")
    assert reason == (
        f"nvtripy is installed without its compiled half (no module mlir_tensorrt): {entry('tripy').install}"
    )


@pytest.mark.programs
def test_a_module_that_it_misses_is_quoted() -> None:
    missing = "sys.modules['mlir_tensorrt'], sys.modules['nvtripy'] = type(sys)('mlir_tensorrt'), None"
    reason = probe_in_a_fresh_process(PRETEND_INSTALLED + missing, broken=True)
    assert reason.startswith("nvtripy cannot be imported: import of nvtripy halted")
    assert reason.endswith(entry("tripy").install)


@pytest.mark.programs
def test_a_library_that_does_not_load_is_quoted() -> None:
    finder = (
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'mlir_tensorrt':\n"
        "            raise OSError('libnvinfer.so.10: cannot open shared object file')\n"
        "sys.meta_path.insert(0, Finder())"
    )
    reason = probe_in_a_fresh_process(PRETEND_INSTALLED + finder, broken=True)
    assert reason == "nvtripy cannot be imported: OSError: libnvinfer.so.10: cannot open shared object file"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("override", "label"), [(None, "tf32"), ("1", "tf32"), ("0", "fp32")], ids=["unset", "one", "zero"]
)
def test_float32_is_labelled_by_what_runs(monkeypatch: pytest.MonkeyPatch, override: str | None, label: str) -> None:
    if override is not None:
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", override)
    assert TriPy().executed_precision(Precision.FP32, CUDA) == label
    assert TriPy().executed_precision(Precision.TF32, CUDA) == label


@pytest.mark.usefixtures("installed")
def test_a_gpu_without_tf32_runs_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert TriPy().executed_precision(Precision.FP32, CUDA) == "fp32"


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
def test_half_precisions_are_what_they_are_called(precision: Precision) -> None:
    assert TriPy().executed_precision(precision, CUDA) == precision


def test_no_precision_runs_on_a_cpu() -> None:
    with pytest.raises(BackendError, match="tripy does not run fp32 on cpu"):
        TriPy().executed_precision(Precision.FP32, CPU)


@on_standin
def test_the_standin_is_never_available(monkeypatch: pytest.MonkeyPatch) -> None:
    import nvtripy  # noqa: F401 - the whole front end imports

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    availability = load("tripy").probe(CUDA)
    assert not availability
    assert availability.reason is not None
    assert availability.reason.startswith("the compiled half is a CPU stand-in for tests, 0.1.43+cpu.standin")


@on_standin
@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_nothing_is_built_on_the_standin_for_a_row_to_come_from(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(BackendError, match=r"tripy cannot run on (cpu|cuda:0) here"):
        load("tripy").build(arrays(), BuildSpec(device, Precision.FP32, ANY_BATCH))


@on_standin
def test_the_standin_passes_no_examination(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    (step,) = doctor.examine("tripy", arrays(), CUDA, Precision.FP32).steps
    assert (step.name, step.passed) == ("import", False)
    assert "stand-in" in step.message


@on_standin
def test_the_standin_has_no_line_in_a_comparison() -> None:
    compared, missing = compare_backends(
        ["tripy"], arrays(), synthetic(8), device=CPU, precision=Precision.FP32, batch_size=8
    )
    assert not compared
    assert [each.backend for each in missing] == ["tripy"]


@on_standin
def test_a_refilled_buffer_is_read_anew_through_one_view(runner: StandinRunner) -> None:
    buffer = torch.zeros(8, *INPUT_SHAPE)
    of_zeros = runner.forward(buffer).clone()
    buffer.fill_(1.0)
    of_ones = runner.forward(buffer)
    assert len(runner._passes) == 1
    assert not torch.equal(of_zeros, of_ones)
    assert torch.equal(of_ones, runner.forward(torch.ones(8, *INPUT_SHAPE)))


@on_standin
def test_views_are_of_the_same_memory(runner: StandinRunner) -> None:
    buffer = torch.zeros(3, *INPUT_SHAPE)
    view = torch.from_dlpack(runner._view(buffer))  # type: ignore[attr-defined]
    assert view.data_ptr() == buffer.data_ptr()


@on_standin
def test_one_buffer_at_two_batch_sizes_has_two_views(runner: StandinRunner) -> None:
    buffer = torch.randn(8, *INPUT_SHAPE)
    whole = runner.forward(buffer).clone()
    torch.testing.assert_close(runner.forward(buffer[:2]), whole[:2])


@on_standin
def test_bytes_are_widened_into_one_buffer_at_each_pass() -> None:
    runner = build(arrays(), Precision.FP16, ANY_BATCH, InputType.UINT8)
    (images,) = runner._executable.input_infos.values()
    assert str(images.dtype) == "float16"
    widened = runner._widened
    assert widened is not None
    for size in (2, 8, 2, 2):
        images = torch.full((size, *INPUT_SHAPE), size, dtype=torch.uint8)
        for more in (0, 1):
            runner.forward(images.add_(more))
            assert torch.equal(widened[:size], images.half())
    assert runner._widened is widened
    there = images.view_as(images)
    images.set_(torch.zeros_like(images))
    runner.forward(there)
    assert torch.equal(widened[:2], there.half()), "it is the memory that was bound, not the tensor"


@on_standin
@pytest.mark.parametrize("end", ["close", "del"])
@pytest.mark.parametrize("kind", InputType)
def test_executable_and_views_are_gone_without_the_collector(kind: InputType, end: str) -> None:
    import nvtripy as tp

    with without_collector():
        runner = build(arrays(), Precision.FP32, ANY_BATCH, kind)
        for size in (2, 1, 2):
            runner.forward(torch.zeros(size, *INPUT_SHAPE, dtype=runner.spec.image_dtype))
        references = held(runner, tp.Executable, tp.Tensor)
        assert {type(reference()) for reference in references} >= {tp.Executable, tp.Tensor}
        if end == "close":
            runner.close()
        else:
            del runner
        assert [reference() for reference in references if reference() is not None] == []


@on_standin
@pytest.mark.parametrize("batches", [ANY_BATCH, BatchRange.exactly(7)], ids=["dynamic", "static"])
def test_the_profile_is_the_range_of_batch_sizes(batches: BatchRange) -> None:
    (images,) = compile_executable(arrays(), Precision.FP32, batches).input_infos.values()
    bounds = images.shape_bounds
    assert (bounds.min[0], bounds.opt[0], bounds.max[0]) == (batches.minimum, batches.optimum, batches.maximum)
    assert bounds.min[1:] == bounds.opt[1:] == bounds.max[1:] == INPUT_SHAPE


@on_standin
def test_a_batch_over_the_range_raises(runner: StandinRunner) -> None:
    with pytest.raises(BackendError, match="the images do not fit this runner") as caught:
        runner.forward(torch.zeros(65, *INPUT_SHAPE))
    assert "(65, 3, 32, 32)" in caught.value.found
    assert "(1 to 64, 3, 32, 32)" in caught.value.wanted


@on_standin
def test_an_executable_of_another_range_raises_nvtripys_words() -> None:
    built = build(arrays(), Precision.FP32, BatchRange.exactly(2))
    wider = StandinRunner(built._executable, BuildSpec(CPU, Precision.FP32, ANY_BATCH), stream=None)
    with pytest.raises(BackendError, match="TriPy cannot run LeNet") as caught:
        wider.forward(torch.zeros(3, *INPUT_SHAPE))
    assert "Dimension 0 has a shape of 3, which is not within the expected bounds of [2, 2]" in caught.value.found
    assert "\x1b" not in caught.value.found


@on_standin
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.uint8], ids=str)
def test_images_of_another_dtype_raise(runner: StandinRunner, dtype: torch.dtype) -> None:
    with pytest.raises(BackendError, match="the images do not fit this runner") as caught:
        runner.forward(torch.zeros(2, *INPUT_SHAPE, dtype=dtype))
    assert str(dtype) in caught.value.found
    assert "torch.float32" in caught.value.wanted


@on_standin
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda given: {name: given[name] for name in given if name != "fc3.bias"}, "Missing keys: ['fc3.bias']"),
        (lambda given: given | {"fc9.bias": given["fc3.bias"]}, "['fc9.bias']"),
        (lambda given: given | {"fc3.bias": given["fc2.bias"]}, "For parameter: fc3.bias"),
    ],
    ids=["missing", "extra", "misshapen"],
)
def test_weights_that_do_not_fit_raise(
    change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], words: str
) -> None:
    with pytest.raises(BackendError, match="TriPy cannot compile LeNet") as caught:
        compile_executable(change(arrays()), Precision.FP32, ANY_BATCH)
    assert words in caught.value.found


@on_standin
def test_facts_hold_the_hash_of_the_plan(runner: StandinRunner) -> None:
    plan = runner._executable.serialized_tensorrt_engine
    assert runner.facts() == {"plan_sha256": sha256(plan).hexdigest(), "optimization_level": "3"}


@on_standin
def test_other_weights_make_another_plan(runner: StandinRunner) -> None:
    other = build(arrays() | {"fc3.bias": np.zeros(10, dtype=np.float32)}, Precision.FP32, ANY_BATCH)
    assert other.facts()["plan_sha256"] != runner.facts()["plan_sha256"]


@on_standin
@pytest.mark.parametrize("fails", [False, True], ids=["compiles", "fails"])
def test_standard_error_is_put_back(capfd: pytest.CaptureFixture[str], *, fails: bool) -> None:
    stream, descriptor = sys.stderr, os.fstat(2)
    try:
        compile_executable({} if fails else arrays(), Precision.FP32, ANY_BATCH)
    except BackendError:
        assert fails
    assert sys.stderr is stream
    assert os.fstat(2) == descriptor
    os.write(2, b"descriptor ")
    sys.stderr.write("stream")
    assert capfd.readouterr().err == "descriptor stream"


@on_standin
@pytest.mark.usefixtures("installed")
def test_the_key_holds_all_that_an_executable_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    tensorrt = importlib.import_module("tensorrt")

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA GeForce RTX 4060 Ti")
    key = backend_module._key(arrays(), BuildSpec(CUDA, Precision.FP16, ANY_BATCH))
    assert len(str(key["source"])) == 64
    assert key["version"] == (
        "nvtripy 0.1.7, mlir-tensorrt-compiler 0.1.7, mlir-tensorrt-runtime 0.1.7, "  # as `installed` has every version
        f"tensorrt {tensorrt.__version__}"
    )
    assert {**key, "source": "", "version": ""} == {
        "source": "",
        "library": "nvtripy",
        "version": "",
        "target": "NVIDIA GeForce RTX 4060 Ti, compute capability 8.9",
        "cuda": str(torch.version.cuda).partition(".")[0],
        "precision": "fp16",
        "tf32": True,
        "input": "float32",
        "batches": (1, 8, 64),
        "optimization_level": 3,
    }
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    other = backend_module._key(arrays(), BuildSpec(CUDA, Precision.FP16, ANY_BATCH))
    assert other == {**key, "tf32": False}
