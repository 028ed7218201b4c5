"""The reference says what the code does: options, exit codes, the fields of JSON, the columns of CSV, the modules."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from lenet import results
from lenet.cli import guard
from lenet.errors import LenetError
from lenet.gate.command import EXIT_CODES
from lenet.measurement.energy import Energy
from lenet.results import Throughput, schema
from tests.report import documents

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def table(page: str, head: str) -> list[list[str]]:
    """The cells of a page's first table whose head begins so."""
    lines = iter((DOCS / page).read_text("utf-8").splitlines())
    next(line for line in lines if line.startswith(f"| {head}"))
    next(lines)
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_each_column_of_the_csv_is_described(tmp_path: Path) -> None:
    described = [name for cells in table("reference/csv.md", "column") for name in words(cells[0])]
    printed = results.to_csv([results.load(documents.measurement(tmp_path / "run.json"))]).splitlines()[0]
    assert set(described) == set(printed.split(","))
    assert len(described) == len(set(described))


class Asked(dict[str, Any]):
    """A part of a document that notes which of its fields are asked for."""

    def __init__(self, part: dict[str, Any], place: str, found: set[str]) -> None:
        super().__init__({key: watched(value, f"{place}.{key}".lstrip("."), found) for key, value in part.items()})
        self.place, self.found = place, found

    def __contains__(self, key: object) -> bool:
        self.found.add(f"{self.place}.{key}".lstrip("."))
        return super().__contains__(key)


def watched(value: Any, place: str, found: set[str]) -> Any:
    if isinstance(value, dict):
        return Asked(value, place, found)
    return [watched(one, f"{place}[]", found) for one in value] if isinstance(value, list) else value


def whole(folder: Path) -> dict[str, Any]:
    """A document with every part that the schema looks into."""
    document: dict[str, Any] = json.loads(documents.measurement(folder / "run.json").read_text())
    document["lenet"]["not_run"] = [{"name": "one", "reason": "why"}]
    document["benchmarks"][0]["extra_info"] |= {
        "energy": Energy("NVML", 1000.0, 2.0, 5000, 50.0).to_json(),
        "energy_missing": None,
    }
    throughput = Throughput(3, latency_p50=0.1, latency_p95=0.2, latency_p99=0.3)
    document["benchmarks"][0]["extra_info"]["throughput"] = asdict(throughput)
    schema.check(document)
    return document


def described_fields() -> Iterator[tuple[str, bool]]:
    for cells in table("reference/json.md", "field"):
        first, *others = words(cells[0])
        yield first, cells[1] == "yes"
        yield from ((f"{first.rpartition('.')[0]}.{other}", cells[1] == "yes") for other in others)


def test_each_field_of_the_json_that_is_checked_is_described(tmp_path: Path) -> None:
    found: set[str] = set()
    schema.check(watched(whole(tmp_path), "", found))
    described = [name for name, _ in described_fields()]
    assert len(described) == len(set(described))
    # The row's mark of an inference benchmark is looked up before the row is checked; it is the same field.
    assert set(described) == found


@pytest.mark.parametrize(("name", "required"), list(described_fields()))
def test_a_file_without_a_field_is_refused_if_the_field_is_required(tmp_path: Path, name: str, required: bool) -> None:
    document = whole(tmp_path)
    *parents, last = name.split(".")
    part: Any = document
    for parent in parents:
        part = part[parent.removesuffix("[]")]
        part = part[0] if parent.endswith("[]") else part
    part.pop(last, None)
    if name == "benchmarks[].extra_info.case":
        schema.check(document)  # without it the entry is no inference row, and nothing else of it is read
    elif required:
        with pytest.raises(ValueError, match=re.escape(last)):
            schema.check(document)
    else:
        schema.check(document)


def test_each_exit_code_is_described() -> None:
    described = {int(cells[0]) for cells in table("reference/exit-codes.md", "exit code")}
    assert described == {0, LenetError.exit_code, guard.UNFORESEEN, guard.INTERRUPTED, *EXIT_CODES.values()}


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(DOCS))
    yield importlib.import_module("generated")
    del sys.modules["generated"]


def test_each_option_of_the_suite_is_in_the_reference(generated: Any) -> None:
    from lenet.suite.options import CHOICES

    text = generated.replace((DOCS / "reference" / "suite.md").read_text("utf-8"))
    options = re.findall(r"^\.\. option:: (--[\w-]+)(.*)\n\n   (.+)\.$", text, flags=re.MULTILINE)
    names = {name for name, _, _ in options}
    assert {option for option, _ in CHOICES.values()} <= names
    assert {"--data", "--synthetic", "--protocol", "--rounds"} <= names
    assert all(help_text.strip() for _, _, help_text in options)
    assert "%%" not in text


def test_each_module_with_an_interface_stands_on_one_page(generated: Any) -> None:
    pages = [page.read_text("utf-8") for page in (DOCS / "reference" / "api").glob("*.md")]
    shown = [name for page in pages for name in re.findall(r"^## (lenet\S*)$", generated.replace(page), re.MULTILINE)]
    assert len(shown) == len(set(shown))
    files = [file for file in (ROOT / "lenet").rglob("*.py") if "__all__" in file.read_text("utf-8")]
    modules = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files}
    assert modules <= set(shown)


def test_a_comment_that_asks_for_something_unknown_is_an_error(generated: Any) -> None:
    with pytest.raises(KeyError):
        generated.replace("<!-- generated: nothing -->")
