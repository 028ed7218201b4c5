"""``lenet backends``: list the inference runtimes, or probe them."""

from __future__ import annotations

import click

from lenet.cli.options import device_option
from lenet.documents import to_json
from lenet.terminal import tell

__all__ = ["command"]


@click.command("backends")
@click.argument("names", nargs=-1)
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(*, names: tuple[str, ...], device: str, as_json: bool) -> None:
    """List the inference runtimes, or probe those that you name.

    Listing says what is installed, and imports no runtime. Probing imports the named runtimes and says whether they can
    run on the device.
    """
    from lenet import backends as table
    from lenet.report.tables import backends_table, print_whole

    lines = []
    for line in [table.entry(name) for name in names or table.names()]:
        if names:
            version, reason = _probe(line.name, device)
        else:
            version, reason = table.installed_version(line), table.not_installed(line)
        lines.append({"name": line.name, "summary": line.summary, "version": version, "reason": reason})
    if as_json:
        tell(to_json(lines, indent=2))
    else:
        print_whole(backends_table(lines, probed=bool(names)))


def _probe(name: str, device: str) -> tuple[str | None, str | None]:
    from lenet import backends as table
    from lenet import devices

    availability = table.load(name).probe(devices.resolve(device))
    return availability.version, availability.reason
