"""Files written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from lenet.errors import OutputError

__all__ = ["make_directory", "only_writer", "open_regular", "read_regular", "write_atomically"]


def write_atomically(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``, so that a reader sees the old file or the new one, never a part.

    The content goes to a temporary file in the same directory, is flushed to the disk, and is renamed over
    ``path``: a full disk or a killed process leaves the previous file as it was. A link, a pipe or a device is not
    replaced.

    Args:
        path: The file; its directory must exist.
        content: Its new content.

    Raises:
        OutputError: The file cannot be written, or ``path`` is no regular file.
    """
    temporary = None
    try:
        if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "something that is no regular file")
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        advice = "name another file" if error.errno == errno.EEXIST else "free some space or choose another directory"
        raise OutputError(
            f"cannot write {path}",
            found=error.strerror or str(error),
            wanted=f"{len(content):,} bytes of room in a directory that can be written",
            hint=f"{advice}; the previous file, if any, is unchanged",
        ) from error


def make_directory(path: Path, option: str = "--out") -> None:
    """Create ``path`` and its parents, and make sure that files can be created in it.

    Args:
        path: The directory.
        option: What chooses it, for the error to name.

    Raises:
        OutputError: It cannot be created, or nothing can be written in it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OutputError(
            f"cannot write into {path}",
            found=error.strerror or str(error),
            wanted="a directory that can be created and written",
            hint=f"choose another directory with {option}",
        ) from error


@contextmanager
def only_writer(directory: Path, option: str = "--out") -> Iterator[None]:
    """Keep every other process that asks for the same out of a directory; a process that is killed lets go of it.

    Args:
        directory: It exists, and gets the file ``.lock``, which stays.
        option: What chooses it, for the error to name.

    Raises:
        OutputError: Another process has it, or the lock cannot be had.
    """
    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(timeout=0)
    except (NotImplementedError, OSError) as error:
        held = isinstance(error, Timeout)
        raise OutputError(
            f"{directory} cannot be locked",
            found="another process that writes into it" if held else str(error),
            wanted="a directory of this process alone",
            hint=f"wait until that one has ended, or choose another directory with {option}",
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def open_regular(path: Path, limit: int) -> Iterator[BinaryIO]:
    """Open an input file for reading, once its kind and its size are known to be an input file's.

    Nothing is waited for: a pipe without a writer opens at once, and is refused.

    Args:
        path: The file; a link is followed.
        limit: Bytes that it may hold.

    Raises:
        OSError: It cannot be opened, is no regular file, or is larger. ``strerror`` says what was found.
    """
    # Opened first and examined afterwards: the name may stand for another file a moment later.
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
        limit: Bytes that it may hold.

    Raises:
        OSError: As `open_regular`, or the file grows past the limit while it is read.
    """
    with open_regular(path, limit) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"a file that grew past {limit:,} bytes while it was read", str(path))
    return content
