"""Two runs of the suite on one machine, row by row; prints Markdown.

``python experiments/repeatability.py FIRST.json SECOND.json > docs/results/repeatability-h100.md``
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lenet import results
from lenet.report.rounding import significant
from lenet.report.tables import row_name
from lenet.results import Row

WITHIN, WIDER = 0.02, 0.05


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    option = parser.parse_args(arguments)
    first, second = results.load(option.first), results.load(option.second)
    results.merge([first, second])  # refuses unlike machines and commits
    later = {row.case: row for row in second.rows}
    pairs = [(row, again) for row in first.rows if (again := later.get(row.case))]
    changes = [(row, again, again.summary.median / row.summary.median - 1) for row, again in pairs]
    print("# Two runs of the suite, back to back\n")
    print(f"- {first.describe()}\n- {second.describe()}\n")
    groups: dict[str, list[float]] = {"all": []}
    for row, _, change in changes:
        for name in ("all", _kind(row)):
            groups.setdefault(name, []).append(change)
    print(
        f"| rows | of them within {100 * WITHIN:.0f} % | within {100 * WIDER:.0f} % | the most |\n|---|---:|---:|---:|"
    )
    for name, group in groups.items():
        within = (f"{sum(abs(change) <= share for change in group)} of {len(group)}" for share in (WITHIN, WIDER))
        print(f"| {name} | {' | '.join(within)} | {max(group, key=abs):+.1%} |")
    for name, run, other in (("first", first, second), ("second", second, first)):
        cases = {row.case for row in other.rows}
        alone = [row_name(row.case) for row in run.rows if row.case not in cases]
        if alone:
            print(f"\nOnly in the {name}: {', '.join(alone)}.")
    print("\nSpread: half of the first run's rounds lie within so much of one another.")
    print("\n| row | first, ms | spread | second, ms | change |\n|---|---:|---:|---:|---:|")
    for row, again, change in changes:
        first_ms, second_ms = (significant(1e3 * one.summary.median) for one in (row, again))
        spread = f"{row.summary.iqr / row.summary.median:.1%}"
        print(f"| {row_name(row.case)} | {first_ms} | {spread} | {second_ms} | {change:+.1%} |")


def _kind(row: Row) -> str:
    return " ".join(filter(None, (row.case.backend, row.case.mode, row.case.host_memory)))


if __name__ == "__main__":
    main()
