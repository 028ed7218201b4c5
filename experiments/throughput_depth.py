"""Runs of throughput at several depths: images a second and latency by depth, and the depth to choose; prints Markdown.

``python experiments/throughput_depth.py DEPTH1.json DEPTH2.json ... > docs/results/throughput-depth-h200.md``
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common import head, row
from lenet import results
from lenet.report.rounding import significant, thousands
from lenet.report.tables import row_name
from lenet.results import Case, Row

NEAR = 0.99
"""A depth serves a row if it reaches this share of the row's best rate."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    option = parser.parse_args(arguments)
    runs = [results.load(file) for file in option.files]
    by_case: dict[Case, dict[int, Row]] = {}
    for one in results.merge(runs):
        if one.throughput is not None:
            by_case.setdefault(replace(one.case, depth=None), {})[one.throughput.depth] = one
    depths = sorted({depth for found in by_case.values() for depth in found})
    print("# Throughput by the number of batches in flight\n")
    print("\n".join(f"- {run.describe()}" for run in runs))
    print("\nThousands of images a second; below them the 95th percentile of a batch's latency, in microseconds.")
    head("row", *map(str, depths), f"least depth with {NEAR:.0%}")
    least = []
    for case, found in by_case.items():
        best = max(one.images_per_second for one in found.values())
        least.append(min(depth for depth, one in found.items() if one.images_per_second >= NEAR * best))
        rates = [_cell(found.get(depth)) for depth in depths]
        row(row_name(case), *rates, least[-1])
        row("latency p95", *(_latency(found.get(depth)) for depth in depths), "")
    print(f"\nThe least depth that reaches {NEAR:.0%} of the best in every row: {max(least, default='none')}.")


def _cell(found: Row | None) -> str:
    if found is None:
        return "-"
    return thousands(found.images_per_second / 1e3) + (" !" if found.unstable else "")


def _latency(found: Row | None) -> str:
    return significant(1e6 * found.throughput.latency_p95) if found is not None and found.throughput else "-"


if __name__ == "__main__":
    main()
