"""The commits to compare, their checkouts, and the environments that the checkouts run in."""

from __future__ import annotations

import errno
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from lenet.errors import GateError
from lenet.gate.interrupts import uninterrupted
from lenet.gate.pairs import SIDES
from lenet.gate.scratch import remove_worktree
from lenet.gate.trees import Tree
from lenet.provenance import git, git_command, package_version, without_git_variables

__all__ = ["Commits", "checked_out", "find_commits"]


@dataclass(frozen=True, slots=True)
class Commits:
    """What is compared.

    Attributes:
        repository: A checkout of the repository.
        base: The last common ancestor of the reference and head, so that head is judged by its own changes alone.
        head: The commit that is checked out.
        reference: As the user gave it.
        own_environments: Whether their dependencies differ, so that each gets an environment of its own.
    """

    repository: Path
    base: str
    head: str
    reference: str
    own_environments: bool


def find_commits(repository: Path, reference: str) -> Commits:
    """Find what to compare.

    Args:
        repository: A directory in a git checkout.
        reference: A branch, tag or commit.

    Raises:
        GateError: It is no checkout, the worktree is dirty, the reference is unknown or shares no ancestor with head.
    """
    root = Path(_ask(repository, "rev-parse", "--show-toplevel"))
    if dirty := _ask(root, "status", "--porcelain"):
        _refuse(
            "the worktree is dirty",
            "; ".join(dirty.split("\n")[:5]),
            "no change but those committed, for commits are what is compared",
            "commit what belongs to the change, and remove or ignore the rest",
        )
    if not _ask(root, "rev-parse", "--verify", "--quiet", f"{reference}^{{commit}}", may_be_none=True):
        _refuse(
            f"there is no {reference!r}", "no such commit", "a branch, tag or commit", "fetch it: `git fetch origin`"
        )
    base = _ask(root, "merge-base", reference, "HEAD", may_be_none=True)
    if not base:
        _refuse(
            f"{reference} and HEAD have no common ancestor",
            "unrelated histories, or a clone that is too shallow",
            "a commit that both come from",
            "fetch the whole history: `git fetch --unshallow origin`",
        )
    head = _ask(root, "rev-parse", "HEAD")
    needs = [_dependencies(root, commit) for commit in (base, head)]
    return Commits(root, base, head, reference, needs[0] != needs[1])


@contextmanager
def checked_out(commits: Commits, stage: Path, deadline: float = math.inf) -> Iterator[tuple[Tree, Tree]]:
    """Fresh checkouts of base and head, with empty compile caches, until the context is left.

    Args:
        commits: What is compared.
        stage: A directory to put them in. The paths of both sides are equally long, as the size of a process's
            environment moves its stack and can change its speed (Mytkowicz et al. 2009, Producing wrong data without
            doing anything obviously wrong!, ASPLOS).
        deadline: When they must be ready, on the clock of `time.monotonic`.

    Raises:
        TimeoutError: They were not ready in time.
        GateError: A checkout or an environment could not be made.
    """
    trees = []
    try:
        for side, commit in zip(SIDES, (commits.base, commits.head), strict=True):
            path = stage / side
            add = ("worktree", "add", "--no-checkout", "--detach", "--quiet", str(path), commit)
            _run(*git_command(commits.repository, *add), deadline=deadline)
            _run(*git_command(path, "reset", "--hard", "--no-recurse-submodules", "--quiet"), deadline=deadline)
            own = stage / f"{side}-env"
            python = _own_python(path, own, deadline) if commits.own_environments else sys.executable
            caches = stage / f"{side}-caches"
            (caches / "lenet").mkdir(parents=True, mode=0o700)
            trees.append(Tree(side, path, commit, python, caches))
        yield trees[0], trees[1]
    finally:
        with uninterrupted():
            for side in SIDES:
                remove_worktree(commits.repository, stage / side)
            shutil.rmtree(stage, ignore_errors=True)


def _dependencies(root: Path, commit: str) -> tuple[Any, ...]:
    """The dependencies in a commit's pyproject.toml."""
    document = tomllib.loads(git(root, "show", f"{commit}:pyproject.toml").stdout)  # empty if there is no such file
    project = document.get("project", {})
    wanted = ("requires-python", "dependencies", "optional-dependencies")
    return (*(project.get(name) for name in wanted), document.get("dependency-groups", {}).get("benchmark"))


def _own_python(tree: Path, environment: Path, deadline: float) -> str:
    """An environment with the tree's own dependencies, and with the extras that are installed here."""
    document = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))
    extras = document["project"].get("optional-dependencies", {})
    chosen = [name for name, needs in extras.items() if all(map(_is_here, needs))]
    _run(sys.executable, "-m", "venv", str(environment), deadline=deadline)
    python = str(environment / "bin" / "python")
    target = f"{tree}[{','.join(chosen)}]" if chosen else str(tree)
    group = [one for one in document["dependency-groups"]["benchmark"] if isinstance(one, str)]
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--editable", target, *group)
    _run(python, *install, deadline=deadline)
    return python


def _is_here(requirement: str) -> bool:
    name = re.match(r"[\w.-]+", requirement)
    return name is not None and (name[0] == "lenet-bench" or package_version(name[0]) is not None)


def _run(*command: str, deadline: float) -> None:
    left = None if math.isinf(deadline) else max(deadline - time.monotonic(), 0)
    with subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", env=_environment()
    ) as process:
        try:
            output, messages = process.communicate(timeout=left)
        except BaseException as error:
            process.terminate()  # git and pip then remove their unfinished work
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise TimeoutError(f"no time was left for `{shlex.join(command)}`") from None
            raise
    if process.returncode != 0:
        _refuse(
            "the checkouts cannot be prepared",
            messages.strip() or output.strip() or f"exit code {process.returncode}",
            f"this to work: {shlex.join(command)}",
            _remedy(messages) or "mend what is found and try again",
        )


def _environment() -> dict[str, str]:
    """Variables for git, venv and pip. The new environment must hold all its packages, so none counts as installed."""
    return {name: value for name, value in without_git_variables().items() if name != "PYTHONPATH"}


def _ask(root: Path, *arguments: str, may_be_none: bool = False) -> str:
    """What git prints.

    Args:
        root: A directory of the checkout.
        arguments: As git takes them.
        may_be_none: Exit code 1 means that there is no such thing; the text is then empty.

    Raises:
        GateError: git fails; the error has its words.
    """
    try:
        done = git(root, *arguments)
    except FileNotFoundError:
        _refuse("git is not installed", "no program `git` on PATH", "git, which the gate asks", "install git")
    if done.returncode > may_be_none:
        _refuse(
            "git cannot use this directory as a checkout",
            done.stderr.strip() or f"`git {shlex.join(arguments)}` ended with {done.returncode}",
            f"a checkout that git can read at {root}",
            _remedy(done.stderr) or "mend what git says, or go to your clone",
        )
    return done.stdout.rstrip("\n")


def _remedy(messages: str) -> str | None:
    """What to do on a full disk; the command that git advises if the checkout belongs to another user."""
    if os.strerror(errno.ENOSPC) in messages:
        return "name a directory with more space: `export TMPDIR=DIRECTORY`"
    advised = re.search(r"git config --global --add safe\.directory .+", messages)
    return f"if you trust its owner: `{advised[0].strip()}`" if advised else None


def _refuse(summary: str, found: str, wanted: str, hint: str) -> NoReturn:
    raise GateError(summary, found=found, wanted=wanted, hint=hint)
