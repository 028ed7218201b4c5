"""A file that is damaged in whatever way is named, and never takes the others' report with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lenet.cli import main
from lenet.report import curves, page, sources
from lenet.report.charts import Chart, Painter
from lenet.report.language import ENGLISH
from tests.report import documents

KINDS = ("measurement", "run", "parity", "gate")
OPTIONS = {"measurement": [], "run": ["--run"], "parity": ["--parity"], "gate": ["--gate"]}
JUNK: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, 1e-300, 1e308, 10**18, 10**400, float("nan"), float("inf")),
    *("", "x", "\0\ufffe\u202e", "%(x)s %d {0} {{ x }}", "$\\frac$", "x" * 5000, [], [[]], ["x"], {}, {"a": 1}),
)
Place = tuple[str | int, ...]


def make(kind: str, folder: Path) -> tuple[Path, Path]:
    """A whole input of a kind: what the command is given, and the JSON in it."""
    if kind == "run":
        run = documents.run_directory(folder / "run")
        return run, run / "run.json"
    small: dict[str, Callable[[Path], Path]] = {
        "measurement": lambda path: documents.measurement(path, backends=("pytorch",), rounds=3, batches=(1,)),
        "parity": documents.parity,
        "gate": documents.gate,
    }
    path = small[kind](folder / f"{kind}.json")
    return path, path


def report(folder: Path, *arguments: str | Path) -> tuple[Result, str]:
    good = documents.measurement(folder / "good.json")
    out = folder / "report.html"
    done = CliRunner().invoke(main, ["report", "--out", str(out), str(good), *map(str, arguments)])
    return done, out.read_text() if out.exists() else ""


def places(node: Any, place: Place = ()) -> Iterator[Place]:
    if place:
        yield place
    for name, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from places(value, (*place, name))


@pytest.fixture
def drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a history that was drawn before the chart is the same: matplotlib takes half a second for it."""
    draw, drawn = curves.draw_chart, {}

    def draw_once(painter: Painter, history: Any, quantity: str) -> Chart:
        key = repr((painter.language, history, quantity))
        if key not in drawn:
            drawn[key] = draw(painter, history, quantity)
        return drawn[key]

    monkeypatch.setattr(curves, "draw_chart", draw_once)


@pytest.mark.usefixtures("drawn_once")
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_whatever_is_wrong_with_a_file_it_is_named_or_shown(kind: str, tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    folder.mkdir()
    path, file = make(kind, folder)
    document = json.loads(file.read_text())
    place = data.draw(st.sampled_from(list(places(document))), "place")
    documents.change(file, place, data.draw(st.sampled_from((KeyError, *JUNK)), "value"))
    options: dict[str, Any] = {"files": [], kind: path}
    if kind in {"measurement", "gate"}:
        options = {"files": [], "files" if kind == "measurement" else "gates": [path]}
    found = sources.read(**options)
    assert all(str(path) in problem.summary for problem in found.problems)
    if not found.problems:
        page.render(found, ENGLISH)


@pytest.mark.parametrize(
    "cell", ["9" * 131_100, '"' + "\n" * 131_100, "1e308", "-1e308", "nan", "inf", "\xff", "\0", "x"]
)
def test_a_history_that_cannot_be_drawn_is_named(cell: str, tmp_path: Path) -> None:
    run = documents.run_directory(tmp_path / "run")
    with (run / "history.csv").open("ab") as file:
        file.write(f"4,1,1,{cell},0.1\n".encode("latin-1"))
    done, text = report(tmp_path, "--run", run)
    assert done.exit_code == 1, done.output
    assert f"{run / 'run.json'} cannot be read" in done.stderr
    assert f"{run / 'run.json'} cannot be read" in text
    assert "pytorch-compile, forward: 1.18 times as fast" in text


@pytest.mark.parametrize(
    ("kind", "drawing"),
    [
        ("measurement", "lenet.report.page.sheets.floor_sheet"),
        ("run", "lenet.report.page.sheets.recipe_sheet"),
        ("parity", "lenet.report.page.rendering.parity_sheet"),
        ("gate", "lenet.report.page.gates.gate_sheet"),
    ],
)
def test_a_file_that_the_page_stumbles_over_is_named(
    kind: str, drawing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = make(kind, tmp_path)

    def stumble(what: Any, *_: Any) -> None:
        if kind != "measurement" or len(what) == 2:  # the good one has four rows
            raise ZeroDivisionError("a fault of the page")

    monkeypatch.setattr(drawing, stumble)
    if kind == "measurement":
        path.write_text(path.read_text().replace('"fingerprint": "f1"', '"fingerprint": "f2"'))
    done, text = report(tmp_path, *OPTIONS[kind], path)
    assert done.exit_code == 1, done.output
    for said in (done.stderr, text):
        assert f"{path} cannot be shown" in said
        assert "ZeroDivisionError: a fault of the page" in said
    assert "pytorch-compile, forward: 1.18 times as fast" in text


def test_a_fault_of_the_page_that_no_file_causes_is_told_with_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("lenet.report.page.sheets.layers_sheet", stumble)
    done, text = report(tmp_path)
    assert (done.exit_code, text) == (70, "")
    assert "ZeroDivisionError" in done.stderr


def test_a_name_that_is_not_utf_8_is_reported(tmp_path: Path) -> None:
    name = b"/\xff.json"
    bad, missing = (Path(str(tmp_path) + (prefix + name).decode(errors="surrogateescape")) for prefix in (b"", b"/no"))
    documents.measurement(bad)
    done, text = report(tmp_path, bad, missing)
    assert done.exit_code == 1, done.output
    assert r"no/\udcff.json cannot be read" in done.stderr
    assert r"no/\udcff.json cannot be read" in text
    assert r"\udcff.json</" in text
