"""The gate's directory for checkouts and results. The next gate removes those of gates that were killed.

A gate holds a lock in its directory. The kernel releases it when the gate ends, however it ends; a process id could be
another process's by then.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from lenet.gate.interrupts import uninterrupted
from lenet.provenance import git

__all__ = ["remove_worktree", "scratch_directory"]

_PREFIX: Final = "lenet-gate-"
_LOCK: Final = "lenet-gate.lock"
"""Locked by the gate; it holds the path of the repository whose worktrees lie beside it."""
_NEW: Final = "new"
"""The lock's name until it is locked."""


@contextmanager
def scratch_directory(repository: Path) -> Iterator[Path]:
    """A directory of this gate alone, until the context is left.

    Directories that killed gates of this user left behind are removed first, and their worktrees.

    Args:
        repository: A checkout of the repository whose worktrees go there.
    """
    _remove_abandoned(repository)
    path = Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock = None
    try:
        lock = _new_lock(path, repository)
        yield path
    finally:
        with uninterrupted():
            _remove(path)
            if lock is not None:
                os.close(lock)


def remove_worktree(repository: Path, path: Path) -> None:
    """Delete a worktree, and have git forget it; all others stay as they are, also those that are away just now."""
    shutil.rmtree(path, ignore_errors=True)  # git refuses one that lacks its `.git`, but not one that is gone
    git(repository, "worktree", "remove", "--force", "--force", str(path), process_group=0)


def _new_lock(directory: Path, repository: Path) -> int:
    """The descriptor of the directory's lock. The file has its name only once it is locked: none finds it unlocked."""
    import fcntl  # which Windows lacks: the command says that it needs Linux

    lock = os.open(directory / _NEW, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    common = git(repository, "rev-parse", "--git-common-dir").stdout.rstrip("\n")
    os.write(lock, os.fsencode((repository / common).resolve()))  # a linked worktree may be removed, this stays
    (directory / _NEW).rename(directory / _LOCK)
    return lock


def _remove_abandoned(repository: Path) -> None:
    """Remove the directories whose gate is gone, from the temporary directory and wherever git has worktrees in one."""
    registered = {tree.parent.parent for tree in _worktrees(repository)}
    for directory in registered.union(Path(tempfile.gettempdir()).glob(f"{_PREFIX}*")):
        if directory.name.startswith(_PREFIX) and (lock := _take_over(directory)) is not None:
            try:
                owner = Path(os.fsdecode(os.pread(lock, os.fstat(lock).st_size, 0)))
                for tree in _worktrees(owner):
                    if directory.resolve() in tree.parents:
                        remove_worktree(owner, tree)
                _remove(directory)
            finally:
                os.close(lock)


def _take_over(directory: Path) -> int | None:
    """The descriptor of the lock that a gate left; None where the gate lives, or where it is another user's."""
    import fcntl

    try:
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            return None
        lock = os.open(directory / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _worktrees(repository: Path) -> list[Path]:
    """The worktrees that git has for a repository; none where there is no such repository."""
    listed = git(repository, "worktree", "list", "--porcelain").stdout.split("\n")
    return [Path(line.removeprefix("worktree ")) for line in listed if line.startswith("worktree ")]


def _remove(directory: Path) -> None:
    """Delete a scratch directory, the lock last: what is left of it then is still known to be abandoned."""
    with suppress(FileNotFoundError):
        for path in directory.iterdir():
            if path.name != _LOCK:
                shutil.rmtree(path, ignore_errors=True)
        if all(path.name in {_LOCK, _NEW} for path in directory.iterdir()):
            shutil.rmtree(directory, ignore_errors=True)
