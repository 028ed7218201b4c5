"""``lenet gate``: compare HEAD with its base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from lenet.settings import Settings

__all__ = ["command"]


@click.command("gate", context_settings={"ignore_unknown_options": True})
@click.option("--base", "reference", required=True, help="Compare with the last common ancestor of HEAD and this.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("gate"), show_default=True, help="Directory of the report."
)
@click.option("--tolerance", type=float, default=0.01, show_default=True, help="Share of slow-down that is tolerated.")
@click.option("--harm", type=float, default=0.05, show_default=True, help="Largest slow-down of a row that passes.")
@click.option(
    "--worker-timeout", type=float, default=900.0, show_default=True, help="Seconds for each pair of processes."
)
@click.option("--seed", type=int, help="Seed of the order in each pair.  [default: drawn]")
@click.argument("suite", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def command(
    settings: Settings,
    /,
    *,
    reference: str,
    out: Path,
    tolerance: float,
    harm: float,
    worker_timeout: float,
    seed: int | None,
    **more: Any,
) -> None:
    """Measure HEAD and BASE side by side, and say whether a row became slower.

    Other options choose the rows, as in `pytest benchmarks`: --backend=pytorch --batch-size=1. Writes gate.json and
    gate.md. Exits with 0 for PASS, 1 for FAIL, 3 for INCONCLUSIVE, and with 2 if there is no verdict.
    """
    from lenet.gate import command

    suite = _with_settings(more["suite"], settings)
    code = command.run(reference, suite, out=out, tolerance=tolerance, harm=harm, timeout=worker_timeout, seed=seed)
    raise click.exceptions.Exit(code)


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
