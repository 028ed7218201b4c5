"""``lenet results``: print saved measurements."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lenet.cli.options import storage_option
from lenet.errors import ResultsError
from lenet.terminal import tell

if TYPE_CHECKING:
    from lenet.results import Measurement

__all__ = ["command"]


@click.command("results")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@storage_option
@click.option("--csv", "as_csv", is_flag=True, help="Print every row as CSV.")
@click.option("--details", is_flag=True, help="Print every figure, remark and case that did not run.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
def command(*, files: tuple[Path, ...], storage: Path, details: bool, as_csv: bool, as_markdown: bool) -> None:
    """Print the coursework's sheet 5 from saved measurements, beside the published figures.

    Several FILES are put together; they must be of one machine and commit. Without FILES the command shows the saved
    run that ended last.
    """
    if as_csv and as_markdown:
        raise click.UsageError("--csv and --markdown are two forms: name one")

    from lenet import results as saved
    from lenet.report import tables

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
                tell(tables.limits_line(measurement.limits))
        tables.print_whole((tables.details if details else tables.brief)(rows, saved.not_run(measurements)))


def _latest(storage: Path) -> Measurement:
    from lenet import results as saved

    found, problems = saved.latest(storage)
    if found is None:
        raise ResultsError(
            f"there is nothing saved in {storage}",
            found="; ".join(f"{one.summary}: {one.found}" for one in problems) or "no file of measurements",
            wanted="one that `pytest benchmarks --benchmark-autosave` wrote",
            hint="measure first, or name a file",
        )
    for problem in problems:
        tell(f"lenet: {problem}", err=True)
    return found
