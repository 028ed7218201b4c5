"""Built engines on disk, found by what they were built from.

An engine is machine code: loading one runs what whoever wrote it wanted. So engines are loaded from one directory
alone. The directory and each entry must be the user's own, and nobody else may be able to write them: an entry outlives
the mode that its directory had when it was written. An entry must be, to the byte, what its key and its own SHA-256
say.

Entries are written whole or not at all. Of processes that want the same engine at once, one builds it and the others
wait for it. This module knows no library: whoever owns one passes the functions that build and load.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeAlias, TypeVar

import platformdirs
from filelock import FileLock

from lenet.documents import to_json
from lenet.errors import BackendError, OutputError
from lenet.files import remedy, write_atomically

__all__ = [
    "Cached",
    "EngineCache",
    "EngineCacheWarning",
    "EngineKey",
    "EngineRefusedError",
    "default_directory",
    "digest",
    "private_directory",
    "problem_of_file",
]

T = TypeVar("T")

_FORMAT: Final = 1
"""Of an entry: a line of JSON (`_header`), then the content. Part of every key, so another format is a miss."""
_ELSEWHERE: Final = "set LENET_CACHE to another directory"

_LARGEST: Final = 2**30
"""Bytes of an entry: LeNet's have a few MB."""


class EngineRefusedError(BackendError):
    """A library refuses the engine that it just built; its owner knows how to say why."""


class EngineCacheWarning(UserWarning):
    """An entry of the cache could not be used, and is built anew."""


EngineKey: TypeAlias = Mapping[str, str | int | tuple[int, ...]]
"""All that an engine depends on, by name.

Errors name two fields, which every key has: ``library``, which builds the engine, and ``target``, which it runs on.
"""


def digest(key: EngineKey) -> str:
    """SHA-256 of all fields, in hexadecimal: the name of the entry."""
    return _sha256(to_json([_FORMAT, dict(key)], sort_keys=True).encode())


@dataclass(frozen=True, slots=True)
class Cached(Generic[T]):
    """An engine that was loaded, or built.

    Attributes:
        value: What the library made of it.
        sha256: Of the serialised engine, in hexadecimal. Building again may give another, so rows record it.
        from_cache: Whether it was loaded.
    """

    value: T
    sha256: str
    from_cache: bool


def default_directory() -> Path:
    """``$LENET_CACHE``, or else the user's cache directory for ``lenet-bench``.

    Raises:
        OutputError: LENET_CACHE is in the home directory of a user that there is not.
    """
    chosen = os.environ.get("LENET_CACHE")
    if not chosen:
        return platformdirs.user_cache_path("lenet-bench")
    try:
        return Path(chosen).expanduser()
    except RuntimeError as error:
        raise OutputError(
            "there is no directory for built engines",
            found=f"LENET_CACHE={chosen}: {error}",
            wanted="a directory that can be made",
            hint=_ELSEWHERE,
        ) from error


def private_directory(name: str) -> Path:
    """A directory in the default one, for a library that keeps what it compiles by itself; made on first use.

    Raises:
        BackendError: It, or the directory that it lies in, is not safe to load from.
        OutputError: It cannot be made.
    """
    _make_private(default_directory())
    directory = default_directory() / name
    _make_private(directory)
    return directory


def problem_of_file(path: Path) -> str | None:
    """Why a file in a cache must not be loaded; None where it can be, or where there is none.

    For a library that opens its file by itself, in a directory that was found private.
    """
    try:
        return _problem(path.lstat(), stat.S_ISREG, "no regular file")
    except FileNotFoundError:
        return None


class EngineCache:
    """A directory of engines.

    Args:
        directory: Where they are; made, for its owner alone, on first use.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def load_or_build(
        self, key: EngineKey, build: Callable[[], bytes], accept: Callable[[bytes], T | None]
    ) -> Cached[T]:
        """The engine of a key: the stored one where it can be used, else a new one, which is then stored.

        Args:
            key: All that the engine depends on.
            build: Makes a serialised engine.
            accept: Turns a serialised engine into what the library runs, or into None where the library refuses it.

        Raises:
            BackendError: The directory is not safe to load from.
            EngineRefusedError: The library refuses the engine that it just built, which is then not stored.
            OutputError: The directory cannot be written.

        Warns:
            EngineCacheWarning: There was an entry, but a damaged one or one that the library refuses.
        """
        self.make_directory()
        with self._lock(key):
            content = self.read(key)
            if content is not None:
                value = accept(content)
                if value is not None:
                    return Cached(value, _sha256(content), from_cache=True)
                _warn(self._path(key, "engine"), "the library refuses it")
            content = build()
            value = accept(content)
            if value is None:
                raise EngineRefusedError(
                    f"{key['library']} refuses the engine that it just built",
                    found=f"{len(content):,} bytes for {key['target']}",
                    wanted="an engine that runs here",
                    hint="read the library's log; check that the GPU, its driver and the library fit each other",
                )
            self.write(key, content)
            return Cached(value, _sha256(content), from_cache=False)

    def read(self, key: EngineKey, kind: str = "engine") -> bytes | None:
        """An entry's content, or None where there is none that can be used.

        Args:
            key: Of the engine.
            kind: The engine itself, or what else is kept for it.

        Raises:
            BackendError: The directory is not safe to load from.
            OutputError: The directory cannot be made.

        Warns:
            EngineCacheWarning: There is an entry, but it is damaged, another key's, another user's, or one that others
                can write.
        """
        self.make_directory()
        path = self._path(key, kind)
        try:
            header, _, content = _read_own(path).partition(b"\n")
        except FileNotFoundError:
            return None
        except OSError as error:
            _warn(path, error.strerror or str(error))
            return None
        if header != _header(key, kind, content):
            _warn(path, "it is damaged, or was made for something else")
            return None
        return content

    def write(self, key: EngineKey, content: bytes, kind: str = "engine") -> None:
        """Store an entry, whole or not at all.

        Args:
            key: Of the engine.
            content: The entry's content.
            kind: The engine itself, or what else is kept for it.

        Raises:
            BackendError: The directory is not safe.
            OutputError: The entry cannot be written.
        """
        self.make_directory()
        path = self._path(key, kind)
        if path.is_symlink():  # `write_atomically` replaces none
            path.unlink()
        # Whatever the umask: an entry that others can write is not read again.
        write_atomically(path, _header(key, kind, content) + b"\n" + content, 0o600, _ELSEWHERE)

    def _path(self, key: EngineKey, kind: str) -> Path:
        return self.directory / f"{digest(key)}.{kind}"

    @contextmanager
    def _lock(self, key: EngineKey) -> Iterator[None]:
        lock = FileLock(self._path(key, "lock"))
        try:
            lock.acquire()
        except OSError as error:
            raise _unwritable(self.directory, error) from error
        try:
            yield
        finally:
            lock.release()

    def make_directory(self) -> None:
        """Make the directory where there is none, and refuse one that others could have put an engine into.

        Raises:
            BackendError: It is not safe to load from.
            OutputError: It cannot be made.
        """
        _make_private(self.directory)


def _make_private(directory: Path) -> None:
    """`EngineCache.make_directory` of any directory."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        problem = _problem(directory.lstat(), stat.S_ISDIR, "no directory")
    except OSError as error:
        raise _unwritable(directory, error) from error
    if problem is not None:
        raise BackendError(
            "the engine cache is not safe to load engines from",
            found=f"{directory} is {problem}: what lies in it may be another user's",
            wanted="a directory of your own that nobody else can write into (mode 0700)",
            hint="set LENET_CACHE to a new directory; if this one holds nothing but engines, you can delete it instead",
        )


def _problem(status: os.stat_result, is_kind: Callable[[int], bool], otherwise: str) -> str | None:
    """Why what has this status is not the user's own alone; None where it is."""
    if stat.S_ISLNK(status.st_mode):
        return "a symbolic link"
    if not is_kind(status.st_mode):
        return otherwise
    if status.st_uid != os.geteuid():
        return f"owned by user {status.st_uid}, not {os.geteuid()}"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"writable by others (mode {stat.S_IMODE(status.st_mode):04o})"
    return None


def _read_own(path: Path) -> bytes:
    """The content of a file that is the user's alone; what is checked is what was opened.

    Raises:
        OSError: It cannot be read, or is not the user's alone.
    """
    # Neither a link is followed nor a pipe waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        problem = _problem(os.fstat(descriptor), stat.S_ISREG, "no regular file")
        if problem is not None:
            raise PermissionError(errno.EPERM, f"it is {problem}")
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise OSError(errno.EFBIG, f"more than the {_LARGEST:,} bytes of an entry")
    return content


def _unwritable(directory: Path, error: OSError) -> OutputError:
    return OutputError(
        "the engine cache cannot be written",
        found=f"{directory}: {error.strerror or error}",
        wanted="a directory that can be created and written",
        hint=remedy(error, _ELSEWHERE),
    )


def _header(key: EngineKey, kind: str, content: bytes) -> bytes:
    fields = {"format": _FORMAT, "kind": kind, "key": dict(key), "sha256": _sha256(content)}
    return to_json(fields, sort_keys=True).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _warn(path: Path, reason: str) -> None:
    warnings.warn(f"{path} is not used, and is made anew: {reason}", EngineCacheWarning, stacklevel=3)
