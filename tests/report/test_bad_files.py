"""What a page says of files that it cannot show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.report import documents
from tests.report.test_page import Text, check_that_it_is_named, report


def _corrupt(path: Path) -> Path:
    path.write_text("{")
    return path


def _foreign(path: Path) -> Path:
    return documents.measurement(path, lenet={"schema": 99})


def _without_times(path: Path) -> Path:
    documents.measurement(path)
    path.write_text(path.read_text().replace('"median": ', '"median": -'))
    return path


def _with_words(path: Path) -> Path:
    documents.measurement(path)
    documents.change(path, ("benchmarks", 0, "extra_info", "summary", "p95"), "long")
    return path


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (_corrupt, "no whole JSON document"),
        (_foreign, "schema 99"),
        (_without_times, "not a positive number of seconds"),
        (_with_words, "misshapen"),
        (lambda path: path, "No such file"),
    ],
)
def test_a_bad_file_is_named_and_the_rest_reported(make: Callable[[Path], Path], found: str, tmp_path: Path) -> None:
    bad = make(tmp_path / "bad.json")
    good = documents.measurement(tmp_path / "good.json")
    result, page = report(bad, good, out=tmp_path / "report.html")
    check_that_it_is_named(result, page, bad, found)
    assert "Files that could not be read" in Text(page).text


@pytest.mark.parametrize(
    ("option", "content", "found"),
    [
        ("--parity", "[]", "a list in the place of an object with 'backends'"),
        ("--parity", '{"backends": [{"backend": "x"}], "not_run": {}}', "no 'loss'"),
        ("--gate", "[1]", "the document is [1], not an object"),
        ("--gate", '{"schema": 1, "verdict": "PASS"}', "schema is 1, not 2"),
        ("--gate", '{"schema": true}', "schema is True, not 2"),
        ("--gate", '{"schema": 2}', "verdict is missing"),
        ("--gate", '{"schema": 2, "verdict": "MAYBE"}', "verdict is 'MAYBE', not PASS or FAIL or INCONCLUSIVE"),
        ("--gate", "{}", "schema is missing"),
        ("--gate", '{"schema": 2, "verdict": "ERROR", "reason": "it hung", "found": "x"}', "no verdict: it hung: x"),
        ("--gate", "[" * 10_000, "nested too deeply"),
    ],
)
def test_each_kind_of_bad_file_is_named(option: str, content: str, found: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(content)
    result, page = report(documents.measurement(tmp_path / "1.json"), option, bad, out=tmp_path / "report.html")
    check_that_it_is_named(result, page, bad, found)


@pytest.mark.parametrize("spoil", [{"history.csv": "epoch\n"}, {"run.json": "{}"}, {"history.csv": "epoch\nx\n"}])
def test_a_run_that_is_not_whole_is_named(spoil: dict[str, str], tmp_path: Path) -> None:
    run = documents.run_directory(tmp_path / "run")
    for name, content in spoil.items():
        (run / name).write_text(content)
    result, page = report(documents.measurement(tmp_path / "1.json"), "--run", run, out=tmp_path / "report.html")
    assert result.exit_code == 1
    assert "a run directory that `lenet train` finished" in result.stderr
    assert "Figure 1" not in page


@pytest.mark.parametrize(
    ("option", "part", "value"),
    [
        ("--parity", ("not_run", "tensorrt"), []),
        ("--parity", ("backends", 0, "loss"), 10**400),
        ("--gate", ("rows", 0, "pairs"), None),
        ("--gate", ("commits", "head"), None),
        ("--run", ("versions",), None),
        ("--run", ("times", "training_seconds"), None),
        ("--run", ("times", "images_an_epoch"), "x"),
    ],
)
def test_a_value_that_the_page_cannot_hold_is_named(
    option: str, part: tuple[str | int, ...], value: object, tmp_path: Path
) -> None:
    make = {"--parity": documents.parity, "--gate": documents.gate, "--run": documents.run_directory}[option]
    path = make(tmp_path / "bad")
    file = path / "run.json" if option == "--run" else path
    documents.change(file, part, value)
    result, _ = report(documents.measurement(tmp_path / "1.json"), option, path, out=tmp_path / "report.html")
    assert result.exit_code == 1, result.exception
    assert f"{file} cannot be read" in result.stderr
