"""What the sessions of nox hand on: options, exit codes, signals and pip's reasons."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nox.command import CommandFailed

import noxfile


def test_nox_exits_with_2_where_the_environment_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise CommandFailed

    monkeypatch.setattr(noxfile, "_update_environment", fail)
    with pytest.raises(SystemExit, match=r"^2$"):
        noxfile.gate.func(SimpleNamespace(posargs=()))


@pytest.fixture
def nox_gate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The script that the session runs in the place of `lenet`."""
    monkeypatch.setattr(noxfile, "_update_environment", lambda _: None)
    monkeypatch.setattr(noxfile, "_nvidia_gpu", lambda: None)
    monkeypatch.setattr(noxfile, "_BIN", tmp_path)
    script = tmp_path / "lenet"
    script.touch(mode=0o755)
    return script


@pytest.mark.programs
def test_nox_keeps_the_exit_code(nox_gate: Path) -> None:
    nox_gate.write_text(f'#!/bin/sh\necho "$@" > {nox_gate}.arguments\nexit 3\n')
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(SystemExit) as caught:
        noxfile.gate.func(SimpleNamespace(posargs=("--base", "main")))
    assert caught.value.code == 3
    assert Path(f"{nox_gate}.arguments").read_text() == "gate --base main\n"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.programs
def test_nox_hands_the_options_of_the_coursework_on(nox_gate: Path) -> None:
    nox_gate.write_text(f'#!/bin/sh\necho "$@" > {nox_gate}.arguments\nexit 130\n')
    with pytest.raises(SystemExit) as caught:
        noxfile.coursework.func(SimpleNamespace(posargs=("--quick", "--lang", "ru")))
    assert caught.value.code == 130
    assert Path(f"{nox_gate}.arguments").read_text() == "coursework --quick --lang ru\n"


@pytest.mark.programs
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_nox_waits_until_the_gate_has_cleaned_up(nox_gate: Path, number: signal.Signals) -> None:
    """The gate's stand-in has nox send itself the signal, and then takes its time."""
    name = number.name.removeprefix("SIG")
    trap = f"trap 'sleep 1; touch {nox_gate}.cleaned; exit 2' {name}"
    nox_gate.write_text(f"#!/bin/sh\n{trap}\nkill -{name} $PPID\nwhile :; do sleep 0.05; done\n")
    with pytest.raises(SystemExit) as caught:
        noxfile.gate.func(SimpleNamespace(posargs=()))
    assert caught.value.code == 2
    assert Path(f"{nox_gate}.cleaned").exists()


@pytest.mark.programs
def test_nox_says_all_of_pip_s_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reason = "ERROR: no matching version (from versions: none)\nERROR: no matching distribution\n[notice] a new release"
    monkeypatch.setattr(noxfile, "_pip", lambda: [sys.executable, "-c", f"raise SystemExit({reason!r})"])
    monkeypatch.setattr(noxfile, "_STAMP", tmp_path / "state")
    told: list[str] = []
    session: Any = SimpleNamespace(log=told.append, warn=told.append)
    failure = noxfile._install_gpu_set(session, "a GPU", [["--editable"]])
    assert reason in failure
    assert any(reason in one for one in told)
