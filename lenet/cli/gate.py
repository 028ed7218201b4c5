"""``lenet gate``: compare HEAD with its base."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from lenet.cli.options import TypedPath
from lenet.settings import Settings

__all__ = ["command"]


class Duration(click.ParamType[float]):
    """A number of seconds, or of minutes or hours with ``m`` or ``h``."""

    name = "duration"
    _UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds of such a text."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", str(value))
        if found is None:
            self.fail(f"{value!r} is no duration such as 90s, 10m or 1.5h", param, ctx)
        return float(found[1]) * self._UNITS[found[2]]


@click.command("gate", context_settings={"ignore_unknown_options": True})
@click.option("--base", "reference", required=True, help="Compare with the last common ancestor of HEAD and this.")
@click.option("--out", type=TypedPath(), default=Path("gate"), show_default=True, help="Directory of the report.")
@click.option("--tolerance", type=float, default=0.01, show_default=True, help="Share of slow-down that is tolerated.")
@click.option("--harm", type=float, default=0.05, show_default=True, help="Largest slow-down of a row that passes.")
@click.option(
    "--worker-timeout", type=float, default=900.0, show_default=True, help="Seconds for each pair of processes."
)
@click.option("--budget", type=Duration(), help="End in this time, such as 10m, with what is known by then.")
@click.option("--resume", is_flag=True, help="Go on from the pairs that an earlier run left in --out.")
@click.option(
    "--start",
    type=click.Choice(["forked", "fresh"]),
    default="forked",
    show_default=True,
    help="How processes start: forked from one that has imported PyTorch, or afresh.",
)
@click.option("--seed", type=int, help="Seed of the order in each pair.  [default: drawn]")
@click.argument("suite", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def command(settings: Settings, /, *, suite: Sequence[str], worker_timeout: float, **given: Any) -> None:
    """Measure HEAD and BASE side by side, and say whether a row became slower.

    Other options choose the rows, as in `pytest benchmarks`: --backend=pytorch --batch-size=1. Writes gate.json and
    gate.md, and keeps each pair in pairs.jsonl, so that --resume goes on after an interruption. Exits with 0 for PASS,
    1 for FAIL, 3 for INCONCLUSIVE, and with 2 if there is no verdict.
    """
    from lenet.gate.interrupts import held

    with held():  # a signal that comes during the imports still ends with a gate.json that says so
        from lenet.gate.command import Options, run

        options = Options(suite=_with_settings(suite, settings), timeout=worker_timeout, **given)
        raise click.exceptions.Exit(run(options))


def _with_settings(suite: Sequence[str], settings: Settings) -> tuple[str, ...]:
    """The suite's options, with those of ``[tool.lenet]`` that were not typed. Base and head are measured alike."""
    typed = {argument.partition("=")[0] for argument in suite}
    return (
        *suite,
        *(
            f"{option}={value}"
            for option, values in settings.suite_values().items()
            if option not in typed
            for value in values
        ),
    )
