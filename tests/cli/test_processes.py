"""The commands in processes of their own: their streams, their names and a shell's completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.programs
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("arguments", ["backends", "backends --json", "--version", "--help"])
def test_an_output_that_cannot_be_written_is_no_verdict(arguments: str) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "lenet", *arguments.split()]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("lenet: the output cannot be written\n  found:  No space left on device\n")


@pytest.mark.programs
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_reader_that_has_gone_is_no_verdict(form: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "lenet", "backends", *form]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (2, "")


@pytest.mark.programs
def test_module_and_script_are_the_same() -> None:
    done = subprocess.run([sys.executable, "-m", "lenet", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: lenet [OPTIONS] COMMAND")


@pytest.mark.programs
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_and_options(shell: str) -> None:
    """As the README says to install it."""
    asked = {"_LENET_COMPLETE": f"{shell}_source"}
    script = run_module(env=asked)
    assert "_LENET_COMPLETE" in script
    words = {"COMP_WORDS": "lenet eva", "COMP_CWORD": "1"} if shell != "fish" else {"COMP_WORDS": "lenet eva"}
    words |= {"COMP_CWORD": "eva"} if shell == "fish" else {}
    assert "evaluate" in run_module(env={"_LENET_COMPLETE": f"{shell}_complete"} | words)


def run_module(env: dict[str, str]) -> str:
    """What `lenet` prints, as a shell calls it."""
    code = "import sys; sys.argv[0] = 'lenet'; from lenet.cli import main; main(prog_name='lenet')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
