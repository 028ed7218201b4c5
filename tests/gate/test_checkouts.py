"""What is compared, what is refused, and that nothing is left behind."""

from __future__ import annotations

import math
import os
import re
import shlex
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lenet.errors import GateError
from lenet.gate import checkouts
from lenet.gate.checkouts import checked_out, find_commits
from tests.gate.fakes import PROJECT, git, repository

SPEEDS = {"pytorch-forward-1-fp32": 1.0}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return repository(tmp_path / "clone", SPEEDS, SPEEDS)


def test_base_is_the_last_common_ancestor(root: Path) -> None:
    fork = git(root, "rev-parse", "base")
    git(root, "checkout", "--quiet", "base")
    git(root, "commit", "--quiet", "--allow-empty", "--message=base went on")
    git(root, "checkout", "--quiet", "change")
    found = find_commits(root / "benchmarks", "base")
    assert (found.repository, found.base, found.head) == (root, fork, git(root, "rev-parse", "HEAD"))
    assert not found.own_environments


def test_head_may_be_base_itself(root: Path) -> None:
    found = find_commits(root, "HEAD")
    assert found.base == found.head


def edited(root: Path) -> None:
    (root / "conftest.py").write_text("# edited")


def untracked(root: Path) -> None:
    (root / "new.py").touch()


def unrelated(root: Path) -> None:
    git(root, "checkout", "--quiet", "--orphan", "other")
    git(root, "commit", "--quiet", "--message=other")
    git(root, "branch", "--move", "base", "old")
    git(root, "branch", "base")
    git(root, "checkout", "--quiet", "change")


def no_base(root: Path) -> None:
    git(root, "branch", "--move", "base", "bass")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (edited, r"the worktree is dirty(.|\n)*M conftest.py"),
        (untracked, r"the worktree is dirty(.|\n)*\?\? new.py"),
        (unrelated, r"base and HEAD have no common ancestor(.|\n)*--unshallow"),
        (no_base, r"there is no 'base'(.|\n)*git fetch"),
    ],
)
def test_what_cannot_be_compared_is_refused(root: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(root)
    with pytest.raises(GateError, match=message):
        find_commits(root, "base")


def test_outside_of_a_clone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="git cannot use this directory") as caught:
        find_commits(tmp_path, "base")
    assert "not a git repository" in caught.value.found


def test_a_clone_of_another_user_is_refused_with_git_s_own_remedy(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # of git's own tests: nobody but root can give it away
    with pytest.raises(GateError) as caught:
        find_commits(root, "base")
    assert caught.value.found.startswith("fatal: detected dubious ownership in repository at")
    (command,) = re.findall(r"`(.*)`", caught.value.hint)
    assert command == f"git config --global --add safe.directory {root}"
    monkeypatch.setenv("HOME", str(root.parent))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    subprocess.run(command.split(), check=True)
    assert find_commits(root, "base").head == find_commits(root, "HEAD").base


def test_a_checkout_that_git_cannot_read_is_not_taken_for_a_clean_one(root: Path) -> None:
    (root / ".git" / "index").write_bytes(b"damaged")
    with pytest.raises(GateError) as caught:
        find_commits(root, "base")
    assert "index file" in caught.value.found


def test_a_missing_git_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(root))
    with pytest.raises(GateError, match="git is not installed"):
        find_commits(root, "base")


@pytest.mark.programs
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_all_that_a_failing_program_says_is_shown_with_its_command(stream: str) -> None:
    code = f"import sys; print('the reason', 'a note', sep=chr(10), file=sys.{stream}); sys.exit(3)"
    with pytest.raises(GateError) as caught:
        checkouts._run(sys.executable, "-c", code, deadline=math.inf)
    assert caught.value.found == "the reason\na note"
    assert shlex.join([sys.executable, "-c", code]) in caught.value.wanted


def test_a_worktree_that_is_away_stays_registered(root: Path, tmp_path: Path) -> None:
    git(root, "worktree", "add", "--detach", "--quiet", str(tmp_path / "theirs"))
    (tmp_path / "theirs").rename(tmp_path / "away")
    with checked_out(find_commits(root, "base"), tmp_path / "first") as (base, _):
        (base.path / ".git").unlink()  # whatever a worker does
    assert len(git(root, "worktree", "list").splitlines()) == 2
    (tmp_path / "away").rename(tmp_path / "theirs")
    assert git(tmp_path / "theirs", "status", "--porcelain") == ""


def test_checkouts_are_alike_and_are_removed(root: Path, tmp_path: Path) -> None:
    commits = find_commits(root, "base")
    stage = tmp_path / "first"
    with checked_out(commits, stage) as trees:
        assert [(tree.side, tree.commit, tree.python) for tree in trees] == [
            ("base", commits.base, sys.executable),
            ("head", commits.head, sys.executable),
        ]
        for tree in trees:
            assert git(tree.path, "rev-parse", "HEAD") == tree.commit
            assert stat.S_IMODE((tree.caches / "lenet").stat().st_mode) == 0o700
        assert len({len(str(tree.path)) for tree in trees}) == 1
        assert trees[0].caches != trees[1].caches
        assert trees[0].compilers == trees[1].compilers
        assert trees[0].compilers.is_relative_to(stage)
        (trees[0].path / "conftest.py").write_text("# whatever a worker leaves")
    assert not stage.exists()
    assert len(git(root, "worktree", "list").splitlines()) == 1


def test_a_checkout_that_cannot_be_made_is_refused_and_leaves_nothing(root: Path, tmp_path: Path) -> None:
    commits = replace(find_commits(root, "base"), head="0" * 40)
    with pytest.raises(GateError, match="the checkouts cannot be prepared"), checked_out(commits, tmp_path / "first"):
        pass
    assert len(git(root, "worktree", "list").splitlines()) == 1


def test_each_side_gets_what_its_own_dependencies_ask_for(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extras = '[project.optional-dependencies]\nhere = ["pytest>=8"]\naway = ["not-installed-anywhere[x]>=1; 1 < 2"]\n'
    extras += 'partly = ["pytest>=8", "not-installed-anywhere"]\n'
    (root / "pyproject.toml").write_text(PROJECT.replace("dependencies = []", 'dependencies = ["click"]', 1) + extras)
    git(root, "commit", "--quiet", "--all", "--message=needs click")
    commits = find_commits(root, "base")
    assert commits.own_environments
    commands: list[tuple[str, ...]] = []
    real = checkouts._run

    def run(*command: str, deadline: float) -> None:
        commands.append(command)
        if command[0] == "git":
            real(*command, deadline=deadline)

    monkeypatch.setattr(checkouts, "_run", run)
    with checked_out(commits, tmp_path / "first") as (base, head):
        assert base.python == str(tmp_path / "first" / "base-env" / "bin" / "python")
        assert len(base.python) == len(head.python)
    installed = [command[-1] for command in commands if "install" in command]
    assert installed == [str(base.path), f"{head.path}[here]"]


@pytest.mark.programs
def test_an_environment_that_takes_too_long_is_given_up_and_leaves_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "started"
    slow = tmp_path / "python"
    slow.write_text(f"#!/bin/sh\necho $$ > {started}\nexec sleep 600\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    commits = replace(find_commits(root, "base"), own_environments=True)
    soon = time.monotonic() + 2
    with pytest.raises(TimeoutError, match="-m venv"), checked_out(commits, tmp_path / "first", soon):
        pass
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)
    assert len(git(root, "worktree", "list").splitlines()) == 1


@pytest.mark.programs
@pytest.mark.parametrize(
    "messages", ["fatal: write error: No space left on device", "OSError: [Errno 28] No space left on device"]
)
def test_a_disk_that_fills_up_names_tmpdir(messages: str) -> None:
    command = (sys.executable, "-c", f"raise SystemExit({messages!r})")
    with pytest.raises(GateError, match="the checkouts cannot be prepared") as caught:
        checkouts._run(*command, deadline=math.inf)
    assert "export TMPDIR=" in caught.value.hint
