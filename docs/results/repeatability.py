"""Two runs of the suite on one machine, row by row; prints Markdown.

``python docs/results/repeatability.py FIRST.json SECOND.json > docs/results/repeatability-h100.md``
"""

from __future__ import annotations

import sys
from pathlib import Path

from lenet import results
from lenet.report.tables import row_name, significant

WITHIN = 0.02


def main() -> None:
    first, second = (results.load(Path(name)) for name in sys.argv[1:3])
    results.merge([first, second])  # refuses unlike machines and commits
    later = {row.case: row for row in second.rows}
    changes = [(row, later[row.case], later[row.case].median / row.median - 1) for row in first.rows]
    inside = sum(abs(change) <= WITHIN for *_, change in changes)
    print("# Two runs of the suite, back to back\n")
    print(f"- {first.describe()}\n- {second.describe()}\n")
    print(f"{inside} of {len(changes)} rows have medians within {WITHIN:.0%} of one another.\n")
    print("| row | first, ms | second, ms | change |\n|---|---:|---:|---:|")
    for row, again, change in changes:
        cells = (row_name(row.case), significant(1e3 * row.median), significant(1e3 * again.median), f"{change:+.1%}")
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
