"""An artefact may be anything: it is read as data, or refused in words."""

import io
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenet.errors import GateError
from lenet.gate.comment import artefact
from lenet.gate.comment.artefact import LARGEST_FILE, parse, unpack
from tests.gate.comment.outcomes import MERGE, document, encoded, row


def archive(*members: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression) as opened:
        for name, content in members:
            opened.writestr(name, content, compression)
    return written.getvalue()


def test_a_gate_of_schema_2_is_read() -> None:
    why = {"line": "conv1: +18.2 us", "differences": []}
    accepted = {"bound": 0.08, "reason": "exact sums", "commit": MERGE}
    rows = [row("a", "FAIL", 1.08, why=why), row("b", "ACCEPTED", 1.06, accepted=accepted), row("c", "FAIL", None)]
    gate = parse(encoded(document("FAIL", rows, stopped="the budget is used", suite=["--backend=fused"])))
    assert [one.verdict for one in gate.rows] == ["FAIL", "ACCEPTED", "FAIL"]
    assert (gate.rows[0].ratio, gate.rows[0].why) == (1.08, "conv1: +18.2 us")
    assert (gate.rows[1].bound, gate.rows[1].accepted) == (0.08, "exact sums")
    assert gate.rows[2].ratio is None
    assert (gate.verdict, gate.machine, gate.head, gate.not_run) == ("FAIL", "NVIDIA H200", MERGE, 1)
    assert (gate.stopped, gate.suite) == ("the budget is used", ("--backend=fused",))


def test_a_gate_of_schema_1_is_read() -> None:
    found = document(schema=1)
    del found["started"], found["stopped"], found["rows"][0]["why"], found["rows"][0]["accepted"]
    found["machine"]["gpu"] = None
    gate = parse(encoded(found))
    assert (gate.verdict, gate.machine, len(gate.rows)) == ("PASS", "CPU", 1)


@pytest.mark.parametrize("schema", [1, 2])
def test_an_error_is_read(schema: int) -> None:
    found = {"schema": schema, "verdict": "ERROR", "reason": "r", "found": "f", "wanted": "w", "next": "n"}
    assert parse(encoded(found)).error == ("f", "w", "n")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"schema": 99}, "its schema"),
        ({"schema": True}, "its schema"),
        ({"schema": "2"}, "its schema"),
        ({"verdict": "MERGE"}, "verdict"),
        ({"verdict": ["PASS"]}, "verdict"),
        ({"reason": None}, "reason"),
        ({"reason": "x" * 4001}, "reason"),
        ({"rows": {}}, "rows"),
        ({"rows": [7]}, "rows[0]"),
        ({"rows": [row("a")] * 5001}, "rows"),
        ({"rows": []}, "its rows"),
        ({"rows": [], "verdict": "INCONCLUSIVE"}, "its rows"),
        ({"rows": [row("a", "FAIL")]}, "its verdict"),
        ({"rows": [row("a", "ACCEPTED")]}, "rows[0].accepted"),
        ({"rows": [row("a", accepted={"bound": 11, "reason": ""})]}, "rows[0].accepted.bound"),
        ({"rows": [row("a", accepted={"bound": None, "reason": ""})]}, "rows[0].accepted.bound"),
        ({"rows": [row("a", head=-1)]}, "rows[0].head"),
        ({"rows": [row("a", low="1")]}, "rows[0].low"),
        ({"rows": [row("a", high=True)]}, "rows[0].high"),
        ({"rows": [row("a", pairs=10**400)]}, "rows[0].pairs"),
        ({"rows": [row("a", pairs=-1)]}, "rows[0].pairs"),
        ({"rows": [row("a", why="conv1")]}, "rows[0].why"),
        ({"rows": [row("a", why={"line": 1})]}, "rows[0].why.line"),
        ({"rows": [row("a") | {"name": None}]}, "rows[0].name"),
        ({"not_run": []}, "not_run"),
        ({"machine": None}, "machine"),
        ({"machine": {"gpu": {"name": 1}}}, "machine.gpu.name"),
        ({"seconds": 1e300}, "seconds"),
        ({"commits": {"head": "HEAD"}}, "commits.head"),
        ({"commits": {"head": "--upload-pack=touch made".ljust(40, "a")}}, "commits.head"),
        ({"commits": {"head": "9" * 39 + "\n"}}, "commits.head"),
        ({"suite": "--backend=fused"}, "suite"),
        ({"suite": [1]}, "suite"),
        ({"suite": ["-x"] * 201}, "suite"),
        ({"stopped": 1}, "stopped"),
    ],
)
def test_a_field_that_is_not_as_it_should_be_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(GateError) as caught:
        parse(encoded(document(**change)))
    assert caught.value.summary == f"the run's artefact cannot be used: {named}"
    assert len(caught.value.found) < 200


@pytest.mark.parametrize("key", [key for key in document() if key not in {"stopped", "seconds"}])
def test_only_what_is_read_is_wanted(key: str) -> None:
    found = document()
    del found[key]
    if key in {"started", "rule", "seed", "fingerprint", "stages"}:
        assert parse(encoded(found)).verdict == "PASS"
    else:
        with pytest.raises(GateError):
            parse(encoded(found))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"schema": NaN}',
        b'{"schema": 1e999}',
        b'{"schema": ' + b"9" * 5000 + b"}",
        b'{"schema": 2, "verdict": "\\ud800"}',
        b"[2]",
        b"null",
    ],
)
def test_what_is_no_document_is_refused(content: bytes) -> None:
    with pytest.raises(GateError, match="the run's artefact cannot be used"):
        parse(content)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(key=st.sampled_from([*document()]), value=_JSON, in_row=st.sampled_from([None, *row("a")]))
def test_any_value_in_any_place_is_read_or_refused(key: str, value: Any, in_row: str | None) -> None:
    found = document(**({key: value} if in_row is None else {"rows": [row("a") | {in_row: value}]}))
    with suppress(GateError):
        assert parse(encoded(found)).verdict in {"PASS", "FAIL", "INCONCLUSIVE", "ERROR"}


def test_the_one_file_is_taken_out_of_an_archive_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    link = zipfile.ZipInfo("gate.json.link")
    link.external_attr = 0o120777 << 16
    others: list[tuple[str | zipfile.ZipInfo, bytes]] = [("../gate.json", b"1"), ("/etc/gate.json", b"2"), (link, b"/")]
    assert unpack(archive(*others, ("gate.json", b"{}"), ("x/gate.json", b"3"))) == b"{}"
    assert not list(tmp_path.iterdir())


def test_a_link_of_the_right_name_is_read_as_its_own_text() -> None:
    """A link in an archive holds its target's path. It is not followed."""
    link = zipfile.ZipInfo("gate.json")
    link.external_attr = 0o120777 << 16
    with pytest.raises(GateError, match=r"cannot be used: gate\.json"):
        parse(unpack(archive((link, b"/etc/passwd"))))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "BadZipFile"),
        (b"PK\x03\x04 and no more", "BadZipFile"),
        (archive(("gate.md", b"")), "0 files"),
        (archive(("gate.json", b"{}"), ("gate.jsom", b"{}")).replace(b"gate.jsom", b"gate.json"), "2 files"),
        (archive(("gate.json", b"{}"), compression=zipfile.ZIP_LZMA), "compression 14"),
        (archive(("gate.json", b" " * (LARGEST_FILE + 1))), "more than 8,388,608 bytes"),
        (archive(("gate.json", b"x" * 500), compression=zipfile.ZIP_STORED).replace(b"xxx", b"yyy"), "BadZipFile"),
    ],
    ids=["empty", "cut", "other name", "twice", "lzma", "bomb", "damaged"],
)
def test_an_archive_that_is_not_as_it_should_be_is_refused(content: bytes, found: str) -> None:
    with pytest.raises(GateError) as caught:
        unpack(content)
    assert caught.value.found.startswith(found)


def test_a_bomb_is_not_unpacked() -> None:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as opened, opened.open("gate.json", "w") as file:
        for _ in range(100):
            file.write(b" " * 2**20)
    tracemalloc.start()
    with pytest.raises(GateError, match=r"gate\.json"):
        unpack(written.getvalue())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * LARGEST_FILE


def test_an_archive_that_is_too_large_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    content = archive(("gate.json", b"{}"))
    monkeypatch.setattr(artefact, "LARGEST_ARCHIVE", len(content))
    assert unpack(content) == b"{}"
    with pytest.raises(GateError, match="cannot be used: the artefact"):
        unpack(content + b"\0")


@given(cut=st.integers(0, 120), byte=st.integers(0, 255), place=st.integers(0, 119))
def test_a_damaged_archive_is_refused_or_read(cut: int, byte: int, place: int) -> None:
    content = bytearray(archive(("gate.json", b"{}")))
    content[place % len(content)] = byte
    with suppress(GateError):
        unpack(bytes(content[: len(content) - cut % 20]))
