"""The commit that a result records is that of its own source, whatever repository the environment names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lenet import provenance
from lenet.provenance import bound_to_this, without_git_variables
from tests import preloaded
from tests.gate.fakes import git, repository

ROOT = Path(__file__).parents[1]
PRINT = "from lenet.provenance import source_commit; print(source_commit())"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkout whose package is this one's `provenance`."""
    root = repository(tmp_path / "source", {}, {})
    (root / "lenet").mkdir()
    (root / "lenet" / "__init__.py").touch()
    shutil.copy(provenance.__file__, root / "lenet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=source")
    return root


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return repository(tmp_path / "other", {}, {})


def commit_of(source: Path, **variables: str) -> tuple[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != "LENET_COMMIT"}
    environment |= {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"} | variables
    command = [sys.executable, "-c", PRINT]
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip(), done.stderr


def of(repository: Path) -> dict[str, str]:
    """As a hook of that repository is started, and more."""
    directory = repository / ".git"
    return {
        "GIT_DIR": str(directory),
        "GIT_WORK_TREE": str(repository),
        "GIT_INDEX_FILE": str(directory / "index"),
        "GIT_COMMON_DIR": str(directory),
        "GIT_OBJECT_DIRECTORY": str(directory / "objects"),
    }


@pytest.mark.programs
def test_the_commit_is_the_source_s_own(source: Path, other: Path) -> None:
    assert commit_of(source, **of(other)) == (git(source, "rev-parse", "HEAD"), "")


@pytest.mark.programs
def test_to_look_changes_no_index(source: Path, other: Path) -> None:
    indices = [root / ".git" / "index" for root in (source, other)]
    for root in source, other:
        os.utime(root / "conftest.py", (1, 1))  # git would note it in passing
    before = [index.read_bytes() for index in indices]
    assert "+dirty" not in commit_of(source, **of(other))[0]
    (source / "conftest.py").write_text("# edited")
    assert commit_of(source)[0].endswith("+dirty")
    assert [index.read_bytes() for index in indices] == before


@pytest.mark.programs
def test_a_source_of_another_user_has_no_commit_and_git_s_reason_is_told(source: Path) -> None:
    # A variable of git's own tests: nobody but root can give a directory to another user.
    commit, messages = commit_of(source, GIT_TEST_ASSUME_DIFFERENT_OWNER="1")
    assert commit == "None"
    assert messages.startswith("the source's commit is not recorded: fatal: detected dubious ownership")
    assert f"safe.directory {source}" in messages
    trusted = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    commit, messages = commit_of(source, GIT_TEST_ASSUME_DIFFERENT_OWNER="1", **trusted)
    assert (commit, messages) == (git(source, "rev-parse", "HEAD"), "")


@pytest.mark.programs
def test_a_missing_git_is_told(source: Path) -> None:
    commit, messages = commit_of(source, PATH=str(source))
    assert commit == "None"
    assert "git cannot be started" in messages


def test_no_variable_that_names_a_repository_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    names = set(git(Path.cwd(), "rev-parse", "--local-env-vars").split())
    settings = {"GIT_CONFIG_COUNT", "GIT_CONFIG_PARAMETERS"}
    for name in names | {"GIT_SSH_COMMAND"}:
        monkeypatch.setenv(name, "")
    assert {name for name in without_git_variables() if name.startswith("GIT_")} >= {*settings, "GIT_SSH_COMMAND"}
    assert not without_git_variables().keys() & (names - settings)


@pytest.mark.programs
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no git checkout: pytest-benchmark records no commit")
def test_a_saved_measurement_names_the_commit_of_the_suite(tmp_path: Path, other: Path) -> None:
    saved = tmp_path / "saved.json"
    command = ("-m", "pytest", "-q", "benchmarks/test_canary.py", f"--benchmark-json={saved}")
    done = preloaded.run(*command, cwd=ROOT, env=os.environ | of(other))
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(saved.read_text())
    head = git(ROOT, "rev-parse", "HEAD")
    assert document["commit_info"]["id"] == head
    assert document["machine_info"]["commit"].removesuffix("+dirty") == head


@pytest.mark.programs
@pytest.mark.parametrize("searched", [False, True])
def test_a_child_finds_modules_of_the_working_directory_where_this_process_does(
    searched: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout of onnxruntime beside one must not take the library's place."""
    (tmp_path / "module_of_the_user.py").write_text("print('found')")
    monkeypatch.chdir(tmp_path)
    if searched:
        monkeypatch.syspath_prepend(tmp_path)
    command = bound_to_this("module_of_the_user")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ("found" in done.stdout) == searched
    assert ("No module named" in done.stderr) != searched
