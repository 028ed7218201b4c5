"""The command line: one module a command. Heavy modules are imported inside the command that needs them."""

from __future__ import annotations

from pathlib import Path

import click

from lenet import __version__, settings
from lenet.cli import (
    backends,
    build,
    coursework,
    doctor,
    evaluate,
    export,
    gate,
    promote,
    quantize,
    report,
    results,
    train,
)
from lenet.cli.guard import GuardedGroup
from lenet.errors import SettingsError

__all__ = ["main"]


@click.group(
    cls=GuardedGroup,
    epilog="Exit codes: 0, done and well; 1, a bad verdict (coursework, evaluate, doctor, gate) or a file that could "
    "not be read (report); 2, no result, and the message says why; 3, an inconclusive gate; 70, an unforeseen error, "
    "with its traceback; 130, interrupted.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.version_option(__version__, prog_name="lenet")
@click.pass_context
def main(context: click.Context) -> None:
    """LeNet on CIFAR-10: train it, evaluate it, and see which inference runtimes can run it here."""
    try:
        here = Path.cwd()
    except FileNotFoundError as error:
        raise SettingsError(
            "the working directory is gone", found="it was deleted", wanted="one that exists", hint="cd to another"
        ) from error
    found = context.obj = settings.read(here)
    precision = found.precision and found.precision.value  # click would show the name of a member
    defaults: dict[str, dict[str, object]] = {
        "evaluate": {"precision": precision},
        "doctor": {"precision": precision},
        "gate": {"tolerance": found.gate_tolerance, "harm": found.gate_harm},
    }
    context.default_map = {
        command: {name: value for name, value in options.items() if value is not None}
        for command, options in defaults.items()
    }


for _module in (coursework, train, evaluate, quantize, export, build, backends, doctor, results, promote, report, gate):
    main.add_command(_module.command)
