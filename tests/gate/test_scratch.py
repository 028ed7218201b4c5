"""The gate's directory: which of those that are there already are removed, and which are left alone."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lenet.errors import GateError
from lenet.gate import scratch
from lenet.gate.interrupts import SIGNALS, interruptible, uninterrupted
from lenet.gate.scratch import refuse_full_disk, scratch_directory
from tests.gate.fakes import git, repository

KILLED = """
import os, signal, sys
from pathlib import Path
from lenet.gate.scratch import scratch_directory
from lenet.provenance import git
with scratch_directory(Path(sys.argv[1])) as path:
    git(Path(sys.argv[1]), "worktree", "add", "--detach", str(path / "first" / "base"))
    (path / "first-pairs").mkdir()
    print(path, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return repository(tmp_path / "clone", {}, {})


def killed(root: Path, temporary: Path) -> Path:
    """The directory of a gate that was killed."""
    command = [sys.executable, "-c", KILLED, str(root)]
    environment = os.environ | {"TMPDIR": str(temporary)}
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return Path(done.stdout.strip())


def test_a_directory_is_its_user_s_own_and_is_removed_at_the_end(root: Path, temporary: Path) -> None:
    with scratch_directory(root) as path:
        assert (path.parent, path.stat().st_mode & 0o777) == (temporary, 0o700)
        (path / "plugins").mkdir()
    assert not list(temporary.iterdir())


@pytest.mark.programs
def test_what_a_killed_gate_of_another_repository_left_is_removed(root: Path, tmp_path: Path, temporary: Path) -> None:
    other = repository(tmp_path / "other", {}, {})
    left = killed(other, temporary)
    assert len(git(other, "worktree", "list").splitlines()) == 2
    with scratch_directory(root):
        assert not left.exists()
        assert len(git(other, "worktree", "list").splitlines()) == 1


@pytest.mark.programs
@pytest.mark.parametrize("missing", ["other", "tmp/{left}/first", "tmp/{left}/first/base/.git"])
def test_what_is_no_longer_whole_is_removed_all_the_same(
    root: Path, tmp_path: Path, temporary: Path, missing: str
) -> None:
    other = repository(tmp_path / "other", {}, {})
    left = killed(other, temporary)
    path = tmp_path / missing.format(left=left.name)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    with scratch_directory(root):
        assert not left.exists()
    if other.exists():
        assert len(git(other, "worktree", "list").splitlines()) == 1


@pytest.mark.programs
def test_git_forgets_the_worktrees_of_a_gate_whose_directory_is_gone(
    root: Path, tmp_path: Path, temporary: Path
) -> None:
    """But no worktree of the user's, be it missing, and none of a gate whose directory cannot be looked at."""
    left = killed(root, temporary)
    own = [tmp_path / "lenet-gate-mine" / "first" / "base", left / "first" / "mine", tmp_path / "missing"]
    hidden = tmp_path / "hidden" / left.name / "first" / "base"
    for tree in (*own, hidden):
        git(root, "worktree", "add", "--detach", str(tree))
    for gone in (left, own[0].parents[1], own[2], tmp_path / "hidden"):
        shutil.rmtree(gone)
    (tmp_path / "hidden").symlink_to("hidden")
    with scratch_directory(root):
        listed = git(root, "worktree", "list", "--porcelain").splitlines()
    found = {line.removeprefix("worktree ") for line in listed if line.startswith("worktree ")}
    assert found == {str(tree) for tree in (root, *own, hidden)}


def no_lock(left: Path) -> None:
    """One that is just being made."""
    (left / "lenet-gate.lock").unlink()


def another_name(left: Path) -> None:
    left.rename(left.with_name("lenet"))


def a_link(left: Path) -> None:
    """One that another user may have made, to a directory of ours."""
    left.rename(left.with_name("ours"))
    left.symlink_to("ours")


def another_user(left: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory to another user")
    os.chown(left, 65534, 65534)


@pytest.mark.programs
@pytest.mark.parametrize("spoil", [no_lock, another_name, a_link, another_user])
def test_what_may_not_be_the_gate_s_own_is_left_alone(
    root: Path, temporary: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(killed(root, temporary))
    before = sorted(temporary.rglob("*"))
    with scratch_directory(root):
        pass
    assert sorted(temporary.rglob("*")) == before


def test_the_first_signal_interrupts_and_later_ones_do_not() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    for first in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        with interruptible():
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(first)
            for later in SIGNALS:
                signal.raise_signal(later)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As `nohup` has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible(), uninterrupted():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_is_put_off_until_what_must_not_be_interrupted_is_done() -> None:
    done = []

    def clean_up() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGTERM)
            done.append("cleaned up")

    with interruptible(), pytest.raises(KeyboardInterrupt):
        clean_up()
    assert done == ["cleaned up"]


@pytest.mark.parametrize("named", ["nowhere", "a file"])
def test_a_tmpdir_that_cannot_be_used_is_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path / named))
    with pytest.raises(GateError, match="no temporary directory") as caught, scratch_directory(root, 3 * 2**20):
        pass
    assert f"TMPDIR={tmp_path / named}" in caught.value.found
    assert caught.value.hint == "name one that has 3 MiB free: `export TMPDIR=DIRECTORY`"


def test_a_full_temporary_directory_is_refused_before_anything_is_written(root: Path, temporary: Path) -> None:
    needed = shutil.disk_usage(temporary).total + 1
    with pytest.raises(GateError, match="no temporary directory") as caught, scratch_directory(root, needed):
        pass
    assert f" free in {temporary}" in caught.value.found
    assert "export TMPDIR=" in caught.value.hint
    assert not list(temporary.iterdir())


def test_a_disk_that_is_full_later_names_tmpdir_too(temporary: Path) -> None:
    refuse_full_disk(OSError(errno.EACCES, "Permission denied"), 0)
    with pytest.raises(GateError, match="no temporary directory") as caught:
        refuse_full_disk(OSError(errno.ENOSPC, "No space left on device"), 2**20)
    assert caught.value.found == f"No space left on device, in {temporary}"
    assert "1 MiB" in caught.value.hint


def test_the_space_that_is_needed_grows_with_the_checkouts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "_size_of_environment", lambda: 10**9)
    before = scratch.bytes_needed(root, ["HEAD"], own_environments=False)
    (root / "large").write_bytes(bytes(12_345))
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=large")
    assert scratch.bytes_needed(root, ["HEAD^", "HEAD"], own_environments=False) == (
        2 * before - scratch._ROOM + 12_345
    )
    assert scratch.bytes_needed(root, ["HEAD^"], own_environments=True) == before + 10**9
