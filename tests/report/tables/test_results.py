from __future__ import annotations

from lenet.report.tables import sheet_5
from lenet.results import NotRun
from tests.report.tables.examples import PUBLISHED, render


def test_the_published_table_stands_beside_and_is_marked() -> None:
    text = render(sheet_5(PUBLISHED), 120)
    assert "Published by the coursework: batch about 1,000, NVIDIA GeForce RTX 4060 Ti" in text
    assert "not measured here" in text
    lines = [line.split() for line in text.splitlines() if line.split()[-6:-3] == ["0.548", "0.0005", "0.67"]]
    assert lines == [["TriPy", "->", "TensorRT", "0.548", "0.0005", "0.67", "1.476", "0.0015", "0.87"]]


def test_what_was_not_run_is_listed_once_a_reason() -> None:
    missing = (NotRun("tripy-1", "not installed"), NotRun("x", "no GPU"), NotRun("tripy-2", "not installed"))
    assert "Not run:\n  tripy-1, tripy-2: not installed\n  x: no GPU\n" in render(sheet_5((), missing))


def test_many_cases_that_were_not_run_are_counted() -> None:
    text = render(sheet_5([], [NotRun(f"case-{number}", "no time") for number in range(10)]), 200)
    assert "case-7 and 2 more: no time" in text
    assert "case-8" not in text
