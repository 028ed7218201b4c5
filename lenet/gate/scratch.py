"""The gate's directory for checkouts and results. A gate also removes the directories of gates that were killed.

A gate holds a lock in its directory. The kernel releases the lock when the gate ends, however it ends. A process id
would not do, as another process may have it by then.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NoReturn

from lenet.errors import GateError, LenetError
from lenet.gate.interrupts import uninterrupted
from lenet.gate.pairs import SIDES
from lenet.provenance import git

__all__ = ["bytes_needed", "cause_and_remedy", "refuse_full_disk", "remove_worktree", "scratch_directory"]

_PREFIX: Final = "lenet-gate-"
_DRAWN: Final = "[a-z0-9_]{8}"
"""What `tempfile.mkdtemp` adds to a prefix."""
_LOCK: Final = "lenet-gate.lock"
"""The lock file. It holds the path of the repository whose worktrees lie beside it."""
_NEW: Final = "new"
"""The lock file's name until it is locked."""


_ROOM: Final = 100 * 2**20
"""Bytes for results, logs and compile caches, beside the checkouts."""


@contextmanager
def scratch_directory(repository: Path, needed: int = 0) -> Iterator[Path]:
    """A directory for this gate alone, until the context is left.

    First it removes the directories and worktrees that killed gates of this user left behind.

    Args:
        repository: A checkout of the repository whose worktrees go there.
        needed: Bytes of space that the gate needs there.

    Raises:
        GateError: The temporary directory cannot be used, or has too little space.
    """
    _refuse_missing(needed)
    _remove_abandoned(repository)
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < needed:
        _refuse(f"{_shown(free)} free in {tempfile.gettempdir()}", needed)
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


def bytes_needed(repository: Path, commits: Sequence[str], *, own_environments: bool) -> int:
    """Bytes that a gate takes at most in its temporary directory, about.

    Args:
        repository: A checkout.
        commits: What is checked out there.
        own_environments: Whether each gets an environment, which is assumed to be as large as this one.
    """
    checkouts = 0
    for commit in commits:
        for line in git(repository, "ls-tree", "-r", "-l", "-z", commit).stdout.split("\0"):
            size = line.partition("\t")[0].split(" ")[-1]
            checkouts += int(size) if size.isdecimal() else 0  # a submodule has none
    return checkouts + _ROOM + (len(commits) * _size_of_environment() if own_environments else 0)


def refuse_full_disk(error: OSError, needed: int) -> None:
    """Refuse to go on if the temporary directory is full.

    Args:
        error: Of a file.
        needed: Bytes that the gate needs there.

    Raises:
        GateError: It is.
    """
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        _refuse(f"{error.strerror}, in {tempfile.gettempdir()}", needed)


def cause_and_remedy(error: LenetError | OSError, needed: int) -> str:
    """Why a gate ends early, and what to do, in one line.

    Args:
        error: What ended it. The hint may have a process's log behind it.
        needed: Bytes that the gate needs in the temporary directory.
    """
    hint, *log = error.hint.split("\n") if isinstance(error, LenetError) else [""]
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    try:
        if isinstance(error, OSError):
            refuse_full_disk(error, needed)
        if any(str(full.strerror) in line for line in log):
            refuse_full_disk(full, needed)
    except GateError as refused:
        return f"{refused.found}; {refused.hint}"
    return f"{error.summary}: {error.found}; {hint}" if isinstance(error, LenetError) else str(error)


def _refuse_missing(needed: int) -> None:
    """Refuse a TMPDIR that cannot be used. Python would take another directory in silence."""
    named = os.environ.get("TMPDIR")
    if named and not (Path(named).is_dir() and os.access(named, os.W_OK | os.X_OK)):
        _refuse(f"TMPDIR={named}, which is no directory that can be written", needed)
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        _refuse(error.strerror or str(error), needed)


def _refuse(found: str, needed: int) -> NoReturn:
    room = _shown(needed)
    raise GateError(
        "there is no temporary directory for the checkouts",
        found=found,
        wanted=f"a directory with {room} free",
        hint=f"name one that has {room} free: `export TMPDIR=DIRECTORY`",
    )


def _shown(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _size_of_environment() -> int:
    """Bytes of the packages that are installed here."""
    found = 0
    for packages in {sysconfig.get_path(name) for name in ("purelib", "platlib")}:
        for folder, _, files in os.walk(packages):
            found += sum(os.lstat(os.path.join(folder, name)).st_size for name in files)  # noqa: PTH118 - of thousands
    return found


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
    """Remove the directories of ended gates: in the temporary directory, and where git has worktrees in one.

    git also forgets the worktrees of a gate whose directory somebody else removed.
    """
    trees = _worktrees(repository)
    for tree in trees:
        scratch = tree.parent.parent
        if tree.name in SIDES and re.fullmatch(_PREFIX + _DRAWN, scratch.name) and _is_gone(scratch):
            remove_worktree(repository, tree)
    registered = {tree.parent.parent for tree in trees}
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


def _is_gone(directory: Path) -> bool:
    """Whether there is no such directory. One that this user may not see may be there."""
    try:
        directory.lstat()
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    return False


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
