from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from click.testing import CliRunner

from lenet import backends, weights
from lenet.cli import main
from lenet.comparison import doctor
from lenet.comparison.doctor import examine, examine_in_processes
from lenet.vocabulary import Precision
from tests import preloaded

CPU = torch.device("cpu")


def test_a_backend_that_works_passes_every_step() -> None:
    found = examine("pytorch", weights.load().arrays, CPU, Precision.FP32)
    assert found.passed
    assert not found.broken
    assert [step.name for step in found.steps] == ["import", "build", "run", "compare"]
    assert "top-1 agreement 1.0000 over 32 images" in found.steps[-1].message


def test_a_backend_that_is_not_here_says_why_and_is_not_broken() -> None:
    found = examine("pytorch-cudagraph", weights.load().arrays, CPU, Precision.FP32)
    assert [(step.name, step.passed) for step in found.steps] == [("import", False)]
    assert "cuda" in found.advice
    assert not found.broken


def test_a_precision_that_a_backend_has_not_is_said_and_is_no_breakage() -> None:
    done = CliRunner().invoke(main, ["doctor", "pytorch", "--here", "--device", "cpu", "--precision", "fp16x2"])
    assert done.exit_code == 0
    assert "pytorch: build: no fp16x2 on cpu\n" in done.stdout


def test_wrong_logits_fail_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "logits_of", lambda *_: torch.zeros(8, 10))
    found = examine("pytorch", weights.load().arrays, CPU, Precision.FP32)
    assert (found.steps[-1].name, found.steps[-1].passed) == ("compare", False)
    assert found.broken
    assert "names the layer" in found.advice


def test_an_exception_of_a_library_is_a_failed_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(doctor, "logits_of", fail)
    found = examine("pytorch", weights.load().arrays, CPU, Precision.FP32)
    assert found.steps[-1].message == "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert found.broken


def test_a_library_that_raises_when_it_is_asked_whether_it_runs_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no symbol")

    monkeypatch.setattr(type(backends.load("pytorch")), "probe", fail)
    done = CliRunner().invoke(main, ["doctor", "pytorch", "--here", "--device", "cpu"])
    assert done.exit_code == 1
    assert "pytorch: import: RuntimeError: no symbol" in done.stdout


def test_a_library_that_is_installed_and_cannot_be_loaded_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise OSError('libcublasLt.so.12: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr("lenet.backends.onnxruntime.installed_version", lambda _: "1.23.0")
    monkeypatch.setattr("lenet.backends.base.missing_packages", lambda _: [])
    done = CliRunner().invoke(main, ["doctor", "onnxruntime", "--here", "--device", "cpu"])
    assert done.exit_code == 1
    assert "onnxruntime: import: onnxruntime cannot be loaded: libcublasLt.so.12: cannot open" in done.stdout
    assert "install it again" in done.stdout


@pytest.mark.programs
def test_a_process_examines_as_this_one_does() -> None:
    (found,) = examine_in_processes(["pytorch"], "cpu", Precision.FP32)
    assert found.passed
    assert found.version == torch.__version__


def fake_python(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.programs
@pytest.mark.parametrize(
    ("script", "seconds", "message", "log"),
    [
        ("echo last words $PYTHONFAULTHANDLER >&2; kill -SEGV $$", 60, "the process ended with -11", ("last words 1",)),
        ("echo waiting >&2; exec sleep 60", 3, "no answer in 3 s", ("waiting",)),
        ("echo no json", 60, "the process ended with 0", ()),
    ],
)
def test_a_crash_or_a_hang_takes_nobody_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, seconds: float, message: str, log: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path / "python", script))
    found = examine_in_processes(["pytorch", "pytorch-compile"], "cpu", Precision.FP32, seconds=seconds)
    for examination in found:
        assert examination.steps[-1].message == message
        assert examination.log == log
        assert examination.broken
        assert examination.advice


@pytest.mark.programs
@pytest.mark.parametrize("end", ["exec sleep 60", "kill -KILL $$"])
def test_a_process_that_is_killed_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    script = f'mkdir "$TMPDIR/lenet-of-a-library" && echo made >&2; {end}'
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path / "python", script))
    (found,) = examine_in_processes(["pytorch"], "cpu", Precision.FP32, seconds=3)
    assert found.log == ("made",)
    assert list(temporary.iterdir()) == []


@pytest.mark.programs
def test_json_has_the_log_whole_and_the_table_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path / "python", "seq 100 >&2; kill -SEGV $$"))
    done = CliRunner().invoke(main, ["doctor", "pytorch", "--json", "--device", "cpu"])
    assert json.loads(done.stdout)["backends"][0]["log"] == [str(number) for number in range(1, 101)]
    table = CliRunner().invoke(main, ["doctor", "pytorch", "--device", "cpu"])
    assert next(line for line in table.stdout.splitlines() if line.startswith("  |")) == "  | 81"


@pytest.mark.programs
def test_the_time_limit_is_that_of_all_backends_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path / "python", "exec sleep 60"))
    started = time.monotonic()
    found = examine_in_processes([*backends.names(), *backends.names()], "cpu", Precision.FP32, seconds=5)
    assert time.monotonic() - started < 2 * 5, "some waited for others"
    assert {examination.steps[-1].message for examination in found} == {"no answer in 5 s"}
    assert doctor.SECONDS <= 100, "`lenet doctor` is to end within two minutes, its own start included"


def test_a_backend_s_module_that_cannot_be_imported_is_a_failed_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise ImportError("undefined symbol: cudaGetDriverEntryPointByVersion")

    monkeypatch.setattr(backends, "load", fail)
    found = examine("pytorch", weights.load().arrays, CPU, Precision.FP32)
    assert [step.message for step in found.steps] == ["ImportError: undefined symbol: cudaGetDriverEntryPointByVersion"]
    assert found.broken


def is_gone(pid: int) -> bool:
    """Whether a process has ended, be it that nobody has asked for its exit status yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


HANGING = """
import os, pathlib, subprocess, time
another = subprocess.Popen(["sleep", "300"])  # as libraries start compilers
for name, pid in {"children": os.getpid(), "grandchildren": another.pid}.items():
    with pathlib.Path(name).open("a") as file:
        file.write(f"{pid}\\n")
time.sleep(300)
"""
"""What the command's processes run instead of lenet."""

EXAMINING = """
import os, sys, tempfile
from lenet.comparison.doctor import examine_in_processes
os.chdir(sys.argv[1])
tempfile.tempdir = sys.argv[1]  # where SIGKILL leaves a directory
os.environ["PYTHONPATH"] = sys.argv[1]
examine_in_processes(["pytorch", "tensorrt"], "cpu", "fp32", seconds=300)
"""


@pytest.mark.programs
@pytest.mark.skipif(sys.platform != "linux", reason="a process can be bound to its parent's life on Linux alone")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL])
def test_the_processes_end_with_the_command_whatever_ends_it(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "lenet").mkdir()
    (tmp_path / "lenet" / "__init__.py").touch()
    (tmp_path / "lenet" / "__main__.py").write_text(HANGING)
    with preloaded.start("-c", EXAMINING, str(tmp_path), cwd=Path.cwd(), env=os.environ) as command:
        children, others = (pids_in(tmp_path / name, 2) for name in ("children", "grandchildren"))
        os.kill(command.pid, number)
        code = command.wait()
    try:
        assert code == -number
        wait_until(lambda: all(map(is_gone, children)))
        if number is not signal.SIGKILL:  # which leaves nobody to end them; they see that their parent is gone
            wait_until(lambda: all(map(is_gone, others)))
    finally:
        for pid in (*children, *others):
            if not is_gone(pid):
                os.kill(pid, signal.SIGKILL)


def pids_in(path: Path, count: int) -> list[int]:
    wait_until(lambda: path.exists() and len(path.read_text().splitlines()) == count)
    return [int(line) for line in path.read_text().splitlines()]


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.programs
def test_the_command_prints_a_table_and_json() -> None:
    table = CliRunner().invoke(main, ["doctor", "pytorch", "pytorch-cudagraph", "--here", "--device", "cpu"])
    assert table.exit_code == 0, table.output
    assert table.stdout.endswith("\nNeeds an NVIDIA GPU: pytorch-cudagraph.\n")
    assert "runs on cuda alone" not in table.stdout
    command = ("-m", "lenet", "doctor", "pytorch", "--json", "--device", "cpu")
    done = preloaded.run(*command, cwd=Path.cwd(), env=os.environ)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert document["machine"]["torch"]
    assert document["backends"][0]["passed"] is True
