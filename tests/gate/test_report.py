"""What the gate prints and writes of a run on scripted pairs."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lenet.errors import GateError
from lenet.gate import acceptance, report, session
from lenet.gate.acceptance import Acceptance
from lenet.gate.decision import Rule, Verdict
from lenet.gate.pairs import TURNS, Pair
from lenet.gate.why import Explanation
from lenet.report.tables import to_markdown
from tests.gate.fakes import plain
from tests.gate.scripted import Gate, quiet


def test_the_report_says_why_for_every_row(gate: Gate) -> None:
    found = gate.run(lambda stage, _: plain({1: 1.1, 2: 1.0} if stage == "first" else {1: 1.1}))
    page = report.to_page(found)
    assert "### FAIL: a row became slower, or is no longer measured: row 1" in page
    assert "| row 1 | 1000 | 1100 | +10.0% | +10.0% | +10.0% | 7 + 6 | FAIL |" in page
    assert "| row 2 | 1000 | 1000 | +0.0% | +0.0% | +0.0% | 7 | PASS |" in to_markdown(report.sheet(found))
    for one in found.rows:
        assert f"- {one.name}: {one.verdict}: {one.reason}" in page
    assert f"Head {'a' * 12} against base {'b' * 12}" in page


def test_the_json_holds_every_pair_and_no_path(gate: Gate, tmp_path: Path) -> None:
    found = gate.run(lambda stage, _: plain({1: 1.1, 2: 1.0} if stage == "first" else {1: 1.1}))
    text = report.to_json(found)
    document = json.loads(text)
    assert document["verdict"] == "FAIL"
    assert [stage["name"] for stage in document["stages"]] == ["first", "again"]
    pairs = document["stages"][0]["pairs"]
    assert [one["counted"] for one in pairs] == [False] + [True] * 7
    assert pairs[1]["medians"] == {
        name: [[1.0] * TURNS, [head] * TURNS] for name, head in (("row 1", 1.1), ("row 2", 1.0), ("canary", 1.0))
    }
    assert document["rows"][0]["again"]["verdict"] == "FAIL"
    assert str(tmp_path) not in text


def test_a_bound_that_there_is_not_is_null(gate: Gate) -> None:
    rule = Rule(looks=(2,))
    document = json.loads(report.to_json(gate.run(lambda *_: plain({1: 1.0}), rule)))
    assert (document["rows"][0]["low"], document["rows"][0]["high"]) == (None, None)
    decision = document["stages"][0]["decisions"]["row 1"]
    assert (decision["low"], decision["high"]) == (None, None)
    assert document["verdict"] == "INCONCLUSIVE"


def test_no_text_controls_what_shows_the_page(gate: Gate, tmp_path: Path) -> None:
    hostile = "\x1b]0;owned\x07\x9b31m\u202e\r\ud800"
    found = replace(gate.run(lambda *_: plain({1: 1.0})), not_run={f"row{hostile}": f"reason{hostile}"})
    error = GateError(f"summary{hostile}", found=f"```{hostile}\n```\n# PASS", wanted="", hint="")
    for document, page in (
        (report.to_json(found), report.to_page(found)),
        (report.error_json(error), report.error_page(error)),
    ):
        report.write(tmp_path, document, page)
        written = (tmp_path / "gate.md").read_bytes().decode()
        assert r"\u001b]0;owned\u0007\u009b31m\u202e" in html.unescape(written)
        assert not set(written) & set(hostile) & set("\x1b\x07\x9b\u202e\r")
        assert not re.search("^# PASS", written, re.MULTILINE)


def test_a_fail_says_why(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def explain(_trees: Any, rows: Any, *_: Any, slowdowns: Any, **__: Any) -> dict[str, Explanation]:
        asked.append((set(rows), slowdowns))
        return {"row 1": Explanation("conv1: +18.2 us, 3 kernels where base has 2", ())}

    monkeypatch.setattr(session, "explain", explain)
    found = gate.run(lambda stage, _: plain({1: 1.1, 2: 1.0} if stage == "first" else {1: 1.1}))
    assert asked == [({"row 1"}, {"row 1": (1.0, 1.1)})]
    assert "row 1: why: conv1: +18.2 us, 3 kernels where base has 2" in report.reasons(found)
    assert "conv1: +18.2 us, 3 kernels where base has 2" in report.to_page(found)
    assert json.loads(report.to_json(found))["rows"][0]["why"]["line"].startswith("conv1: ")


def test_the_page_shows_what_a_suite_says_as_it_is(gate: Gate) -> None:
    found = replace(gate.run(lambda *_: plain({1: 1.0})), not_run={"a <b>case": "<img src=x>\n# PASS @all"})
    page = report.to_page(found)
    assert "&#60;img src=x>" in page
    assert "\n# PASS" not in page
    assert "@all" not in page


def test_a_fail_prints_the_trailer_that_would_accept_it(gate: Gate) -> None:
    def script(stage: str, number: int) -> Pair:
        slow = 1.1 + 0.011 * (number % 5)
        return plain({1: slow, 2: 1.0} if stage == "first" else {1: slow})

    found = gate.run(script)
    (trailer,) = report.trailers(found)
    assert trailer == "Accept-slowdown: row 1 up to 15%: REASON", "the upper bound"
    told = next(text for text in report.reasons(found) if "Accept-slowdown" in text)
    assert report.wrapped(told).splitlines()[-1].strip() == trailer
    assert f"<pre>\n{trailer}\n</pre>" in report.to_page(found)
    gate.accepted = {"row 1": acceptance._parse(trailer.partition(": ")[2], "d" * 40)}
    assert gate.run(script).verdict is Verdict.PASS


def test_a_trailer_that_replaces_another_says_where_that_one_is(gate: Gate) -> None:
    gate.accepted = {"row 1": Acceptance("row 1", 0.08, "exact sums", "d" * 40)}
    found = gate.run(lambda *_: plain({1: 1.2}))
    assert found.verdict is Verdict.FAIL
    told = next(text for text in report.reasons(found) if "Accept-slowdown: row 1 up to 30%: REASON" in text)
    assert "take the smaller bound out of the message of dddddddddddd" in told


def test_a_pass_prints_no_trailer(gate: Gate) -> None:
    found = gate.run(lambda _, number: quiet(number))
    assert report.trailers(found) == []
    assert "Accept-slowdown" not in report.to_page(found)


@pytest.mark.parametrize(("columns", "width"), [(None, 80), ("60", 60), ("5", 40)])
def test_prose_fits_the_terminal_and_commands_stay_whole(
    monkeypatch: pytest.MonkeyPatch, columns: str | None, width: int
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda usual: os.terminal_size((int(columns or usual[0]), 24)))
    command = f"nox -s gate -- {'--option=value ' * 20}--resume"
    prose = f"It ended early: {'some words ' * 30}{'x' * 100} and so on:"
    lines = report.wrapped(f"{prose}\n    {command}\n    another").splitlines()
    assert lines[-2:] == [f"    {command}", "    another"]
    assert " ".join(line.strip() for line in lines[:-2]) == " ".join(prose.split())
    assert all(len(line) <= width or line.split() == ["x" * 100] for line in lines[:-2])
