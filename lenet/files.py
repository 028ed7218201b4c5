"""Files written whole or not at all, and input files read only if their kind and size are right."""

from __future__ import annotations

import errno
import os
import secrets
import shlex
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

from filelock import FileLock, Timeout

from lenet.errors import LenetError, OutputError

try:
    import fcntl as _fcntl
except ImportError:  # on Windows nothing tells a leftover from a file in use, so leftovers stay
    _fcntl = None  # type: ignore[assignment]
fcntl: Any = _fcntl

__all__ = [
    "make_directory",
    "only_writer",
    "open_regular",
    "prepare_file",
    "read_regular",
    "reading_remedy",
    "remedy",
    "typed_path",
    "write_atomically",
]

_PREFIX: Final = ".lenet-"
_SUFFIX: Final = ".partial"
"""A temporary file's name is short, so a file with the longest possible name can be written."""
_REMEDIES: Final[Mapping[int, str]] = {
    errno.EACCES: "get the right to write there",
    errno.EDQUOT: "delete files of yours, for `quota` allows no more",
    errno.EFBIG: "raise the size that a file may have (`ulimit -f`)",
    errno.EISDIR: "name a file in it",
    errno.EMFILE: "raise the number of files that may be open (`ulimit -n`)",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.ENOSPC: "free some space",
    errno.EPERM: "get the right to write there",
}


_REMEDIES_OF_READING: Final[Mapping[int, str]] = {
    errno.EACCES: "get the right to read it",
    errno.EFBIG: "name a smaller file",
    errno.EINVAL: "name a regular file",
    errno.EISDIR: "name a file in it",
    errno.ENOENT: "look at its name",
    errno.EPERM: "get the right to read it",
}


def remedy(error: OSError, otherwise: str) -> str:
    """What to do about a file that cannot be written.

    Args:
        error: Why it cannot.
        otherwise: What helps whatever the cause, such as another directory.
    """
    known = _REMEDIES.get(error.errno or 0)
    return f"{known}, or {otherwise}" if known else otherwise


def reading_remedy(error: OSError, otherwise: str) -> str:
    """What to do about an input file that cannot be read.

    Args:
        error: Why it cannot.
        otherwise: What helps whatever the cause, such as another file.
    """
    known = _REMEDIES_OF_READING.get(error.errno or 0)
    return f"{known}, or {otherwise}" if known else otherwise


def write_atomically(
    path: Path, content: bytes, mode: int | None = None, otherwise: str = "choose another directory"
) -> None:
    """Replace ``path`` by ``content``. A reader sees the old file or the new one, never a part.

    The content goes to a temporary file in the same directory, is flushed to the disk, and is renamed over ``path``. So
    a full disk or a killed process leaves the old file as it was. The next call in the directory removes the temporary
    file of a killed process. It replaces no link, pipe or device.

    Args:
        path: The file; its directory must exist.
        content: Its new content.
        mode: The file's permissions. By default a replaced file keeps its own, and a new file gets what the umask
            leaves of 0666.
        otherwise: What the error advises if the file cannot be written.

    Raises:
        OutputError: The file cannot be written, or ``path`` is no regular file.
    """
    try:
        before = _permissions(path)
        mode = before if mode is None else mode
        with _temporary(path.parent, 0o666 if mode is None else mode) as (descriptor, temporary):
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(content)
            os.fsync(descriptor)
            if mode is not None:
                os.fchmod(descriptor, mode)
            temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error, f"{len(content):,} bytes of room", otherwise) from error


def prepare_file(path: Path, option: str) -> None:
    """Refuse before the work what `write_atomically` would refuse after it; create a missing directory.

    Args:
        path: The file to write.
        option: The option that chooses it, for the error.

    Raises:
        OutputError: The directory cannot be created or written, or ``path`` is no regular file.
    """
    make_directory(path.parent, option)
    try:
        _permissions(path)
    except OSError as error:
        raise _unwritable(path, error, "a file", f"choose another with {option}") from error


def _permissions(path: Path) -> int | None:
    """The permissions of the file to replace; None if there is none."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "a directory")
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EEXIST, "something that is no regular file")
    return status.st_mode & 0o777


def _unwritable(path: Path, error: OSError, wanted: str, otherwise: str) -> OutputError:
    if error.errno == errno.EEXIST:
        advice = "name another file"
    elif not path.parent.exists():
        advice = f"create the directory first: mkdir -p {shlex.quote(str(path.parent))}"
    else:
        advice = remedy(error, otherwise)
    return OutputError(
        f"cannot write {path}",
        found=error.strerror or str(error),
        wanted=f"{wanted} in a directory that can be written",
        hint=f"{advice}; the previous file, if any, is unchanged",
    )


@contextmanager
def _temporary(directory: Path, mode: int) -> Iterator[tuple[int, Path]]:
    """A new file, open and locked. At the end it is removed, unless it was renamed."""
    _remove_leftovers(directory)
    descriptor, path = _create(directory, mode)
    try:
        yield descriptor, path
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _create(directory: Path, mode: int) -> tuple[int, Path]:
    """A new file, open and locked, so that no other writer takes it for a leftover."""
    while True:
        path = directory / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
        # The kernel applies the umask. The owner can always open a leftover, to see whether it is locked.
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode | 0o600)
        if fcntl is None:
            return descriptor, path
        with suppress(OSError):  # without locks in the file system, leftovers stay
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.path.lexists(path):
            return descriptor, path
        os.close(descriptor)  # another writer locked it first and removed it


def _remove_leftovers(directory: Path) -> None:
    """Remove this user's temporary files that no writer has locked."""
    for path in directory.glob(f"{_PREFIX}*{_SUFFIX}") if fcntl else ():
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                status = os.fstat(descriptor)
                if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
            finally:
                os.close(descriptor)


def typed_path(text: str, option: str) -> Path:
    """The path that a person typed for an option or an argument.

    Raises:
        LenetError: It is empty, as an unset variable of a shell leaves it. Python would take the current directory.
    """
    if not text:
        raise LenetError(
            f"{option} is empty",
            found='""',
            wanted="a path",
            hint="name one (`.` is the current directory), or leave it out",
        )
    return Path(text)


def make_directory(path: Path, option: str = "--out") -> None:
    """Create ``path`` and its parents, and make sure that files can be created in it.

    Args:
        path: The directory.
        option: The option that chooses it, for the error.

    Raises:
        OutputError: The directory cannot be created, or no file can be created in it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with _temporary(path, 0o600):
            pass
    except OSError as error:
        raise OutputError(
            f"cannot write into {path}",
            found=error.strerror or str(error),
            wanted="a directory that can be created and written",
            hint=remedy(error, f"choose another directory with {option}"),
        ) from error


@contextmanager
def only_writer(directory: Path, option: str = "--out", wait: float = 0) -> Iterator[None]:
    """Hold a directory's lock until the context is left. The kernel releases the lock of a killed process.

    Args:
        directory: An existing directory. It gets the file ``.lock``, which stays.
        option: The option that chooses it, for the error.
        wait: Seconds to wait for another process to release it.

    Raises:
        OutputError: Another process holds the lock, or the file cannot be locked.
    """
    lock = FileLock(directory / ".lock")
    elsewhere = f"choose another directory with {option}"
    try:
        lock.acquire(timeout=wait)
    except Timeout as error:
        raise _unlocked(
            directory, "another process that writes into it", f"wait until that one has ended, or {elsewhere}"
        ) from error
    except NotImplementedError as error:
        raise _unlocked(directory, str(error), elsewhere) from error
    except OSError as error:
        raise _unlocked(directory, error.strerror or str(error), remedy(error, elsewhere)) from error
    try:
        yield
    finally:
        lock.release()


def _unlocked(directory: Path, found: str, hint: str) -> OutputError:
    return OutputError(
        f"{directory} cannot be locked", found=found, wanted="a directory of this process alone", hint=hint
    )


@contextmanager
def open_regular(path: Path, limit: int) -> Iterator[BinaryIO]:
    """Open an input file for reading, if it is a regular file and not too large.

    It never waits: a pipe without a writer opens at once, and is refused.

    Args:
        path: The file; a link is followed.
        limit: The most bytes that it may hold.

    Raises:
        OSError: It cannot be opened, is no regular file, or is larger. ``strerror`` says what was found.
    """
    # Open first and examine the open file: the name may stand for another file a moment later.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "a pipe, a device or a socket, not a regular file", str(path))
        if status.st_size > limit:
            raise OSError(errno.EFBIG, f"{status.st_size:,} bytes, more than the {limit:,} of such a file", str(path))
        yield file


def read_regular(path: Path, limit: int) -> bytes:
    """Read an input file whole.

    Args:
        path: The file; a link is followed.
        limit: The most bytes that it may hold.

    Raises:
        OSError: As for `open_regular`, or the file grows past the limit while it is read.
    """
    with open_regular(path, limit) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"a file that grew past {limit:,} bytes while it was read", str(path))
    return content
