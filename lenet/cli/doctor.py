"""``lenet doctor``: say which backends work here."""

from __future__ import annotations

import click

from lenet.cli.options import device_option, precision_option
from lenet.documents import to_json
from lenet.terminal import tell

__all__ = ["command"]


@click.command("doctor")
@click.argument("names", nargs=-1)
@device_option
@precision_option
@click.option("--here", is_flag=True, help="Examine in this process, so that a debugger sees the library.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the libraries' logs whole.")
def command(*, names: tuple[str, ...], device: str, precision: str, here: bool, as_json: bool) -> None:
    """Import, build, run and compare each backend on 32 images, and say what to do next.

    Name backends to examine only these. Exits with 1 if an installed backend does not work.
    """
    from lenet import backends as table
    from lenet import devices, weights
    from lenet.comparison import doctor as clinic
    from lenet.progress import Steps
    from lenet.report.tables import doctor_table, print_whole
    from lenet.vocabulary import Precision

    target = devices.resolve(device)
    wanted = list(dict.fromkeys(table.entry(name).name for name in names or table.names()))
    asked = Precision(precision)
    if here:
        arrays = weights.load().arrays
        found = [clinic.examine(name, arrays, target, asked) for name in wanted]
    else:
        with Steps(len(wanted)) as steps:
            found = clinic.examine_in_processes(wanted, device, asked, on_begin=steps.begin)
    machine = clinic.machine(target)
    lines = [examination.to_json() for examination in found]
    if as_json:
        tell(to_json({"machine": machine, "backends": lines}, indent=2))
    else:
        print_whole(doctor_table(machine, lines))
    if any(examination.broken for examination in found):
        raise click.exceptions.Exit(1)
