"""``lenet gate``: compare HEAD with its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

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
def command(
    *, reference: str, out: Path, tolerance: float, harm: float, worker_timeout: float, seed: int | None, **more: Any
) -> None:
    """Measure HEAD and BASE side by side, and say whether a row became slower.

    Other options choose the rows, as in `pytest benchmarks`: --backend=pytorch --batch-size=1. Writes gate.json and
    gate.md. Exits with 0 for PASS, 1 for FAIL, 3 for INCONCLUSIVE, and with 2 if there is no verdict.
    """
    from lenet.gate import command

    code = command.run(
        reference, tuple(more["suite"]), out=out, tolerance=tolerance, harm=harm, timeout=worker_timeout, seed=seed
    )
    raise click.exceptions.Exit(code)
