"""Whatever a file holds, nothing that controls a terminal or the direction of text is printed or put on a page."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import RenderableType
from rich.control import Control
from rich.table import Table

from lenet.cli import main
from lenet.terminal import Terminal, discard, forgive_output, visible
from tests.report import documents

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe\r\x00\x7f\x85\u2028\u2066\u200f\ufffe\ufeff"
TEXTS = st.one_of(st.just(HOSTILE), st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map("x".__add__))
Place = tuple[str | int, ...]


def hidden(text: str) -> set[str]:
    """What controls who shows a text, but for line breaks."""
    return {one for one in text if one != "\n" and unicodedata.category(one) in {"Cc", "Cf", "Cs", "Zl", "Zp"}}


def places_of_texts(node: Any, place: Place = ()) -> Iterator[Place]:
    if isinstance(node, str):
        yield place
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        yield from places_of_texts(value, (*place, name))


def replaced(document: Any, place: Place, text: str) -> str:
    found = json.loads(json.dumps(document))
    node = found
    for name in place[:-1]:
        node = node[name]
    node[place[-1]] = text
    return json.dumps(found)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A file of measurements with a text wherever one may be."""
    document = json.loads(documents.measurement(tmp_path_factory.mktemp("whole") / "1.json").read_text())
    document["benchmarks"] = document["benchmarks"][:2]
    document["benchmarks"][0]["extra_info"]["unstable"] = ["noise"]
    document["lenet"] |= {"not_run": [{"name": "a", "reason": "b"}], "regressed": ["a"]}
    document["machine_info"]["system"] = {"distribution": "Linux", "kernel": "6"}
    document["machine_info"]["gpu"] |= {"driver": "1", "compute_capability": "8.9"}
    return document


@given(st.text(st.characters()))
def test_what_is_visible_is_plain_can_be_encoded_and_is_held_by_xml_and_json(text: str) -> None:
    shown = visible(text)
    assert not hidden(shown)
    assert visible(shown) == shown
    assert ET.fromstring(f"<a>{escape(shown)}</a>").text == (shown or None)  # noqa: S314 - made here
    assert json.loads(visible(json.dumps(text))) == text


@pytest.mark.parametrize("text", ["", "a b\nc", "Привет, 世界, é, €, ×, 😀", "1\N{NO-BREAK SPACE}303"])
def test_an_ordinary_text_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


@given(data=st.data())
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_no_text_of_a_file_of_measurements_controls_what_shows_it(
    whole: Any, tmp_path: Path, data: st.DataObject
) -> None:
    place = data.draw(st.sampled_from(list(places_of_texts(whole))), "place")
    file = tmp_path / "1.json"
    file.write_text(replaced(whole, place, data.draw(TEXTS, "text")))
    for form in ((), ("--csv",), ("--markdown",)):
        done = CliRunner().invoke(main, ["results", str(file), *form])
        assert done.exit_code in {0, 2}, done.output
        assert not hidden(done.stdout_bytes.decode() + done.stderr_bytes.decode())


@pytest.mark.parametrize("kind", ["results", "--parity", "--gate", "--run"])
def test_no_text_of_a_report_s_file_controls_what_shows_it(kind: str, whole: Any, tmp_path: Path) -> None:
    """Each text of each kind of file is hostile at once where the file is then still one, else one after the other."""
    make = {"--parity": documents.parity, "--gate": documents.gate, "--run": documents.run_directory}.get(kind)
    path = make(tmp_path / "file") if make else tmp_path / "file"
    file = path / "run.json" if kind == "--run" else path
    document = json.loads(file.read_text()) if make else whole
    kept = {"schema", "kind", "mode", "precision", "term", "datetime", "started", "input", "host_memory", "verdict"}
    for place in places_of_texts(document):
        if not kept & set(place):
            document = json.loads(replaced(document, place, HOSTILE))
    file.write_text(json.dumps(document))
    good = documents.measurement(tmp_path / "good.json", rounds=3)
    arguments = ([kind] if make else []) + [str(path)]
    done = CliRunner().invoke(main, ["report", str(good), *arguments, "--out", str(tmp_path / "report.html")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "report.html").read_bytes().decode()
    assert not hidden(page + done.output)
    assert r"\u001b]0;owned\u0007" in page


@pytest.mark.parametrize("command", [("results",), ("promote",), ("report",), ("evaluate", "--weights"), ("--x",)])
def test_no_name_of_a_file_or_option_controls_what_tells_of_it(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = HOSTILE.replace("\0", "")
    arguments = [f"{command[0]}{name}"] if command[0].startswith("-") else [*command, str(tmp_path / name)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code in {1, 2}
    assert not hidden(done.stdout_bytes.decode() + done.stderr_bytes.decode())
    assert "x1b]0;owned" in done.stderr or "u001b]0;owned" in done.stderr


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_no_text_of_a_file_is_a_formula_in_a_spreadsheet(text: str, whole: Any, tmp_path: Path) -> None:
    document = json.loads(json.dumps(whole))
    document["benchmarks"][0]["extra_info"]["case"]["images"] = text
    (tmp_path / "1.json").write_text(json.dumps(document))
    done = CliRunner().invoke(main, ["results", "--csv", str(tmp_path / "1.json")])
    assert f",'{text}," in done.stdout
    assert f",{text}," not in done.stdout


def printed(content: RenderableType, **options: Any) -> str:
    file = io.StringIO()
    Terminal(file=file, width=80, **options).print(content)
    return file.getvalue()


def test_a_console_prints_a_text_as_it_is_and_keeps_its_own_codes() -> None:
    assert printed(":smile:") == ":smile:\n"
    assert printed(Control.home(), force_terminal=True) == "\x1b[H"


def test_a_table_is_as_wide_as_its_texts_are_shown() -> None:
    table = Table("a")
    table.add_row("\x1b" * 5)
    lines = printed(table).splitlines()
    assert len({*map(len, lines)}) == 1
    assert "\\u001b" * 5 in lines[3]


def test_a_reader_that_has_gone_is_an_error_and_no_verdict() -> None:
    class Broken(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        Terminal(file=Broken()).print("x")
    discard(None)  # as is `sys.stdout` where it was closed at the start


def test_output_that_is_captured_stays_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stdout", file)
    assert not forgive_output()()
    assert sys.stdout is file


@pytest.mark.programs
@pytest.mark.parametrize("fault", ["full", "broken pipe"])
def test_progress_that_nobody_can_read_ends_no_work(fault: str) -> None:
    """rich itself would exit with 1, which is a verdict."""
    program = (
        "from lenet.terminal import secure_streams\nsecure_streams()\n"
        "import warnings\nfrom lenet.gate.display import GateDisplay\n"
        "with GateDisplay() as display:\n    display.note('x' * 100_000)\nwarnings.warn('a library says')"
    )
    if fault == "full":
        if not Path("/dev/full").exists():
            pytest.skip("there is no /dev/full here")
        stream = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, stream = os.pipe()
        os.close(reading)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONUNBUFFERED": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, stderr=stream, check=False)
    os.close(stream)
    assert done.returncode == 0
