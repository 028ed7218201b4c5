"""What compilers make of the kernels, kept in pytest's cache from one run of the tests to the next.

A compiler's result depends on its input and its version alone, so both are in an entry's key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from lenet.engine_cache import EngineCache

_store: EngineCache | None = None


def open_store(config: pytest.Config) -> None:
    """Keep what is compiled from now on in pytest's cache, if there is one that can be written."""
    global _store  # noqa: PLW0603 - one for the process, as the configuration is
    cache = getattr(config, "cache", None)  # None with `-p no:cacheprovider`
    try:
        directory = None if cache is None else cache.mkdir("kernels")
        if directory is not None:
            directory.chmod(0o700)  # an `EngineCache` loads from no other
    except OSError:
        directory = None
    _store = None if directory is None else EngineCache(directory)


def compiled(compiler: str, target: str, inputs: Iterable[str], compile_now: Callable[[Path], bytes]) -> bytes:
    """What a compiler makes of its inputs: kept from an earlier call, or made now.

    Args:
        compiler: Its name and version.
        target: What it compiles for.
        inputs: All else that the result depends on.
        compile_now: Compiles in a temporary directory. What it raises is not kept.
    """

    def build() -> bytes:
        with TemporaryDirectory(prefix="lenet-kernels-") as directory:
            return compile_now(Path(directory))

    if _store is None:
        return build()
    digest = hashlib.sha256("\0".join(inputs).encode()).hexdigest()
    key = {"library": compiler, "target": target, "inputs": digest}
    return _store.load_or_build(key, build, lambda content: content).value
