from __future__ import annotations

import logging
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch._dynamo import config as dynamo
from torch._inductor import config as inductor
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from lenet import backends
from lenet.backends.base import BatchRange, BuildSpec, Runner
from lenet.cli import main
from lenet.errors import BackendError, UnavailableError
from lenet.vocabulary import Precision
from lenet.weights import Arrays

CPU = torch.device("cpu")


@pytest.fixture
def without_inductor(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """TorchDynamo alone, without the compiler behind it, which takes seconds a build; what it was asked is kept."""
    compile_with = torch.compile
    asked: list[dict[str, Any]] = []

    def dynamo_alone(network: torch.nn.Module, **options: Any) -> Any:
        asked.append(options)
        return compile_with(network, backend="eager", fullgraph=True, dynamic=options["dynamic"])

    monkeypatch.setattr(torch, "compile", dynamo_alone)
    return asked


def build(arrays: Arrays, batches: BatchRange) -> Runner:
    return backends.load("pytorch-compile").build(arrays, BuildSpec(CPU, Precision.FP32, batches))


def test_everything_is_tuned_and_a_range_is_dynamic(arrays: Arrays, without_inductor: list[dict[str, Any]]) -> None:
    build(arrays, BatchRange.exactly(3))
    build(arrays, BatchRange(1, 3, 8))
    static, dynamic = without_inductor
    assert static == {"mode": "max-autotune", "fullgraph": True, "dynamic": False}
    assert dynamic == {"mode": "max-autotune", "fullgraph": True, "dynamic": True}


def test_one_process_can_build_more_than_torchdynamo_s_limit(
    arrays: Arrays, without_inductor: list[dict[str, Any]]
) -> None:
    torch.compiler.reset()
    for size in range(2, 14):
        build(arrays, BatchRange.exactly(size))
    assert len(without_inductor) == 12


def test_neither_pytorch_s_warnings_nor_its_tuning_reach_the_terminal(
    arrays: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some releases warn while they import their compiler's modules; tuning prints a table for each operator."""
    monkeypatch.delenv("TORCH_LOGS", raising=False)
    compile_with = torch.compile

    def warning(network: torch.nn.Module, **options: Any) -> Any:
        compiled = compile_with(network, backend="eager", fullgraph=True, dynamic=options["dynamic"])

        def call(images: torch.Tensor) -> torch.Tensor:
            warnings.warn("a module of PyTorch is deprecated", DeprecationWarning, stacklevel=2)
            return compiled(images)  # type: ignore[no-any-return]

        return call

    monkeypatch.setattr(torch, "compile", warning)
    for name, loud in (("autotune_num_choices_displayed", 10), ("max_autotune_report_choices_stats", True)):
        monkeypatch.setattr(inductor, name, loud)
    build(arrays, BatchRange.exactly(1))
    assert inductor.autotune_num_choices_displayed == 0
    assert not inductor.max_autotune_report_choices_stats
    assert not logging.getLogger("torch._inductor.select_algorithm").isEnabledFor(logging.ERROR)


def test_a_cpu_without_a_compiler_is_told_so(monkeypatch: pytest.MonkeyPatch, arrays: Arrays) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    reason = backends.load("pytorch-compile").probe(CPU).reason
    assert reason == "torch.compile needs a C++ compiler on a CPU: install g++"
    with pytest.raises(BackendError, match="install g"):
        build(arrays, BatchRange.exactly(1))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("TORCHDYNAMO_DISABLE", "1", "TORCHDYNAMO_DISABLE=1 turns torch.compile off: unset TORCHDYNAMO_DISABLE"),
        ("TORCH_COMPILE_DISABLE", "1", "TORCH_COMPILE_DISABLE=1 turns torch.compile off: unset TORCH_COMPILE_DISABLE"),
        ("TORCH_COMPILE_OVERRIDE_BACKENDS", ">=0:eager", "TORCH_COMPILE_OVERRIDE_BACKENDS=>=0:eager puts another "),
    ],
)
def test_a_switch_that_turns_it_off_makes_it_unavailable_and_is_named(
    monkeypatch: pytest.MonkeyPatch, arrays: Arrays, name: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UnavailableError) as caught:
        build(arrays, BatchRange.exactly(1))
    assert caught.value.found.startswith(reason)
    done = CliRunner().invoke(main, ["doctor", "pytorch-compile", "--here", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert f"pytorch-compile: import: {name}={value}" in done.stdout


def test_a_switch_that_turns_it_off_within_python_is_named(arrays: Arrays) -> None:
    with dynamo.patch(disable=True), pytest.raises(UnavailableError, match=r"torch\._dynamo\.config\.disable"):
        build(arrays, BatchRange.exactly(1))


@pytest.mark.usefixtures("without_inductor")
def test_what_is_run_eagerly_after_all_is_refused_at_the_build_and_at_any_call(arrays: Arrays) -> None:
    torch.compiler.reset()
    with torch.compiler.set_stance("force_eager"), pytest.raises(BackendError, match="did not compile the network"):
        build(arrays, BatchRange.exactly(2))
    runner = build(arrays, BatchRange.exactly(2))
    images = torch.zeros(2, 3, 32, 32)
    assert runner.forward(images).shape == (2, 10)
    with torch.compiler.set_stance("force_eager"), pytest.raises(BackendError, match="did not compile the network"):
        runner.forward(images)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("LENET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    return tmp_path / "cache"


@pytest.mark.usefixtures("without_inductor")
@pytest.mark.parametrize("asked_before", [False, True], ids=["before PyTorch looks", "after PyTorch looked"])
def test_compiled_code_is_kept_where_nobody_else_can_put_any(
    arrays: Arrays, cache: Path, monkeypatch: pytest.MonkeyPatch, *, asked_before: bool
) -> None:
    if asked_before:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())
        monkeypatch.setenv("TRITON_CACHE_DIR", f"{default_cache_dir()}/triton/0")
    build(arrays, BatchRange.exactly(2))
    for name, variable in (("inductor", "TORCHINDUCTOR_CACHE_DIR"), ("triton", "TRITON_CACHE_DIR")):
        assert Path(os.environ[variable]) == cache / name
        assert (cache / name).stat().st_mode & 0o077 == 0


@pytest.mark.usefixtures("without_inductor")
def test_a_place_that_the_user_chose_stays(
    arrays: Arrays, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "chosen"))
    build(arrays, BatchRange.exactly(2))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "chosen")
    assert "TRITON_CACHE_DIR" not in os.environ
    assert not cache.exists()


def test_a_place_that_others_can_write_is_refused(arrays: Arrays, cache: Path) -> None:
    (cache / "inductor").mkdir(parents=True)
    cache.chmod(0o700)
    (cache / "inductor").chmod(0o777)
    with pytest.raises(BackendError, match="not safe to load engines from") as caught:
        build(arrays, BatchRange.exactly(1))
    assert f"{cache / 'inductor'} is writable by others (mode 0777)" in caught.value.found


def test_a_failure_shows_the_end_of_the_message_and_what_in_a_path_causes_it(
    arrays: Arrays, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError(f"C++ compile error Command: g++ {'-flag ' * 1000} Output: cc1plus: fatal error: the cause")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fail)
    with pytest.raises(BackendError, match=r"torch\.compile failed") as plain:
        build(arrays, BatchRange.exactly(1))
    assert plain.value.found.startswith("C++ compile error Command: g++ -flag")
    assert plain.value.found.endswith("cc1plus: fatal error: the cause")
    assert len(plain.value.found) < 2000
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "a b"))
    with pytest.raises(BackendError) as spaced:
        build(arrays, BatchRange.exactly(1))
    assert spaced.value.hint.startswith("set TMPDIR to a directory without a space in its name")
