"""Scripted pairs in the place of processes, and a suite that measures nothing and is quick to start."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lenet.gate.pairs import TURNS, Pair, Side, Turns
from lenet.provenance import without_git_variables
from lenet.results import Case
from lenet.vocabulary import Mode

MACHINE: dict[str, Any] = {
    "cpu": {"model": "a CPU", "usable": 2},
    "gpu": None,
    "packages": {"torch": "2.14.1", "numpy": "2.4.6"},
}
COMMITS = {"base": "b" * 40, "head": "a" * 40}


def row(
    batch_size: int, median: float, *, throttled: float = 0.0, precision: str = "fp32", input_type: str = "float32"
) -> Turns:
    """A row whose turns all have a median."""
    common: Any = ("CPU", "images", None, False, "coursework", input_type)
    case = Case("pytorch", Mode.FORWARD, "fp32", precision, batch_size, *common)
    return Turns(case, (median,) * TURNS, throttled, rounds=20)


def side(
    which: str,
    rows: Mapping[str, Turns],
    *,
    canary: float = 1.0,
    not_run: Mapping[str, str] | None = None,
    machine: Mapping[str, Any] = MACHINE,
    commit: str | None = None,
) -> Side:
    return Side(commit or COMMITS[which], machine, "0123456789ab", rows, (canary,) * TURNS, not_run or {})


def pair(base: Side, head: Side) -> Pair:
    return Pair(base, head, {}, seconds=1.0, others=0.0)


def plain(batches: Mapping[int, float], *, canary: float = 1.0, throttled: float = 0.0, **more: Any) -> Pair:
    """A pair whose base takes a second for each batch size, and whose head takes so many times as long."""
    base = {f"row {size}": row(size, 1.0) for size in batches}
    head = {f"row {size}": row(size, ratio, throttled=throttled) for size, ratio in batches.items()}
    return pair(side("base", base), side("head", head, canary=canary, **more))


SUITE = """
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

SPEED = json.loads(Path(__file__).with_name("speed.json").read_text())
COMMIT = os.environ.get("LENET_COMMIT") or subprocess.run(
    ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
).stdout.strip()
MACHINE = {"cpu": {"model": "a CPU", "usable": 2}, "gpu": None, "packages": {"torch": "1"}, "commit": COMMIT}
TURNS = int(os.environ.get("LENET_GATE_TURNS", 1))


def pytest_addoption(parser):
    parser.addoption("--backend", action="append")


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", list(SPEED))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    if "GATE" in os.environ:
        with Path(os.environ["LENET_DATA"], "began").open("a") as began:
            print(item.name, file=began)
    return (yield)


def behave(case):
    how = SPEED[case]
    if how == "killed":
        tempfile.mkdtemp(prefix="lenet-of-a-library-")
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "kills the gate":
        os.kill(int(os.environ["GATE"]), signal.SIGKILL)
        time.sleep(0.2)  # until its pipes are closed
    if how == "hangs":
        child = subprocess.Popen(["sleep", "600"])
        Path(os.environ["LENET_DATA"], "child").write_text(str(child.pid))
        time.sleep(600)


def pytest_benchmark_generate_machine_info():
    return MACHINE


def pytest_benchmark_update_json(config, benchmarks, output_json):
    rows = [one for one in output_json["benchmarks"] if one["name"].startswith("test_canary[turn")]
    for canary in rows:
        canary["stats"]["median"] = 1.0
    stats = output_json["benchmarks"][0]["stats"]
    not_run = []
    for name, how in SPEED.items():
        if not isinstance(how, float):
            not_run.append({"name": f"{name}-pinned", "reason": how})
            continue
        backend, mode, size, asked = name.split("-")
        case = {"backend": backend, "mode": mode, "asked": asked, "precision": asked, "batch_size": int(size),
                "device": "CPU", "images": "images", "host_memory": None, "cold_cache": False, "protocol": "coursework"}
        names = ("median", "mean", "stddev", "minimum", "maximum", "p95", "p99", "iqr", "median_low", "median_high")
        summary = dict.fromkeys(names, how) | {"rounds": 100, "autocorrelation": 0.0}
        summary |= dict.fromkeys(("coverage", "relative_half_width"))
        info = {"case": case, "summary": summary, "wall_median": None,
                "peak_memory_bytes": None, "throttled": 0, "unstable": [], "facts": {}}
        # Of a case that takes so long only some turns are kept, as where the others fail.
        row = {"name": name, "fullname": name, "stats": stats | {"median": how}, "extra_info": info}
        rows += [row] * (2 if how == 99.0 else TURNS)
    output_json["benchmarks"] = rows
    output_json["lenet"] = {"schema": 1, "kind": "cpu", "fingerprint": "0", "partial": False, "not_run": not_run}
"""

CASES = """
import pytest
from conftest import behave


@pytest.mark.parametrize("memory", ["pinned"])
def test_inference(case, memory):
    behave(case)
"""

CANARY = """
def test_canary(benchmark):
    benchmark.pedantic(lambda: None)
"""

PROJECT = """
[project]
name = "fake"
dependencies = []
[dependency-groups]
benchmark = []
[tool.pytest.ini_options]
pythonpath = ["."]
addopts = ["-p", "no:hypothesispytest"]  # which takes a second to import
"""


def git(root: Path, *arguments: str) -> str:
    who = ("-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(root), *who, *arguments]
    done = subprocess.run(command, env=without_git_variables(), capture_output=True, text=True, check=True)
    return done.stdout.strip()


def repository(root: Path, base: Mapping[str, float | str], head: Mapping[str, float | str]) -> Path:
    """A repository of the quick suite, with a branch ``base`` and, checked out, a commit more.

    Args:
        root: Where to make it.
        base: Seconds of each case, such as ``pytorch-forward-1-fp32``; or why it was not run, or how it ends.
        head: The same.
    """
    (root / "benchmarks").mkdir(parents=True)
    (root / "benchmarks" / "test_inference.py").write_text(CASES)
    (root / "conftest.py").write_text(SUITE)
    (root / "pyproject.toml").write_text(PROJECT)
    (root / ".gitignore").write_text("__pycache__/\n/gate/\n")
    git(root, "init", "--quiet", "--initial-branch=base")
    for branch, speeds in (("base", base), ("change", head)):
        if branch != "base":
            git(root, "checkout", "--quiet", "-b", branch)
        (root / "speed.json").write_text(json.dumps(speeds))
        git(root, "add", "--all")
        git(root, "commit", "--quiet", "--allow-empty", f"--message={branch}")
    return root
