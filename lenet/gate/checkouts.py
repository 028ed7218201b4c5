"""Which commits are compared, their checkouts, and the environments that these run in."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lenet.errors import GateError
from lenet.gate.workers import SIDES, Tree
from lenet.provenance import package_version

__all__ = ["Commits", "checked_out", "find_commits"]


@dataclass(frozen=True, slots=True)
class Commits:
    """What is compared.

    Attributes:
        repository: A checkout of it.
        base: The last common ancestor of the reference and head, so that head is judged by its own changes alone.
        head: The commit that is checked out.
        reference: As it was given.
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
    root = Path(
        _git(repository, "rev-parse", "--show-toplevel")
        or _refuse("this is no git checkout", str(repository), "a directory in a clone", "go to your clone")
    )
    if dirty := _git(root, "status", "--porcelain"):
        _refuse(
            "the worktree is dirty",
            "; ".join(dirty.splitlines()[:5]),
            "no change but those committed, for commits are what is compared",
            "commit what belongs to the change, and remove or ignore the rest",
        )
    if not _git(root, "rev-parse", "--verify", "--quiet", f"{reference}^{{commit}}"):
        _refuse(
            f"there is no {reference!r}", "no such commit", "a branch, tag or commit", "fetch it: `git fetch origin`"
        )
    base = _git(root, "merge-base", reference, "HEAD")
    if not base:
        _refuse(
            f"{reference} and HEAD have no common ancestor",
            "unrelated histories, or a clone that is too shallow",
            "a commit that both come from",
            "fetch the whole history: `git fetch --unshallow origin`",
        )
    head = str(_git(root, "rev-parse", "HEAD"))
    needs = [_dependencies(root, commit) for commit in (str(base), head)]
    return Commits(root, str(base), head, reference, needs[0] != needs[1])


@contextmanager
def checked_out(commits: Commits, stage: Path) -> Iterator[tuple[Tree, Tree]]:
    """Fresh checkouts of base and head, with empty compile caches, until the context is left.

    Args:
        commits: What is compared.
        stage: A directory to put them in. The paths of both sides are equally long: the size of a process's
            environment moves its stack, and may alone change its speed (Mytkowicz et al. 2009, Producing wrong data
            without doing anything obviously wrong!, ASPLOS).

    Raises:
        GateError: A checkout or an environment could not be made.
    """
    trees = []
    try:
        for side, commit in zip(SIDES, (commits.base, commits.head), strict=True):
            path = stage / side
            _run("git", "-C", str(commits.repository), "worktree", "add", "--detach", "--quiet", str(path), commit)
            python = _own_python(path, stage / f"{side}-env") if commits.own_environments else sys.executable
            caches = stage / f"{side}-caches"
            (caches / "lenet").mkdir(parents=True, mode=0o700)
            trees.append(Tree(side, path, commit, python, caches))
        yield trees[0], trees[1]
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        _git(commits.repository, "worktree", "prune")  # forgets those whose directory is gone


def _dependencies(root: Path, commit: str) -> tuple[Any, ...]:
    """What a commit's pyproject.toml says is to be installed."""
    document = tomllib.loads(_git(root, "show", f"{commit}:pyproject.toml") or "")
    project = document.get("project", {})
    wanted = ("requires-python", "dependencies", "optional-dependencies")
    return (*(project.get(name) for name in wanted), document.get("dependency-groups", {}).get("benchmark"))


def _own_python(tree: Path, environment: Path) -> str:
    """An environment with the tree's own dependencies, and those of its extras that are installed here."""
    document = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))
    extras = document["project"].get("optional-dependencies", {})
    chosen = [name for name, needs in extras.items() if all(map(_is_here, needs))]
    _run(sys.executable, "-m", "venv", str(environment))
    python = str(environment / "bin" / "python")
    target = f"{tree}[{','.join(chosen)}]" if chosen else str(tree)
    group = [one for one in document["dependency-groups"]["benchmark"] if isinstance(one, str)]
    _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--editable", target, *group)
    return python


def _is_here(requirement: str) -> bool:
    name = re.match(r"[\w.-]+", requirement)
    return name is not None and (name[0] == "lenet-bench" or package_version(name[0]) is not None)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        _refuse(
            "the checkouts cannot be prepared",
            (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1],
            f"`{' '.join(command[:6])} ...` to work",
            "mend that and try again",
        )


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints, or None where it fails."""
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() if done.returncode == 0 else None


def _refuse(summary: str, found: str, wanted: str, hint: str) -> Any:
    raise GateError(summary, found=found, wanted=wanted, hint=hint)
