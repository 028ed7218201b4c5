"""Paths that a person types."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from lenet.cli import main
from lenet.cli.options import TypedPath

PATHS = [
    pytest.param(name, one, id=f"{name} {one.opts[0]}")
    for name, command in sorted(main.commands.items())
    for one in command.params
    if isinstance(one.type, click.Path)
]


def test_every_command_with_files_is_here() -> None:
    assert len(PATHS) > 15


@pytest.mark.parametrize(("command", "path"), PATHS)
def test_an_empty_path_is_refused(
    command: str, path: click.Parameter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an unset variable of a shell leaves it. It would be the current directory."""
    monkeypatch.chdir(tmp_path)
    assert isinstance(path.type, TypedPath)
    option = [path.opts[0]] if isinstance(path, click.Option) else []
    done = CliRunner().invoke(main, [command, *option, ""])
    assert done.exit_code == 2
    name = option[0] if option else "FILE"
    assert done.stderr.startswith(f'lenet: {name} is empty\n  found:  ""\n  wanted: a path\n  next:   name one')
    assert not list(tmp_path.iterdir())
