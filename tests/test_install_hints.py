"""Each `pip install` that is printed can be typed as it stands, in a checkout."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from lenet import backends
from lenet.provenance import pip_install, program

ROOT = Path(__file__).parents[1]
DOCUMENT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS: dict[str, list[str]] = DOCUMENT["project"]["optional-dependencies"]
OF_PIP = ("-e", "-f", "--force-reinstall")
# A backend that pip can ask for a project's extras without a network.
BUILD = """
import pathlib

EXTRAS = {extras!r}


def prepare_metadata_for_build_editable(directory, settings=None):
    folder = pathlib.Path(directory, "lenet_bench-0.dist-info")
    folder.mkdir()
    lines = ["Metadata-Version: 2.1", "Name: lenet-bench", "Version: 0"]
    (folder / "METADATA").write_text("\\n".join(lines + [f"Provides-Extra: {{one}}" for one in EXTRAS]))
    return folder.name


def build_editable(directory, settings=None, metadata=None):
    raise NotImplementedError


build_wheel = build_editable
"""


def texts(path: Path) -> list[str]:
    """The texts of a module that are no documentation. None of a module without a command: parsing takes time."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source if re.search(r"pip install|lenet-bench\[", source) else "")
    documentation = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documentation
    ]


def asked_for(path: Path) -> list[str]:
    """What the calls of `pip_install` in a module ask for; a version that is put in stands as 0."""
    found = []
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source if "pip_install" in source else "")):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "pip_install":
            argument = node.args[0]
            if isinstance(argument, ast.Constant):
                found.append(str(argument.value))
            elif isinstance(argument, ast.JoinedStr):
                found.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "0" for part in argument.values)
                )
    return found


MODULES = sorted((ROOT / "lenet").rglob("*.py"))
HINTS = {line.requirements for line in map(backends.entry, backends.names())}
HINTS |= {asked for path in MODULES for asked in asked_for(path)}
SKIPS = {
    text.partition("pip install ")[2]
    for path in (ROOT / "tests").rglob("*.py")
    if path != Path(__file__)
    for text in texts(path)
    if re.search(r"pip install -e \"\.\[[a-z]", text)
}


def known_requirements() -> set[str]:
    """The distributions that pyproject.toml names."""
    groups = [one for group in DOCUMENT["dependency-groups"].values() for one in group if isinstance(one, str)]
    all_of_them = [*DOCUMENT["project"]["dependencies"], *groups, *(one for extra in EXTRAS.values() for one in extra)]
    return {Requirement(one).name for one in all_of_them}


def test_the_calls_are_found() -> None:
    assert '-e ".[fused]"' in HINTS
    assert len(HINTS) > len(backends.names()) - 3
    assert SKIPS


def test_no_module_writes_the_command_by_itself() -> None:
    written = {path: text for path in MODULES for text in texts(path) if re.search(r"pip install|lenet-bench\[", text)}
    assert written == {}


@pytest.mark.parametrize("hint", sorted(HINTS | SKIPS))
def test_what_is_printed_names_what_the_project_has(hint: str) -> None:
    words = iter(shlex.split(hint))
    for word in words:
        if word == "-e":
            (extras,) = re.fullmatch(r"\.\[(.+)\]", next(words)).groups()  # type: ignore[union-attr]
            assert set(extras.split(",")) <= set(EXTRAS)
        elif word == "-f":
            assert next(words).startswith("https://")
        elif word not in OF_PIP:
            assert Requirement(word).name in known_requirements()


OF_EACH_FORM = {re.sub(r"[\w-]+(?=[],])", "extra", one): one for one in sorted(HINTS | SKIPS) if one.startswith("-e")}
"""The names in a hint are tested above: pip reads hints that differ in nothing else alike."""


@pytest.mark.parametrize("hint", OF_EACH_FORM.values())
def test_pip_takes_it_from_a_shell_in_the_checkout(hint: str, tmp_path: Path) -> None:
    (tmp_path / "build.py").write_text(BUILD.format(extras=list(EXTRAS)))
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "build"\nbackend-path = ["."]\n'
        '[project]\nname = "lenet-bench"\ndynamic = ["version", "optional-dependencies"]\n'
    )
    dry = "--dry-run --no-deps --no-index --no-build-isolation --disable-pip-version-check"
    command = f"{shlex.quote(sys.executable)} -m pip install {dry} {hint}"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)  # noqa: S602
    assert done.returncode == 0, done.stderr
    assert "Would install lenet-bench" in done.stdout
    assert "does not provide the extra" not in done.stderr


def test_a_program_is_named_as_it_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / ".nox" / "torch" / "bin"
    own.mkdir(parents=True)
    for name in ("python", "pip"):
        (own / name).write_text("#!/bin/sh\n")
        (own / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(own / "python"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    assert pip_install("x") == ".nox/torch/bin/pip install x"
    monkeypatch.setenv("PATH", str(own))
    assert pip_install("x") == "pip install x"
    monkeypatch.setenv("PATH", "/nowhere")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert program("lenet") == "lenet", "a path that may tell whose it is would be saved"
