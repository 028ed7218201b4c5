"""``lenet report``: write the report."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from lenet.cli.options import storage_option
from lenet.terminal import tell

__all__ = ["command"]


@click.command("report")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True, help="The page to write."
)
@click.option("--run", type=click.Path(path_type=Path), help="Run directory of `lenet train`.")
@click.option("--parity", type=click.Path(path_type=Path), help="What `lenet evaluate --backend all --json` printed.")
@click.option("--gate", type=click.Path(path_type=Path), help="The gate.json of `nox -s gate`.")
@click.option("--lang", type=click.Choice(["en", "ru"]), default="en", show_default=True, help="Language of the page.")
@storage_option
def command(
    *,
    files: tuple[Path, ...],
    out: Path,
    run: Path | None,
    parity: Path | None,
    gate: Path | None,
    lang: str,
    storage: Path,
) -> None:
    """Write one HTML page with the coursework's five sheets, from your measurements, and more.

    FILES are saved measurements of any machines and commits. Without FILES the page holds all that are saved. The page
    and this command name each file that cannot be read, and report the rest. The exit code is then 1.
    """
    from lenet import results as saved
    from lenet.files import write_atomically
    from lenet.progress import Steps
    from lenet.report import page, sources
    from lenet.report.language import find_language

    language = find_language(lang)
    read = partial(sources.read, files or saved.stored_files(storage), run=run, parity=parity, gate=gate)
    with Steps(2) as steps:
        steps.begin("reading the measurements")
        found = read()
        steps.begin("drawing the page")
        try:
            text = page.render(found, language)
        except Exception:  # noqa: BLE001 - a file is at fault: find it, name it and report the rest
            found = read(show=lambda alone: page.render(alone, language))
            text = page.render(found, language)
    content = text.encode()
    write_atomically(out, content)
    tell(f"{out}: {len(content):,} bytes")
    for problem in found.problems:
        tell(f"lenet: {problem}", err=True)
    if found.problems:
        raise click.exceptions.Exit(1)
