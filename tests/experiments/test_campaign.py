"""The scripts of a GPU campaign, with a Python that only notes what it is told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from lenet.backends.precision import DTYPES
from lenet.vocabulary import InputType
from tests.experiments.scripts import EXPERIMENTS, load

NOTE = """#!/bin/sh
case "$1" in *.py) test -f "$1" || exit 1 ;; esac
echo "$*" >> "$NOTES"
case "$*" in *"$FAILS"*) exit 1 ;; esac
"""
Campaign = Callable[..., "tuple[CompletedProcess[str], list[list[str]]]"]


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    """Run stages; what came of it, and the words of each command of Python that was given."""

    def run(*stages: str, fails: str = "nothing") -> tuple[CompletedProcess[str], list[list[str]]]:
        python = tmp_path / "bin" / "python3"
        python.parent.mkdir()
        python.write_text(NOTE)
        python.chmod(0o755)
        notes = tmp_path / "notes"
        environment = {"PATH": f"{python.parent}:/usr/bin:/bin", "NOTES": str(notes), "FAILS": fails}
        command = ["bash", str(EXPERIMENTS / "gpu.sh"), str(tmp_path / "out"), *stages]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done, [line.split() for line in notes.read_text().splitlines()]

    return run


def test_a_stage_that_fails_is_named_and_the_others_go_on(campaign: Campaign) -> None:
    done, commands = campaign("compile", "check", "campaign", fails="placement.py")
    assert (done.returncode, done.stderr) == (1, "failed: check\n")
    assert commands[-1][:3] == ["-m", "lenet", "results"]


@pytest.mark.parametrize(
    "stages", [("compile", "campaign", "repeat"), ("floor",), ("runtimes",), ("compile", "parity")]
)
def test_every_compiled_network_is_tuned_before_it_is_measured_or_compared(
    campaign: Campaign, stages: tuple[str, ...]
) -> None:
    """One that is not is tuned in the middle of a run, where it takes the time of many rows."""
    _, commands = campaign(*stages)
    cases, batch_sizes = load("warm_compile").cases, load("parity").BATCH_SIZES
    backends = load("warm_compile").BACKENDS
    tuned: set[tuple[str, ...]] = set()
    used = 0
    for words in commands:
        wanted: set[tuple[str, ...]] = set()
        if "experiments/warm_compile.py" in words:
            tuned |= set(cases(words[1:]))
        elif "experiments/parity.py" in words:
            wanted = set(product(["pytorch-compile"], DTYPES, map(str, batch_sizes), InputType))
        elif tuning := [backend for backend in backends if f"--backend={backend}" in words]:
            precisions, sizes, kinds = (
                [word.removeprefix(option) for word in words if word.startswith(option)]
                for option in ("--precision=", "--batch-size=", "--input=")
            )
            wanted = set(product(tuning, set(precisions) & set(DTYPES), sizes, kinds or ["float32"]))
        assert wanted <= tuned, words
        used += bool(wanted)
    assert used == len(stages) - ("compile" in stages)


@pytest.mark.parametrize("failed", [False, True])
def test_a_network_that_cannot_be_tuned_shows_in_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, failed: bool
) -> None:
    def build(command: list[str], **_: object) -> CompletedProcess[str]:
        return CompletedProcess(command, failed and "1000" in command, "", "no GPU")

    warm_compile = load("warm_compile")
    monkeypatch.setattr(warm_compile.subprocess, "run", build)
    assert warm_compile.main(["1", "1000", "fp32"]) == failed
    assert sorted(line.split(" s ")[1] for line in capsys.readouterr().err.splitlines()) == sorted(
        ["built", "no GPU" if failed else "built"]
    )


@pytest.mark.programs
def test_why_a_process_of_placement_failed_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no GPU >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(subprocess.CalledProcessError):
        load("placement").main([])
    assert "no GPU" in capfd.readouterr().err
