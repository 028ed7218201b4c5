"""``lenet results``: print saved measurements."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lenet.cli.options import TypedPath, example_option, refuse_files_of_example, storage_option
from lenet.terminal import tell

if TYPE_CHECKING:
    from lenet.results import Measurement

__all__ = ["command"]


@click.command("results")
@click.argument("files", nargs=-1, type=TypedPath())
@storage_option
@example_option
@click.option("--csv", "as_csv", is_flag=True, help="Print every row as CSV.")
@click.option("--details", is_flag=True, help="Print every figure, remark and case that did not run.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
def command(
    *, files: tuple[Path, ...], storage: Path, example: bool, details: bool, as_csv: bool, as_markdown: bool
) -> None:
    """Print the coursework's sheet 5 from saved measurements; with --details, beside the published figures.

    Several FILES are put together; they must be of one machine and commit. Without FILES the command shows the run of
    this machine that ended last.
    """
    if as_csv and as_markdown:
        raise click.UsageError("--csv and --markdown are two forms: name one")
    refuse_files_of_example(files, example=example)

    from rich.text import Text

    from lenet import results as saved
    from lenet.report import tables

    if example:
        measurements = [saved.example(storage)]
        tell("An example: the measurements that lenet-bench ships, not yours.\n", err=as_csv)
    else:
        measurements = [saved.load(path) for path in files] if files else [_latest(storage)]
    rows = saved.merge(measurements)
    if as_csv:
        tell(saved.to_csv(measurements), end="")
    elif as_markdown:
        tell(tables.results_markdown(measurements, rows))
    else:
        for measurement in measurements:
            tell(measurement.describe())
            if details and measurement.limits:
                tables.print_whole(Text(tables.limits_line(measurement.limits)))
        missing = saved.not_run(measurements)
        cause = measurements[0].cause if len(measurements) == 1 else None
        tables.print_whole(tables.details(rows, missing) if details else tables.brief(rows, missing, cause=cause))


def _latest(storage: Path) -> Measurement:
    from lenet import results as saved

    found, problems = saved.of_this_machine(storage)
    for problem in problems:
        tell(f"lenet: {problem}", err=True)
    return found[-1]
