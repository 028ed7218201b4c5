"""``lenet report``: write the report."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from lenet.cli.options import TypedPath, example_option, refuse_files_of_example, storage_option
from lenet.errors import ResultsError
from lenet.report.rounding import count
from lenet.terminal import tell

__all__ = ["command"]


@click.command("report")
@click.argument("files", nargs=-1, type=TypedPath())
@click.option("--out", type=TypedPath(), default=Path("report.html"), show_default=True, help="The page to write.")
@click.option("--run", type=TypedPath(), help="Run directory of `lenet train`.")
@click.option("--parity", type=TypedPath(), help="What `lenet evaluate --backend all --json` printed.")
@click.option("--gate", "gates", type=TypedPath(), multiple=True, help="A gate.json of `nox -s gate`; repeatable.")
@click.option("--lang", type=click.Choice(["en", "ru"]), default="en", show_default=True, help="Language of the page.")
@click.option("--sheets", is_flag=True, help="Only the coursework's five sheets, unfolded.")
@storage_option
@example_option
def command(
    *,
    files: tuple[Path, ...],
    out: Path,
    run: Path | None,
    parity: Path | None,
    gates: tuple[Path, ...],
    lang: str,
    sheets: bool,
    storage: Path,
    example: bool,
) -> None:
    """Write one HTML page with the coursework's five sheets, from your measurements, and more.

    FILES are saved measurements of any machines and commits. Without FILES the page holds the run of this machine that
    ended last, the baselines that it can be compared with, and the last gates unless --gate names others. The page and
    this command name each file that cannot be read, and report the rest. The exit code is then 1.
    """
    refuse_files_of_example(files, example=example)

    from lenet.files import write_atomically
    from lenet.progress import Steps
    from lenet.report import page, sources
    from lenet.report.language import find_language
    from lenet.results import last_gates

    language = find_language(lang)
    gates = gates if gates or files or example else tuple(last_gates(storage))
    files, passed_over = (
        (files, []) if files else _usual_files(storage, example=example, other=any((run, parity, gates)))
    )
    read = partial(sources.read, files, run=run, parity=parity, gates=gates, passed_over=passed_over, example=example)
    render = partial(page.render, language=language, sheets_alone=sheets)
    with Steps(2) as steps:
        steps.begin("reading the measurements")
        found = read()
        steps.begin("drawing the page")
        try:
            text = render(found)
        except Exception:  # noqa: BLE001 - a file is at fault: find it, name it and report the rest
            found = read(show=render)
            text = render(found)
    content = text.encode()
    write_atomically(out, content)
    tell(f"{out}: {count(len(content))} bytes")
    for problem in found.problems:
        tell(f"lenet: {problem}", err=True)
    if found.problems:
        raise click.exceptions.Exit(1)


def _usual_files(storage: Path, *, example: bool, other: bool) -> tuple[tuple[Path, ...], list[ResultsError]]:
    """The files that the page holds if none is named, and why files were passed over.

    Args:
        storage: The directory of baselines and saved runs.
        example: Whether to show the shipped campaign.
        other: Whether the page has something else to show, so that it needs no measurement.
    """
    from lenet import results as saved

    if example:
        return (saved.example(storage).path,), []
    try:
        found, problems = saved.of_this_machine(storage)
    except ResultsError:
        if other:
            return (), []
        raise
    return tuple(one.path for one in found), problems
