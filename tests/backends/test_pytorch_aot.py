"""AOTInductor's packages. One is compiled, for what `tests/backends/test_parity.py` also asks for; the rest load it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch._inductor import codecache
from torch._inductor import config as inductor
from torch.export.pt2_archive._package import AOTICompiledModel

from lenet import backends, weights
from lenet.architecture import INPUT_SHAPE
from lenet.backends import exported, pytorch_aot
from lenet.backends.base import BatchRange, BuildSpec, Runner
from lenet.engine_cache import EngineCache, digest
from lenet.errors import BackendError
from lenet.vocabulary import InputType, Precision
from tests import preloaded
from tests.backends.holding import held, without_collector

CPU = torch.device("cpu")
RANGE = BatchRange(1, 16, 64)

pytestmark = pytest.mark.filterwarnings("ignore::Warning:torch", "ignore::DeprecationWarning")


def build(batches: BatchRange = RANGE, input_type: InputType = InputType.FLOAT32) -> Runner:
    backend = backends.load("pytorch-aot")
    if reason := backend.probe(CPU).reason:
        pytest.skip(reason)
    return backend.build(weights.load().arrays, BuildSpec(CPU, Precision.FP32, batches, input_type))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """The graphs that are handed to AOTInductor from here on, for which it gives a package that cannot be loaded."""
    graphs: list[Any] = []

    def compile_nothing(program: Any, *, package_path: str, inductor_configs: dict[str, Any]) -> str:
        assert inductor_configs == {"max_autotune": True}
        graphs.append(program)
        Path(package_path).write_bytes(b"no package")
        return package_path

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", compile_nothing)
    monkeypatch.setenv("LENET_CACHE", str(tmp_path / "cache"))
    return graphs


@pytest.mark.programs
@pytest.mark.parametrize("end", ["close", "del"])
def test_a_package_is_loaded_from_the_cache_and_gone_with_its_runner(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    with build() as first:
        facts = first.facts()
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", lambda *_, **__: pytest.fail("it is in the cache"))
    with without_collector():
        runner = build()
        assert runner.facts() == facts
        references = held(runner, AOTICompiledModel)
        assert len(references) >= 1
        if end == "close":
            runner.close()
        else:
            del runner
        assert [reference() for reference in references if reference() is not None] == []


def test_a_package_that_pytorch_refuses_is_an_error_and_is_not_kept(compiled: list[Any], tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(BackendError, match=r"(?s)AOTInductor's package cannot be loaded\n  found:  \S"):
            build()
    assert len(compiled) == 2
    assert list((tmp_path / "cache").glob("*.engine")) == []


def test_an_entry_that_another_user_could_have_written_is_not_loaded(compiled: list[Any], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    cache.chmod(0o777)
    with pytest.raises(BackendError, match="not safe to load engines from"):
        build()
    assert compiled == []


@pytest.mark.parametrize(
    ("batches", "size"), [(BatchRange.exactly(1), 1), (BatchRange(1, 1, 8), None), (BatchRange(1, 2, 2), None)]
)
def test_one_size_is_exported_as_it_is_and_a_range_with_its_bounds(
    compiled: list[Any], batches: BatchRange, size: int | None
) -> None:
    with pytest.raises(BackendError, match="cannot be loaded"):
        build(batches)
    (program,) = compiled
    found = next(node for node in program.graph.nodes if node.name == "images").meta["val"].shape
    assert tuple(found[1:]) == INPUT_SHAPE
    if size is not None:
        assert found[0] == size
    else:
        (bounds,) = program.range_constraints.values()
        assert (bounds.lower, bounds.upper) == (batches.minimum, batches.maximum)


def keys(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digests of the keys that are asked for from here on; nothing is compiled or loaded."""
    found: list[str] = []

    def note(_: Any, key: Any, *__: Any) -> Any:
        found.append(digest(key))
        raise BackendError("noted", found="", wanted="", hint="")

    monkeypatch.setattr(EngineCache, "load_or_build", note)
    export, programs = exported.export, dict[BuildSpec, Any]()

    def export_once(network: Any, spec: BuildSpec) -> Any:  # it takes a second
        if spec not in programs:
            programs[spec] = export(network, spec)
        return programs[spec]

    monkeypatch.setattr(pytorch_aot, "export", export_once)
    return found


def ask(batches: BatchRange = RANGE, input_type: InputType = InputType.FLOAT32) -> None:
    with pytest.raises(BackendError, match="noted"):
        build(batches, input_type)


CHANGES: dict[str, Callable[[pytest.MonkeyPatch], object]] = {
    "threads": lambda patch: patch.setattr(torch, "get_num_threads", lambda: 3),
    "compiler": lambda patch: patch.setattr(pytorch_aot, "_compiler", lambda: "another"),
    "settings": lambda patch: patch.setattr(inductor, "epilogue_fusion", not inductor.epilogue_fusion),
    "release": lambda patch: patch.setattr(torch.version, "git_version", "another"),
    "triton": lambda patch: patch.setattr(pytorch_aot, "package_version", lambda _: "0.1"),
}


def test_whatever_changes_a_package_changes_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    found = keys(monkeypatch)
    ask()
    ask()
    assert found[0] == found[1]
    for change in CHANGES.values():
        with monkeypatch.context() as patch:
            change(patch)
            ask()
    ask(BatchRange.exactly(16))
    ask(input_type=InputType.UINT8)
    arrays = {name: array.copy() for name, array in weights.load().arrays.items()}
    arrays["fc3.bias"][0] += 1
    with pytest.raises(BackendError, match="noted"):
        backends.load("pytorch-aot").build(arrays, BuildSpec(CPU, Precision.FP32, RANGE))
    assert len(set(found)) == 1 + len(CHANGES) + 3


def test_headers_are_precompiled_where_nobody_else_can_put_any(
    compiled: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    for name in ("_HEADER_DIR", "_HEADER_LOCK_DIR"):  # PyTorch reads these names: another name would change nothing
        monkeypatch.setattr(codecache, name, getattr(codecache, name))
    with pytest.raises(BackendError, match="cannot be loaded"):
        build()
    assert compiled
    for name in ("_HEADER_DIR", "_HEADER_LOCK_DIR"):
        assert Path(getattr(codecache, name)).is_relative_to(tmp_path / "cache" / "inductor")


def test_what_the_compiler_says_is_in_the_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("fatal error: cuda.h: No such file or directory")

    monkeypatch.setenv("LENET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fail)
    with pytest.raises(BackendError, match=r"(?s)AOTInductor failed\n  found:  fatal error: cuda\.h"):
        build()


HANG = "#!/bin/sh\nexec sleep 60\n"
CRASH = '#!/bin/sh\nmkdir "$TMPDIR/unpacked" && echo in the loader >&2\nkill -SEGV $$\n'


def _forked(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
    return preloaded.run(*command[command.index("-c") :], cwd=Path.cwd(), env=os.environ)


@pytest.mark.programs
@pytest.mark.parametrize(
    ("python", "found"),
    [
        (None, "ended with 1 RuntimeError"),
        (CRASH, "ended with -11 in the loader"),
        (HANG, "did not end within 1 s"),
        ("#!/bin/sh\n", None),
    ],
)
def test_a_package_for_a_gpu_is_first_loaded_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, python: str | None, found: str | None
) -> None:
    def compile_nothing(*_: object, package_path: str, **__: object) -> None:
        Path(package_path).write_bytes(b"no package")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", compile_nothing)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    if python is None:  # the program itself, forked from a process that has imported PyTorch
        forked = SimpleNamespace(run=_forked, TimeoutExpired=subprocess.TimeoutExpired)
        monkeypatch.setattr(pytorch_aot, "subprocess", forked)
    else:
        script = tmp_path / "python"
        script.write_text(python)
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))
        monkeypatch.setattr(pytorch_aot, "_LOAD_SECONDS", 1.0)
    expected = pytest.raises(BackendError, match=found) if found else nullcontext()
    with expected:
        assert pytorch_aot._compile(cast(Any, None), torch.device("cuda", 0)) == b"no package"
    assert list(temporary.rglob("unpacked")) == []


def test_a_machine_without_a_compiler_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert backends.load("pytorch-aot").probe(CPU).reason == "AOTInductor needs a C++ compiler: install g++"
