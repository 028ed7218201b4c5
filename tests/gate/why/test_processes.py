"""How the process of a side may end: the verdict stands, and the line says what is missing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lenet.gate.trees import Tree
from lenet.gate.why import explain
from tests.gate.why.trees import case

ROW = "a row"
RECORD = (
    '{"row": "a row", "problem": null, "missing": [], "seconds": 0.001, "layers": [], "facts": {}, "versions": {}, '
    '"parts": [{"kind": "operator", "layer": "conv1", "operator": "", "name": "aten::conv2d", "calls": 1, '
    '"seconds": 0.001}]}'
)


def python(folder: Path, side: str, script: str) -> Tree:
    """A checkout whose interpreter is a shell script; ``$5`` is the file of records."""
    root = folder / side
    root.mkdir(parents=True)
    program = root / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return Tree(side, root, 40 * "0", str(program), root)


def line(tmp_path: Path, head: str, *, timeout: float = 60, rows: tuple[str, ...] = (ROW,)) -> str:
    trees = [python(tmp_path, "base", f"echo '{RECORD}' > $5"), python(tmp_path, "head", head)]
    cases = dict.fromkeys(rows, case())
    found = explain(trees, cases, tmp_path / "why", timeout=timeout, slowdowns={}, environment=lambda *_: {})
    return found[rows[-1]].line


@pytest.mark.programs
def test_what_a_side_wrote_is_compared(tmp_path: Path) -> None:
    assert (
        line(tmp_path, f"echo '{RECORD.replace('0.001}]', '0.003}]')}' > $5") == "conv1: +2.00 ms (1.00 ms -> 3.00 ms)"
    )


@pytest.mark.programs
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("kill -SEGV $$", "the process was killed by SIGSEGV before it was done"),
        ("echo oh no >&2; exit 3", "the process ended with exit code 3 before it was done: oh no"),
        ("exit 0", "the process ended with exit code 0 before it was done"),
        ("echo '{}' > $5", "its record cannot be read: it has no 'seconds'"),
        ("printf '{\"row' > $5", "the process ended with exit code 0 before it was done"),
        ("head -c 70000000 /dev/zero > $5", "not explained"),
    ],
)
def test_a_side_that_fails_is_told(tmp_path: Path, script: str, words: str) -> None:
    assert words in line(tmp_path, script)


@pytest.mark.programs
def test_rows_before_a_crash_are_kept(tmp_path: Path) -> None:
    trees = [python(tmp_path, side, f"echo '{RECORD}' > $5; kill -ABRT $$") for side in ("base", "head")]
    cases = {"a row": case(), "another": case()}
    found = explain(trees, cases, tmp_path / "why", timeout=60, slowdowns={}, environment=lambda *_: {})
    assert found["a row"].line == "nothing that the profiles show explains the slow-down"
    assert found["another"].line.startswith("base cannot be profiled: the process was killed by SIGABRT")


@pytest.mark.programs
def test_a_side_that_hangs_is_stopped_with_all_that_it_started(tmp_path: Path) -> None:
    started = tmp_path / "started"
    found = line(tmp_path, f"sleep 600 & echo $! > {started}; wait", timeout=2)
    assert found == "head cannot be profiled: the process was stopped after 2 s before it was done"
    wait_until_ended(int(started.read_text()))


@pytest.mark.programs
def test_the_reason_of_cupti_is_told(tmp_path: Path) -> None:
    trees = [
        python(tmp_path, side, f"echo 'ERROR CUPTI_ERROR_INSUFFICIENT_PRIVILEGES' >&2; echo '{RECORD}' > $5")
        for side in ("base", "head")
    ]
    cases = {ROW: case(device="NVIDIA H200")}
    found = explain(trees, cases, tmp_path / "why", timeout=60, slowdowns={}, environment=lambda *_: {})
    assert "CUPTI_ERROR_INSUFFICIENT_PRIVILEGES; the driver lets administrators alone profile" in found[ROW].line


def test_an_interpreter_that_is_missing_is_told(tmp_path: Path) -> None:
    trees = [Tree(side, tmp_path, 40 * "0", str(tmp_path / "none"), tmp_path) for side in ("base", "head")]
    found = explain(trees, {ROW: case()}, tmp_path / "why", timeout=9, slowdowns={}, environment=lambda *_: {})
    assert found[ROW].line.startswith("not explained: FileNotFoundError")


@pytest.mark.programs
def test_an_interrupt_ends_the_process_and_goes_on(tmp_path: Path) -> None:
    started = tmp_path / "started"
    tree = python(tmp_path, "base", f"sleep 600 & echo $! > {started}.new; mv {started}.new {started}; wait")
    program = (
        "from pathlib import Path\nfrom lenet.gate.why import explain\nfrom lenet.gate.trees import Tree\n"
        "from tests.gate.why.trees import case\n"
        f"tree = Tree('base', Path({str(tree.path)!r}), '0', {tree.python!r}, Path({str(tree.path)!r}))\n"
        f"explain([tree, tree], {{'a row': case()}}, Path({str(tmp_path / 'why')!r}), timeout=600, slowdowns={{}})\n"
    )
    root = str(Path(__file__).parents[3])
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen([sys.executable, "-c", program], env=variables, stderr=subprocess.PIPE, text=True) as gate:
        deadline = time.monotonic() + 120
        while not started.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        gate.send_signal(signal.SIGINT)
        messages = gate.communicate(timeout=60)[1]
    assert "KeyboardInterrupt" in messages
    wait_until_ended(int(started.read_text()))


def wait_until_ended(process: int) -> None:
    deadline = time.monotonic() + 30
    while psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the process still runs"
        time.sleep(0.05)
