"""A library's refusal of a network, as an error of this project."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lenet.errors import BackendError

__all__ = ["refusal_of"]


@contextmanager
def refusal_of(name: str, package: str, version: str, does: str) -> Iterator[None]:
    """Turn any exception of a library that is given a network into a `BackendError`.

    The libraries' own exceptions share no public base class.

    Args:
        name: What people call the library.
        package: Its package.
        version: The package's version.
        does: What the library should do with the network, such as "compiles for the CPU".

    Raises:
        BackendError: The library refuses the network.
    """
    try:
        yield
    except Exception as error:
        raise BackendError(
            f"{name} refuses the network",
            found=str(error),
            wanted=f"a network that {package} {version} {does}",
            hint=f"try another version of {package}",
        ) from error
