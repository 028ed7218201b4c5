"""Where `pytest benchmarks` saves a run, in a repository of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lenet import results
from lenet.gate.checkouts import find_commits
from lenet.provenance import git
from tests import preloaded
from tests.benchmarks.test_suite import QUICK, ROOT, STARTS_QUICKLY, Done, environment
from tests.permissions import run_with_permissions

pytestmark = pytest.mark.programs

SMALL = (*STARTS_QUICKLY, *QUICK, "--mode=forward", "--batch-size=2", "--rounds=3", "--synthetic")
ROW = "benchmarks/test_inference.py"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with the cases, and with what git is to ignore."""
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "benchmarks", root / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("conftest.py", "pyproject.toml", ".gitignore"):
        shutil.copy(ROOT / name, root / name)
    for arguments in (
        ("init", "--quiet", "--initial-branch=main"),
        ("add", "--all"),
        ("-c", "user.name=x", "-c", "user.email=x@localhost", "commit", "--quiet", "--message=x"),
    ):
        git(root, *arguments).check_returncode()
    return root


def measured(checkout: Path, *arguments: str) -> Done:
    """Run the suite in the checkout, with the modules of this one."""
    found = environment()
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), found["PYTHONPATH"]]))
    return preloaded.run("-m", "pytest", *SMALL, *arguments, cwd=checkout, env=found)


def files(checkout: Path) -> list[str]:
    """The saved files, each by its directory and its name but for the kind of machine."""
    paths = [path.relative_to(checkout) for path in checkout.rglob("*.json") if "benchmarks" in str(path.parent)]
    return sorted(str(path.parent.parent / path.name) for path in paths)


def test_each_run_is_saved_where_git_ignores_it_and_the_gate_starts(checkout: Path) -> None:
    for number in (1, 2):
        done = measured(checkout, ROW)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(files(checkout)) == number
    stored = results.stored_files(checkout / ".benchmarks" / "local")
    assert [path.name[:5] for path in stored] == ["0001_", "0002_"]
    assert results.load(stored[0]).rows
    assert git(checkout, "status", "--porcelain").stdout == ""
    assert find_commits(checkout, "HEAD").base
    shown = preloaded.run("-m", "lenet", "results", cwd=checkout, env=environment() | {"PYTHONPATH": str(ROOT)})
    assert shown.stdout.startswith(f".benchmarks/local/{stored[1].parent.name}/{stored[1].name}: "), shown.stderr
    compared = measured(checkout, ROW, "--benchmark-compare", "--no-save")
    assert compared.returncode == 0, compared.stdout + compared.stderr
    told = "lenet: compares with the run saved last, as there is no baseline of this machine: .benchmarks/local/"
    assert told in compared.stderr
    promoted = results.promote(stored[0], checkout / ".benchmarks")
    assert git(checkout, "status", "--porcelain").stdout == "?? .benchmarks/\n", "a baseline is for git"
    compared = measured(checkout, ROW, "--benchmark-compare", "--no-save")
    told = f"lenet: compares with the baseline of this machine: {promoted.relative_to(checkout)}\n"
    assert told in compared.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (ROW, "--no-save"),
        (ROW, "--benchmark-disable"),
        (ROW, "--collect-only"),
        (ROW, "-p", "lenet_gate_turns"),
        ("benchmarks/test_canary.py",),
        ("benchmarks/test_transfer.py",),
    ],
)
def test_what_is_no_run_of_rows_is_not_saved(checkout: Path, arguments: tuple[str, ...]) -> None:
    (checkout / "lenet_gate_turns.py").write_text("")  # as the gate's workers load it
    done = measured(checkout, *arguments)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    assert files(checkout) == []
    assert "Not saving anything" not in done.stdout + done.stderr
    assert "Not saved" not in done.stdout


def test_options_of_pytest_benchmark_win(checkout: Path) -> None:
    def saved(*arguments: str) -> list[str]:
        done = measured(checkout, "benchmarks/test_canary.py", ROW, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        found = files(checkout)
        for folder in (".benchmarks", "mine-benchmarks"):
            shutil.rmtree(checkout / folder, ignore_errors=True)
        return found

    assert saved("--benchmark-save=mine") == [".benchmarks/local/0001_mine.json"]
    assert saved("--benchmark-storage=mine-benchmarks", "--benchmark-save=x") == ["mine-benchmarks/0001_x.json"]
    (named,) = saved("--benchmark-storage=file://mine-benchmarks")
    assert named.startswith("mine-benchmarks/local/0001_")


def test_saving_and_not_saving_is_refused(checkout: Path) -> None:
    done = measured(checkout, ROW, "--no-save", "--benchmark-autosave")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--no-save contradicts --benchmark-save and --benchmark-autosave: leave one out" in done.stderr
    assert files(checkout) == []


def test_a_checkout_that_cannot_be_written_is_measured_and_the_run_is_told_to_be_unsaved(checkout: Path) -> None:
    root = shutil.copytree(checkout, checkout.parent / "readonly")
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    try:
        found = environment() | {"PYTHONPATH": str(ROOT)}
        done = run_with_permissions("-m", "pytest", *SMALL, ROW, cwd=root, env=found)
    finally:
        for folder in folders:
            folder.chmod(0o700)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Not saved: cannot write into .benchmarks/local/" in done.stdout
    assert "--benchmark-storage" in done.stdout
    assert "LeNet, batch 2, fp32, CPU" in done.stdout


def test_a_place_that_was_named_and_cannot_be_written_is_refused_before_the_run(checkout: Path) -> None:
    done = measured(checkout, ROW, "--benchmark-storage=/dev/null/x")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "cannot write into /dev/null/x" in done.stderr
    assert "pytorch" not in done.stdout
