"""``lenet promote``: make a measurement a baseline."""

from __future__ import annotations

from pathlib import Path

import click

from lenet.cli.options import TypedPath, storage_option
from lenet.terminal import tell

__all__ = ["command"]


@click.command("promote")
@click.argument("file", type=TypedPath())
@storage_option
def command(*, file: Path, storage: Path) -> None:
    """Make a saved measurement a baseline for later runs on the same machine."""
    from lenet import results as saved

    tell(f"baseline {saved.promote(file, storage)}")
