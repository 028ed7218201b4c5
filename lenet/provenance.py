"""Where a result comes from: the versions of what made it, and the commit of the source."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

__all__ = ["package_version", "source_commit", "versions"]


def package_version(distribution: str) -> str | None:
    """Version of an installed distribution, or None; nothing is imported."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def versions(distributions: Iterable[str]) -> dict[str, str | None]:
    """Versions of Python and of the given distributions (None where not installed)."""
    return {"python": platform.python_version()} | {name: package_version(name) for name in distributions}


def source_commit() -> str | None:
    """Commit of the checkout that this package runs from, with ``+dirty`` where files differ from it.

    Returns:
        The environment's ``LENET_COMMIT`` where it is set, as for a copy of a checkout without its history; else the
        full hash, or None where the package does not run from a git checkout.
    """
    if named := os.environ.get("LENET_COMMIT"):
        return named
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        dirty = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+dirty" if dirty else commit


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
