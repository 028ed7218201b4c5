"""The project's sessions: ``nox -s tests``, ``nox -s bench`` and so on; ``nox -l`` lists them.

The sessions that need PyTorch share one environment, ``.nox/torch``, which is installed once and again only when the
dependencies in pyproject.toml change.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "typecheck", "tests"]

_ROOT = Path(__file__).parent
_TORCH = _ROOT / ".nox" / "torch"
_BIN = _TORCH / ("Scripts" if os.name == "nt" else "bin")
_PROJECT = nox.project.load_toml(_ROOT / "pyproject.toml")


@nox.session(python=False)
def tests(session: nox.Session) -> None:
    """Run the tests; arguments go to pytest."""
    _in_torch_environment(session, "pytest", *(session.posargs or ["tests"]))


@nox.session(python=False)
def bench(session: nox.Session) -> None:
    """Measure LeNet with the shipped weights and print the coursework's table; arguments go to pytest."""
    arguments = session.posargs or ["--batch-size=1000", "--batch-size=1"]
    columns = "--benchmark-columns=median,iqr,min,max,rounds"
    _in_torch_environment(session, "pytest", "benchmarks", columns, *arguments)


@nox.session(python=False)
def train(session: nox.Session) -> None:
    """Train LeNet by the coursework's recipe; arguments go to ``lenet train``."""
    _in_torch_environment(session, "lenet", "train", *session.posargs)


@nox.session(python=False)
def typecheck(session: nox.Session) -> None:
    """Check the types."""
    _in_torch_environment(session, "mypy", *session.posargs)


@nox.session(reuse_venv=True)
def lint(session: nox.Session) -> None:
    """Check style, spelling and the imports between the floors."""
    session.install(*nox.project.dependency_groups(_PROJECT, "lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("codespell")
    session.run("lint-imports", env={"PYTHONPATH": str(_ROOT)})


def _in_torch_environment(session: nox.Session, program: str, *arguments: str) -> None:
    """Run a program of the shared environment, after bringing the environment up to date."""
    requirements = [*nox.project.dependency_groups(_PROJECT, "test", "types")]
    wanted = repr((sys.version_info[:2], _PROJECT["project"], requirements))
    state = hashlib.sha256(wanted.encode()).hexdigest()
    stamp = _TORCH / "lenet-bench.state"
    if not stamp.exists() or stamp.read_text() != state:
        session.log(f"installing the environment {_TORCH} (PyTorch is several GB the first time)")
        session.run(sys.executable, "-m", "venv", str(_TORCH), external=True)
        pip = [str(_BIN / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        session.run(*pip, "--editable", str(_ROOT), *requirements, external=True)
        stamp.write_text(state)
    session.run(str(_BIN / program), *arguments, external=True)
