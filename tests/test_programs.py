"""A test that starts a program says so by its mark, and `nox` runs it whatever it says."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nox
import pytest

import noxfile
from tests import programs

ROOT = Path(__file__).parents[1]


def item(*marks: str) -> Any:
    return SimpleNamespace(get_closest_marker=lambda name: name if name in marks else None)


def script(name: str, *arguments: str) -> Callable[[Path], object]:
    def start(folder: Path) -> None:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
        subprocess.run([folder / name, *arguments], check=True)

    return start


def fork(_: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


@pytest.mark.parametrize(
    ("start", "found"),
    [(script("python3.14"), r"python3\.14"), (script("g++"), r"g\+\+"), (fork, r"os\.fork")],
    ids=["Python", "a compiler", "a fork"],
)
def test_a_program_needs_the_mark(tmp_path: Path, start: Callable[[Path], object], found: str) -> None:
    start(tmp_path)
    programs.check(item(programs.MARKER))
    with pytest.raises(pytest.fail.Exception, match=rf"(?s)found:  {found}\n.*wanted: @pytest\.mark\.programs"):
        programs.check(item("filterwarnings"))
    programs.forget()
    programs.check(item())


@pytest.mark.parametrize("command", ["git", "nvidia-smi", "bash", "g++ --version"])
def test_a_quick_program_needs_no_mark(tmp_path: Path, command: str) -> None:
    script(*command.split())(tmp_path)
    programs.check(item())


def test_a_compiler_whose_result_is_kept_needs_no_mark(tmp_path: Path) -> None:
    with programs.kept_compiler():
        script("g++")(tmp_path)
    programs.check(item())


def test_two_sessions_run_every_test_and_ci_runs_both(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(noxfile, "_pytest", lambda _, *words: ran.append(words))
    for session in noxfile.tests, noxfile.programs:
        session.func(SimpleNamespace(posargs=["-x"], log=lambda _: None))
    assert ran == [("-m", "not programs", "-x"), ("-m", "programs", "-x")]
    called = re.findall(r"nox -s (.*)", (ROOT / ".ci" / "run").read_text())
    for names in (nox.options.sessions or (), " ".join(called).split()):
        assert {"tests", "programs"} <= set(names)
