"""Rows as CSV. No torch here."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from lenet.results.case import Case, Measurement, Throughput
from lenet.results.matching import merge_with_runs, speedup

__all__ = ["to_csv"]


def to_csv(measurements: Sequence[Measurement]) -> str:
    """The rows of several runs of one machine as CSV, one line each.

    The columns are the case, the times in seconds, figures derived from them, and the run of the row: its machine,
    source, date and whether it was interrupted.

    Raises:
        ResultsError: As for `merge`.
    """
    text = io.StringIO()
    case_names = [one.name for one in fields(Case)]
    times = ("rounds", "median", "mean", "stddev", "minimum", "p95", "p99", "iqr", "median_low", "median_high")
    more = ("wall_median", "peak_memory_bytes", "throttled", "max_abs_delta", "share_of_tolerance")
    run = ("kind", "fingerprint", "commit", "date", "partial")
    writer = csv.writer(text, lineterminator="\n")
    derived = ("images_per_second", "speedup_over_pytorch", "floor", "floor_term", "times_floor", "unstable")
    energy = (
        *("energy_counter", "joules_per_1000_images", "joules_above_idle_per_1000_images"),
        *("images_per_joule", "watts", "idle_watts", "energy_missing"),
    )
    sustained = [one.name for one in fields(Throughput) if one.name != "depth"]
    writer.writerow([*case_names, *times, *more, *derived, *energy, "in_flight", *sustained, *run])
    merged = merge_with_runs(measurements)
    rows = [one for one, _ in merged]
    for one, source in merged:
        case = asdict(one.case)
        cells = [
            *(case[name] for name in case_names),
            *(getattr(one.summary, name) for name in times),
            *(getattr(one, name) for name in more),
            one.images_per_second,
            speedup(one, rows),
            one.floor.seconds if one.floor else None,
            one.floor.term if one.floor else None,
            one.times_floor,
            "; ".join(one.unstable),
            one.energy.counter if one.energy else None,
            *(getattr(one.energy, name, None) for name in energy[1:-1]),
            one.energy_missing,
            one.throughput.depth if one.throughput else None,
            *(getattr(one.throughput, name, None) for name in sustained),
            *(getattr(source, name) for name in run),
        ]
        writer.writerow(map(_no_formula, cells))
    return text.getvalue()


def _no_formula(cell: Any) -> Any:
    """Put an apostrophe before a text that a spreadsheet would take for a formula, as OWASP advises."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@")) else cell
