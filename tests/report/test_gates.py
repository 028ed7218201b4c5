"""The gate's verdicts on the page: the last one first, those before it, and each row's history."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lenet import results
from lenet.cli import main
from lenet.errors import ResultsError
from lenet.measurement.identity import ThisMachine
from lenet.report.charts.style import MARKERS, VERDICTS
from tests.report import documents
from tests.report.test_page import HOSTILE, Text, check_that_it_is_named

NBSP = "\N{NO-BREAK SPACE}"


def report(folder: Path, *arguments: str | Path) -> tuple[Result, str, str]:
    """What the command says, the page and its text."""
    out = folder / "report.html"
    done = CliRunner().invoke(main, ["report", "--storage", str(folder), "--out", str(out), *map(str, arguments)])
    page = out.read_text() if out.exists() else ""
    return done, page, Text(page).text


def keep(folder: Path, number: int, *rows: dict[str, Any], **changed: Any) -> Path:
    """A gate as the storage directory keeps it."""
    kept = folder / "local" / "gates"
    kept.mkdir(parents=True, exist_ok=True)
    return documents.gate(kept / f"202611{number + 1:02}_070000_{number:012x}.json", *rows, number=number, **changed)


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A storage directory with a run of this machine."""
    monkeypatch.setattr(ThisMachine, "made", lambda *_: True)
    (tmp_path / "local" / "a-gpu").mkdir(parents=True)
    documents.measurement(tmp_path / "local" / "a-gpu" / "0001_run.json")
    return tmp_path


def test_the_last_verdict_comes_first_with_its_slow_rows(storage: Path) -> None:
    accepted = documents.gate_row(
        name="fused forward fp32 1", verdict="ACCEPTED", reason="up to 8%: the copy is checked now",
        ratio=1.05, low=1.04, high=1.062, why=None,
        accepted={"bound": 0.08, "reason": "the copy is checked now", "commit": "d" * 40},
    )  # fmt: skip
    same = documents.gate_row(name="onnxruntime forward fp32 1", verdict="PASS", reason="no slower", ratio=0.9999)
    keep(storage, 3, same, accepted, documents.gate_row(), stopped="the budget of 10 minutes was spent")
    keep(storage, 1, verdict="PASS", reason="older")
    done, page, text = report(storage)
    assert done.exit_code == 0, done.output
    assert page.index('id="gate"') < page.index('id="machine-1"')
    assert 'href="#gate"' in page
    first = Text(page[page.index('id="gate"') : page.index('id="gate-rows"')]).text
    assert "✘ FAIL 1 row is slower It ended early. the budget of 10 minutes was spent" in first
    slow = f"✘ FAIL pytorch forward fp32 1 +10.0{NBSP}% [+8.0{NBSP}%; +∞] conv1: +18.0 us"
    allowed = f"◆ ACCEPTED fused forward fp32 1 +5.0{NBSP}% [+4.0{NBSP}%; +6.2{NBSP}%] accepted up to 8.0{NBSP}%"
    assert first.index(slow) < first.index(allowed), "what fails comes before what is accepted"
    assert f"accepted up to 8.0{NBSP}% by dddddddddddd: the copy is checked now" in first
    assert first.count("the copy is checked now") == 1
    assert "2026-11-04 07:00" in first
    assert "bbbbbbbbbbbb → 333333333333" in first
    assert "A GPU" in first
    assert "onnxruntime" not in first
    assert "All rows: 1 PASS, 1 ACCEPTED, 1 FAIL" in text
    assert f"0.0{NBSP}%" in text
    assert f"-0.0{NBSP}%" not in text
    assert (
        "What differs in pytorch forward fp32 1 part base, us head, us remark conv1 10.0 28.0 3 calls, 2 in base"
        in text
    )
    assert "copy - 1.00 -" in text
    assert re.search(r"Earlier gates .* 2026-11-02 07:00 b{12} → 1{12} A GPU .*older", text)


def test_without_a_gate_there_is_no_section_and_no_heading(storage: Path) -> None:
    _, page, text = report(storage)
    assert 'id="gate' not in page
    assert "#gate" not in page
    assert "gate" not in text.replace("lenet evaluate", "")


def test_the_sheets_alone_have_no_gate(storage: Path) -> None:
    keep(storage, 1)
    assert 'id="gate' not in report(storage, "--sheets")[1]


def test_a_row_s_history_has_a_mark_for_each_verdict_and_a_table(storage: Path) -> None:
    for number, verdict in enumerate(VERDICTS):
        name = "pytorch forward fp32 1"
        keep(storage, number, documents.gate_row(name=name, verdict=verdict, ratio=1.1 if number else None))
    _, page, _ = report(storage)
    history = page[page.index('id="gate-histories"') : page.index('id="machine-1"')]
    (chart,) = re.findall("<svg.*?</svg>", history, flags=re.DOTALL)
    shapes = [sum(f'd="{MARKERS[sign]}"' in one for one in chart.split("<path")) for _, sign, _ in VERDICTS.values()]
    assert shapes == [0, 1, 1, 1], "the first gate could not tell the change"
    assert len({sign for _, sign, _ in VERDICTS.values()}) == len(VERDICTS), "not told by the colour alone"
    assert f"11-04 3333333: +10.0{NBSP}% [+8.0{NBSP}%; +∞] INCONCLUSIVE." in chart
    table = Text(history[history.index("<table") :]).text
    for verdict, (sign, _, _) in VERDICTS.items():
        assert f"{sign} {verdict}" in table


def test_a_row_without_any_change_has_a_table_and_no_chart(storage: Path) -> None:
    for number in range(2):
        keep(storage, number, documents.gate_row(verdict="INCONCLUSIVE", ratio=None, low=None, high=None))
    done, page, text = report(storage)
    assert done.exit_code == 0, done.output
    history = page[page.index('id="gate-histories"') : page.index('id="machine-1"')]
    assert "<svg" not in history
    assert "pytorch forward fp32 1 in the last gates" in text


def test_a_gate_of_another_machine_is_labelled_and_shares_no_history(storage: Path) -> None:
    keep(storage, 0, fingerprint="f2", machine={"gpu": {"name": "B GPU"}})
    keep(storage, 1)
    _, page, text = report(storage)
    assert "B GPU (another machine or other libraries)" in text
    assert "It ran on another machine" not in text
    assert 'id="gate-histories"' not in page
    keep(storage, 2, fingerprint="f2", machine={"gpu": {"name": "B GPU"}})
    _, page, text = report(storage)
    assert "It ran on another machine, or with other libraries" in text
    history = page[page.index('id="gate-histories"') : page.index('id="machine-1"')]
    assert history.count("<svg") == 1
    assert "pytorch forward fp32 1, B GPU (another machine or other libraries): FAIL" in history
    assert "2222222" in history
    assert "1111111" not in history


def test_the_last_thirty_are_read(storage: Path) -> None:
    for number in range(32):
        keep(storage, number, started=f"2026-10-{number % 28 + 1:02}T07:{number:02}:00Z")
    (storage / "local" / "gates" / "notes.json").write_text("not a gate")
    done, page, _ = report(storage)
    assert done.exit_code == 0, done.output
    earlier = page[page.index('id="gate-earlier"') : page.index('id="gate-histories"')]
    assert earlier.count("<tr>") == 1 + 29


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("{", "Expecting"),
        ('{"schema": 1, "verdict": "PASS"}', "schema is 1, not 2"),
        ('{"schema": 2, "verdict": "PASS"}', "reason is missing"),
        (b"\xff", "invalid start byte"),
    ],
)
def test_a_damaged_gate_is_named_and_left_out(storage: Path, content: str | bytes, found: str) -> None:
    keep(storage, 1)
    damaged = keep(storage, 2)
    damaged.write_bytes(content if isinstance(content, bytes) else content.encode())
    done, page, text = report(storage)
    check_that_it_is_named(done, page, damaged, found)
    assert f"{damaged} cannot be read" in text
    assert "bbbbbbbbbbbb → 111111111111" in page


@pytest.mark.parametrize(
    ("part", "value", "found"),
    [
        ("started", "0001-01-01T00:00:00+14:00", "date value out of range"),
        ("started", "yesterday", "started is 'yesterday', not a date by ISO 8601"),
        ("rows", [documents.gate_row(verdict="ERROR")], "rows[0].verdict is 'ERROR', not PASS or FAIL"),
        ("rows", [documents.gate_row(ratio=0)], "rows[0].ratio is 0, not a positive rate"),
        ("rows", [documents.gate_row(accepted={"bound": -1, "reason": "", "commit": ""})], "rows[0].accepted.bound"),
        ("rows", [documents.gate_row(why={"line": "x"})], "rows[0].why.differences is missing"),
        ("machine", {"gpu": "A GPU"}, "machine.gpu is 'A GPU', not an object"),
        ("not_run", {"x": None}, "not_run.x is None, not a text"),
        ("stopped", 7, "stopped is 7, not a text"),
    ],
)
def test_a_field_that_is_wrong_is_named(tmp_path: Path, part: str, value: Any, found: str) -> None:
    path = documents.gate(tmp_path / "gate.json", **{part: value})
    with pytest.raises(ResultsError, match=re.escape(found)):
        results.load_gate(path)


def test_what_a_gate_may_lack(tmp_path: Path) -> None:
    path = documents.gate(tmp_path / "gate.json", started="2026-11-01T09:30:00+02:30")
    document = json.loads(path.read_text())
    del document["stopped"], document["rows"][0]["why"], document["rows"][0]["accepted"]
    path.write_text(json.dumps(document))
    found = results.load_gate(path)
    assert (found.stopped, found.rows[0].why, found.rows[0].accepted) == (None, None, None)
    assert f"{found.started:%H:%M}" == "07:00"


def test_named_gates_take_the_place_of_the_kept_ones(storage: Path) -> None:
    keep(storage, 1)
    named = documents.gate(storage / "gate.json", number=5)
    kept, own = "bbbbbbbbbbbb → 111111111111", "bbbbbbbbbbbb → 555555555555"
    _, page, _ = report(storage, "--gate", named)
    assert own in page
    assert kept not in page
    run = storage / "local" / "a-gpu" / "0001_run.json"
    assert 'id="gate"' not in report(storage, run)[1], "the files may be of another machine"
    _, page, _ = report(storage, run, "--gate", named)
    assert own in page


def test_gates_alone_make_a_page(tmp_path: Path) -> None:
    keep(tmp_path, 1)
    done, _, text = report(tmp_path)
    assert done.exit_code == 0, done.output
    assert "✘ FAIL 1 row is slower" in text
    assert "another machine" not in text


def test_the_folder_of_gates_is_no_kind_of_machine(storage: Path) -> None:
    keep(storage, 1)
    done = CliRunner().invoke(main, ["results", "--storage", str(storage)])
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    assert results.stored_files(storage / "local") == [storage / "local" / "a-gpu" / "0001_run.json"]


@pytest.mark.parametrize("language", ["en", "ru"])
def test_text_of_a_gate_stays_text(storage: Path, language: str) -> None:
    why = {"line": HOSTILE, "differences": [{"what": HOSTILE, "base": None, "head": 1e29, "note": HOSTILE}]}
    accepted = {"bound": 1e29, "reason": HOSTILE, "commit": HOSTILE}
    extremes: dict[str, Any] = {"ratio": 1e29, "low": 1e-15, "high": None, "base": 1e-15, "head": 1e29}
    row = documents.gate_row(name=HOSTILE, reason=HOSTILE, why=why, accepted=accepted, pairs=10**20, **extremes)
    for number in range(2):
        keep(
            storage, number, row, reason=HOSTILE, stopped=HOSTILE, not_run={HOSTILE: HOSTILE}, fingerprint=HOSTILE,
            commits={"base": HOSTILE, "head": HOSTILE}, machine={"gpu": {"name": HOSTILE}},
        )  # fmt: skip
    done, page, text = report(storage, "--lang", language)
    assert done.exit_code == 0, done.output
    read = Text(page)
    assert not [tag for tag, _ in read.tags if tag == "script"]
    assert not [name for _, attributes in read.tags for name in attributes if name.startswith("on")]
    assert text.count(HOSTILE) > 10
    assert "{{ 7*7 }}" in text
