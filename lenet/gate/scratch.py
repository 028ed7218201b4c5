"""The gate's directory for checkouts and results. A gate also removes the directories of gates that were killed.

A gate holds a lock in its directory. The kernel releases the lock when the gate ends, however it ends. A process id
would not do, as another process may have it by then.
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
"""The lock file. It holds the path of the repository whose worktrees lie beside it."""
_NEW: Final = "new"
"""The lock file's name until it is locked."""


@contextmanager
def scratch_directory(repository: Path) -> Iterator[Path]:
    """A directory for this gate alone, until the context is left.

    First it removes the directories and worktrees that killed gates of this user left behind.

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
    """Delete a worktree, and have git forget it. Other worktrees stay, also those whose directory is missing."""
    shutil.rmtree(path, ignore_errors=True)  # git refuses a worktree without `.git`, but accepts a missing one
    git(repository, "worktree", "remove", "--force", "--force", str(path), process_group=0)


def _new_lock(directory: Path, repository: Path) -> int:
    """The descriptor of the directory's lock. The file gets its name once it is locked, so nobody finds it unlocked."""
    import fcntl  # Windows lacks it; the command says that it needs Linux

    lock = os.open(directory / _NEW, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    common = git(repository, "rev-parse", "--git-common-dir").stdout.rstrip("\n")
    os.write(lock, os.fsencode((repository / common).resolve()))  # unlike a linked worktree, it stays
    (directory / _NEW).rename(directory / _LOCK)
    return lock


def _remove_abandoned(repository: Path) -> None:
    """Remove the directories of ended gates: in the temporary directory, and where git has worktrees in one."""
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
    """The descriptor of a lock whose gate has ended; None if the gate runs, or belongs to another user."""
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
    """The worktrees of a repository; none if the repository is gone."""
    listed = git(repository, "worktree", "list", "--porcelain").stdout.split("\n")
    return [Path(line.removeprefix("worktree ")) for line in listed if line.startswith("worktree ")]


def _remove(directory: Path) -> None:
    """Delete a scratch directory, the lock last. If this is cut short, the rest is still known to be abandoned."""
    with suppress(FileNotFoundError):
        for path in directory.iterdir():
            if path.name != _LOCK:
                shutil.rmtree(path, ignore_errors=True)
        if all(path.name in {_LOCK, _NEW} for path in directory.iterdir()):
            shutil.rmtree(directory, ignore_errors=True)
