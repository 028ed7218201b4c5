"""``lenet promote``: make a measurement a baseline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lenet.terminal import tell

if TYPE_CHECKING:
    pass
from lenet.cli.options import storage_option

__all__ = ["command"]


@click.command("promote")
@click.argument("file", type=click.Path(path_type=Path))
@storage_option
def command(*, file: Path, storage: Path) -> None:
    """Make a saved measurement a baseline, that later runs on the same machine are compared with."""
    from lenet import results as saved

    tell(f"baseline {saved.promote(file, storage)}")
