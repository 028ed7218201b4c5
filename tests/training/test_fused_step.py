"""The training step of our own kernels against PyTorch's: emulated on a CPU, and on a GPU where there is one."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lenet import weights
from lenet.data.augmentation import draw_crop
from lenet.data.synthetic import synthetic
from lenet.engine_cache import EngineCacheWarning
from lenet.errors import BackendError
from lenet.kernels import driver
from lenet.kernels import step as step_source
from lenet.kernels.compiler import Compiled
from lenet.models.pytorch_lenet import LeNet
from lenet.training import batches, loop, step_kernels
from lenet.training.ranks import Ranks
from lenet.training.recipe import Recipe
from lenet.training.run import EpochRecord, Run, new_run
from lenet.training.step_kernels import Kernels
from lenet.training.steps import FusedStep, Step, _load_kernels, exact_float32, step_for
from tests.kernels.emulated_step import kernels, library
from tests.kernels.emulation import COMPILER

emulated = pytest.mark.skipif(COMPILER is None, reason="the emulator is compiled by g++, which is not installed")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

RECIPE = Recipe(epochs=2, batch_size=6, learning_rate=0.02, milestones=(1,))
SPLIT = synthetic(13, 1)  # two full batches, and one of one image
CPU = torch.device("cpu")


def emulated_step(run: Run) -> FusedStep:
    run.optimizer.param_groups[0]["lr"] = torch.tensor(run.recipe.learning_rate)
    return FusedStep(run.model, run.optimizer, run.recipe.batch_size, kernels())


def check_steps(plain: Step, ours: Step, recipe: Recipe) -> None:
    split = SPLIT.to(ours.device)
    one, other = (loop.train_epoch(step, split.images, split.labels, recipe, 1) for step in (plain, ours))
    assert one == pytest.approx(other, rel=1e-5)
    for expected, found in zip(plain.state(), ours.state(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@emulated
@pytest.mark.parametrize("momentum", [0.9, pytest.param(0.0, marks=pytest.mark.programs)])
def test_steps_are_pytorch_s(momentum: float) -> None:
    recipe = replace(RECIPE, momentum=momentum, weight_decay=0.01)
    plain, ours = (new_run(recipe, SPLIT, CPU) for _ in range(2))
    check_steps(Step(plain.model, plain.optimizer, Ranks()), emulated_step(ours), recipe)


@emulated
@pytest.mark.parametrize("padding", [0, 4, 32])
def test_images_are_pytorch_s(padding: int) -> None:
    split = synthetic(20, 2)
    order = torch.randperm(20)[:7]
    crops = draw_crop(7, torch.Generator().manual_seed(padding), padding)
    wanted = batches.augment(split.images, order, crops, padding)
    torch.testing.assert_close(kernels().augment(split.images, order, crops, padding), wanted.contiguous())


@pytest.mark.programs
@emulated
def test_a_resumed_run_has_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    def step_for(model: LeNet, optimizer: torch.optim.SGD, batch_size: int, _ranks: Ranks) -> FusedStep:
        optimizer.param_groups[0]["lr"] = torch.tensor(RECIPE.learning_rate)
        used.append(FusedStep(model, optimizer, batch_size, kernels()))
        return used[-1]

    monkeypatch.setattr(loop, "step_for", step_for)

    def stop(_record: EpochRecord) -> None:
        raise KeyboardInterrupt

    recipe, split = replace(RECIPE, batch_size=3), SPLIT.head(4)
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    loop.train(recipe, split, split, out=whole, device=CPU)
    with pytest.raises(KeyboardInterrupt):
        loop.train(recipe, split, split, out=parted, device=CPU, on_epoch=stop)
    loop.train(recipe, split, split, out=parted, device=CPU, resume=True)
    one, other = (weights.load(out / "weights.safetensors").arrays for out in (whole, parted))
    assert weights.digest(one) == weights.digest(other)
    assert (one["conv1.weight"] != new_run(recipe, split, CPU).model.conv1.weight.detach().numpy()).any()
    assert len(used) == 3


@emulated
def test_what_is_not_a_number_stays_so() -> None:
    """Else a training that diverges would go on."""
    run = new_run(RECIPE, SPLIT, CPU)
    with torch.no_grad():
        run.model.conv1.weight.fill_(torch.nan)
    step = emulated_step(run)
    step(torch.zeros(1, 3, 32, 32), torch.tensor([0]))
    assert step._seen[0][0].isnan().all()


@emulated
def test_a_launch_that_the_driver_refuses_is_an_error() -> None:
    unknown = SimpleNamespace(handle=99)
    loaded = {kernel.name: unknown for kernel in (step_source.AUGMENT, *step_source.KERNELS)}
    refused = step_kernels.launching(library(), loaded, lambda _device: 0)
    crops = draw_crop(1, torch.Generator())
    with pytest.raises(BackendError, match=r"refuses to launch a kernel\n  found:  error 400"):
        refused.augment(SPLIT.images, torch.tensor([0]), crops, 4)


def test_where_kernels_cannot_be_loaded_the_reason_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(_device: torch.device) -> None:
        raise BackendError("cuda.core cannot be used here", found="no module", wanted="it", hint="install it")

    monkeypatch.setattr(step_kernels, "load", load)
    assert _load_kernels(CPU) is None
    told = (
        "lenet: cuda.core cannot be used here (no module). PyTorch's operators train instead, more slowly: install it\n"
    )
    assert capsys.readouterr().err == told


class Compiler:
    """NVRTC and the driver, of which the emulator stands in. A cubin is a text.

    Attributes:
        compiled: How often something was compiled.
    """

    compiled = 0

    def compile(self, _source: str, _macros: object, architecture: str) -> Compiled:
        self.compiled += 1
        return Compiled(f"cubin for {architecture}".encode(), "")

    def load(self, kernels: dict[str, int], _device: object, refusals: list[str], cubin: bytes) -> dict[str, object]:
        assert (cubin, refusals) == (b"cubin for sm_90", [])
        return {name: SimpleNamespace(handle=number) for number, name in enumerate(kernels, 1)}


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Compiler:
    found = Compiler()
    for name, value in {"compile_source": found.compile, "_load": found.load, "library": library}.items():
        monkeypatch.setattr(driver, name, value)
    monkeypatch.setattr(driver, "nvrtc_version", lambda: "13.0")
    monkeypatch.setattr(step_kernels, "_stream", lambda _: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "device", lambda *_: nullcontext())
    monkeypatch.setenv("LENET_CACHE", str(tmp_path / "cache"))
    return found


def start() -> Kernels | None:
    """As a process begins."""
    step_kernels.load.cache_clear()
    return _load_kernels(CPU)


@emulated
def test_a_second_process_compiles_nothing_and_trains_with_the_same_kernels(compiler: Compiler) -> None:
    for _ in range(2):
        found = start()
        assert found is not None
        run = new_run(RECIPE, SPLIT, CPU)
        run.optimizer.param_groups[0]["lr"] = torch.tensor(0.1)
        before = run.model.fc3.weight.detach().clone()
        step = FusedStep(run.model, run.optimizer, 6, found)
        step(torch.ones(6, 3, 32, 32), torch.arange(6))
        assert (run.model.fc3.weight != before).any()
    assert compiler.compiled == 1


@emulated
def test_a_damaged_entry_of_the_cache_is_compiled_anew(compiler: Compiler, tmp_path: Path) -> None:
    start()
    (entry,) = (tmp_path / "cache").glob("*.engine")
    content = entry.read_bytes()
    entry.write_bytes(content.replace(b"cubin for", b"nibuc for"))
    with pytest.warns(EngineCacheWarning, match="it is damaged"):
        assert start() is not None
    assert compiler.compiled == 2
    assert entry.read_bytes() == content


@emulated
def test_other_source_is_another_entry(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    start()
    monkeypatch.setattr(step_source, "source", lambda: "another")
    start()
    monkeypatch.setattr(step_source, "MACROS", {"SCRATCH": "1"})
    start()
    assert compiler.compiled == 3


@pytest.mark.usefixtures("compiler")
def test_without_a_cache_that_can_be_written_pytorch_trains(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LENET_CACHE", str(tmp_path / "file"))
    assert start() is None
    told = capsys.readouterr().err
    assert told.startswith("lenet: the engine cache cannot be written (")
    assert "PyTorch's operators train instead, more slowly: " in told


@needs_gpu
@pytest.mark.parametrize("batch_size", [1, 6, 13])
def test_on_a_gpu_steps_are_pytorch_s_and_the_same_bits_again(batch_size: int) -> None:
    device, recipe = torch.device("cuda", torch.cuda.current_device()), replace(RECIPE, batch_size=batch_size)
    with exact_float32():
        plain, ours, again = (new_run(recipe, SPLIT, device) for _ in range(3))
        steps = [step_for(run.model, run.optimizer, batch_size, Ranks()) for run in (ours, again)]
        assert all(isinstance(step, FusedStep) for step in steps)
        check_steps(Step(plain.model, plain.optimizer, Ranks()), steps[0], recipe)
        split = SPLIT.to(device)
        loop.train_epoch(steps[1], split.images, split.labels, recipe, 1)
    for one, other in zip(steps[0].state(), steps[1].state(), strict=True):
        assert torch.equal(one, other)
