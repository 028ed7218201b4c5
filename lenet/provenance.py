"""The environment: versions of packages, how to type its programs, and the commit of the source."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

__all__ = [
    "bound_to_this",
    "first_version",
    "git",
    "git_command",
    "package_version",
    "pip_install",
    "program",
    "python",
    "source_commit",
    "versions",
    "without_git_variables",
]

_LAUNCH: Final = """
import ctypes, os, runpy, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end when the parent does, even if it is killed
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent process ended")
del sys.argv[:2]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
"""What a bound child runs. The number of its parent comes first, then the module."""
_CONFIGURATION: Final = frozenset({"GIT_CONFIG_COUNT", "GIT_CONFIG_PARAMETERS"})


def package_version(distribution: str) -> str | None:
    """Version of an installed distribution, or None. It imports nothing."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def first_version(distributions: Iterable[str]) -> str | None:
    """Version of the first of some distributions that is installed, or None; nothing is imported."""
    return next((found for found in map(package_version, distributions) if found), None)


def versions(distributions: Iterable[str]) -> dict[str, str | None]:
    """Versions of Python and of the given distributions (None if not installed)."""
    return {"python": platform.python_version()} | {name: package_version(name) for name in distributions}


def program(name: str) -> str:
    """How to type a program of this environment in the directory from which one works.

    Returns:
        The name, if it finds this program. Else the path below the working directory, as of an environment of nox. A
        path elsewhere may tell whose it is, and messages are saved; the name then stands for it.
    """
    own = Path(sys.executable).parent
    found = shutil.which(name)
    if found is None or Path(found).parent != own:
        try:
            return str((own / name).relative_to(Path.cwd()))
        except ValueError:
            pass
    return name


def pip_install(requirements: str) -> str:
    """The command that installs something into this environment, to be typed in a checkout of this project.

    Args:
        requirements: As a shell takes them, such as ``-e ".[onnx]"``.
    """
    return f"{program('pip')} install {requirements}"


def source_commit() -> str | None:
    """Commit of the checkout that this package runs from, with ``+dirty`` if files differ from it.

    Returns:
        The environment's ``LENET_COMMIT`` if it is set, as for a copy without git's history. Otherwise the full hash,
        or None if the package does not run from a git checkout. If git fails, the log has the reason.
    """
    if named := os.environ.get("LENET_COMMIT"):
        return named
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = git(root, "rev-parse", "HEAD")
        status = git(root, "status", "--porcelain", "--untracked-files=no")
        commit.check_returncode()
        status.check_returncode()
    except subprocess.CalledProcessError as error:
        logging.getLogger(__name__).warning("the source's commit is not recorded: %s", error.stderr.strip())
        return None
    except OSError as error:
        logging.getLogger(__name__).warning("the source's commit is not recorded: git cannot be started: %s", error)
        return None
    return commit.stdout.strip() + ("+dirty" if status.stdout else "")


def git(root: Path, *arguments: str, process_group: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run git in a directory, on the repository around it.

    Args:
        root: The directory.
        arguments: As git takes them.
        process_group: As `subprocess.run` takes it. A terminal's Ctrl-C does not reach another group.

    Returns:
        The exit code, the output, and git's messages.

    Raises:
        OSError: git cannot be started.
    """
    return subprocess.run(  # noqa: S603
        git_command(root, *arguments),
        capture_output=True,
        text=True,
        errors="surrogateescape",  # a path need not be UTF-8
        env=without_git_variables(),
        process_group=process_group,
        check=False,
    )


def git_command(root: Path, *arguments: str) -> list[str]:
    """A git command that runs no hook of the user and does not refresh the index."""
    return ["git", "-C", str(root), "--no-optional-locks", "-c", f"core.hooksPath={os.devnull}", *arguments]


def without_git_variables() -> dict[str, str]:
    """The environment without the variables that tie git to one repository, such as ``GIT_DIR`` and ``GIT_INDEX_FILE``.

    git sets them for its hooks and aliases, and they override the directory that a command names. Variables with
    settings stay, as git keeps them for a submodule: a ``safe.directory`` may be among them.
    """
    return {name: value for name, value in os.environ.items() if name not in _repository_variables()}


@cache
def _repository_variables() -> frozenset[str]:
    """The names as git lists them; none without git."""
    try:
        done = subprocess.run(["git", "rev-parse", "--local-env-vars"], capture_output=True, text=True, check=True)  # noqa: S607
    except (OSError, subprocess.CalledProcessError):
        return frozenset()
    return frozenset(done.stdout.split()) - _CONFIGURATION


def bound_to_this(module: str, *arguments: str) -> list[str]:
    """The command of ``python -m module``, as a child that ends when this process does, even if that is killed.

    Only Linux binds it.
    """
    return [*python(), "-c", _LAUNCH, str(os.getpid()), module, *arguments]


def python() -> list[str]:
    """This Python, as a child that finds modules where this process does.

    Python searches the working directory too for a child's ``-c``. There it could find a folder of the user instead of
    a library of the same name.
    """
    if sys.flags.isolated:
        return [sys.executable, "-I"]
    return [sys.executable, *([] if {"", str(Path.cwd())} & set(sys.path) else ["-P"])]
