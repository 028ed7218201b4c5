"""What the README shows is of the repository's newest run, and of the suite as it is."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping

import pytest

from docs import draw
from lenet.report.charts.style import DARK, LIGHT
from lenet.results import load

AGAIN = "`python -m docs.draw` writes it again"
FIRST_RUN = (draw.PICTURES / "first-run.txt").read_text("utf-8")


@pytest.mark.parametrize("shown", draw.TABLES, ids=lambda shown: shown.page.name)
def test_the_table_of_results_is_of_the_newest_run(shown: draw.Table) -> None:
    run, text = draw.newest_run(), shown.page.read_text("utf-8")
    table = draw.results_table(run, shown)
    assert table in text, AGAIN
    assert draw.with_results(text, table) == text, AGAIN
    assert str(run.commit)[:7] in table
    assert "NVIDIA H200" in table


@pytest.mark.parametrize(("name", "colors"), [("light", LIGHT), ("dark", DARK)])
def test_the_chart_is_of_the_newest_run(name: str, colors: Mapping[str, str]) -> None:
    rows = [row for row in draw.newest_run().rows if draw.is_shown(row)]
    assert (draw.PICTURES / f"speed-{name}.svg").read_text("utf-8") == draw.draw_speed(rows, colors), AGAIN


def test_the_first_run_s_picture_shows_its_output() -> None:
    assert (draw.PICTURES / "first-run.svg").read_text("utf-8") == draw.draw_terminal(FIRST_RUN), AGAIN


@pytest.mark.programs
def test_the_first_run_has_the_cases_that_the_suite_has() -> None:
    sizes = ("--batch-size=1000", "--batch-size=1")
    command = (sys.executable, "-m", "pytest", "benchmarks/test_inference.py", *sizes, "--collect-only", "-q")
    done = subprocess.run(command, cwd=draw.ROOT, capture_output=True, text=True, check=True)
    now = re.findall(r"^(\d+) tests collected", done.stdout, re.MULTILINE)
    assert re.findall(r"^collected (\d+) items", FIRST_RUN, re.MULTILINE) == now, (
        f"run `nox -s bench` 80 columns wide, put what it prints into docs/pictures/first-run.txt, and {AGAIN}"
    )


def test_each_shipped_file_s_commit_is_told() -> None:
    folder = draw.ROOT / ".benchmarks"
    told = re.findall(r"^\| code \| commit (\w+) \|$", (folder / "README.md").read_text("utf-8"), re.MULTILINE)
    assert told == [str(load(path).commit)[:7] for path in sorted(folder.glob("nvidia-h200/*.json"))]
