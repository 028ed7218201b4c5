from __future__ import annotations

import json
from pathlib import Path

import pytest

from lenet.vocabulary import Mode
from tests.experiments.scripts import load
from tests.report import documents


def run_at(folder: Path, depth: int, factor: float) -> str:
    """A run of one depth, of which every time is so many times as long."""
    path = documents.measurement(folder / f"{depth}.json", backends=["fused"], modes=[Mode.THROUGHPUT])
    document = json.loads(path.read_text())
    for one in document["benchmarks"]:
        facts = one["extra_info"]
        facts["case"]["depth"] = facts["throughput"]["depth"] = depth
        facts["summary"]["median"] *= factor
    path.write_text(json.dumps(document))
    return str(path)


def test_the_least_depth_near_the_best_is_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [run_at(tmp_path, depth, factor) for depth, factor in ((1, 2.0), (2, 1.02), (3, 1.005), (4, 1.0))]
    load("throughput_depth").main(files)
    printed = capsys.readouterr().out
    assert "| row | 1 | 2 | 3 | 4 | least depth with 99% |" in printed
    (line,) = (one for one in printed.splitlines() if one.startswith("| fused throughput pinned fp32 1000 |"))
    assert line.endswith("| 3 |")
    assert printed.endswith("The least depth that reaches 99% of the best in every row: 3.\n")
