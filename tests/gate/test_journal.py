"""The record of pairs: what it gives back, what is damaged in it, and what it refuses."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenet.errors import GateError, OutputError
from lenet.gate.journal import Journal, Plan
from lenet.gate.pairs import Pair
from tests.gate.fakes import plain

PLAN = Plan("b" * 40, "a" * 40, ("--backend=pytorch",), {"alpha": 0.05, "looks": (6, 7)}, "fresh", 5, 1)
TIMES = st.floats(1e-9, 1e3)


def kept(folder: Path, *pairs: Pair) -> Path:
    """The file of a record with these pairs."""
    journal = Journal.begin(folder, PLAN)
    for pair in pairs:
        journal.keep("first", pair)
    return folder / "pairs.jsonl"


@given(ratios=st.dictionaries(st.integers(1, 1000), TIMES, min_size=1, max_size=4), throttled=st.floats(0, 1))
def test_a_pair_comes_back_as_it_was(ratios: dict[int, float], throttled: float) -> None:
    pair = plain(ratios, throttled=throttled, not_run={"a case": "no GPU here"})
    document = json.loads(json.dumps(pair.to_json()))
    assert Pair.from_json(document).to_json() == pair.to_json()


def test_a_record_gives_its_pairs_back_by_stage(tmp_path: Path) -> None:
    kept(tmp_path, plain({1: 1.1}), plain({1: 1.2}))
    journal = Journal.go_on(tmp_path, PLAN)
    journal.keep("again", plain({1: 1.3}))
    found = Journal.go_on(tmp_path, PLAN)
    ratios = {stage: [pair.head.rows["row 1"].medians[0] for pair in pairs] for stage, pairs in found.pairs.items()}
    assert ratios == {"first": [1.1, 1.2], "again": [1.3]}
    assert (found.plan, found.dropped) == (PLAN, [])


def test_a_gate_that_goes_on_takes_the_recorded_seed(tmp_path: Path) -> None:
    kept(tmp_path)
    another = Plan(PLAN.base, PLAN.head, PLAN.suite, PLAN.rule, PLAN.start, PLAN.turns, seed=2)
    assert Journal.go_on(tmp_path, another).plan.seed == 1


@given(data=st.data())
def test_a_damaged_byte_costs_its_pair_and_changes_no_other(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("record")
    pairs = [plain({1: 1.1}), plain({1: 1.2})]
    file = kept(folder, *pairs)
    content = bytearray(file.read_bytes())
    first = content.index(b"\n") + 1
    at = data.draw(st.integers(first, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255).filter(lambda value: value != content[at]))
    file.write_bytes(content)
    found = Journal.go_on(folder, PLAN)
    whole = [pair.to_json() for pair in pairs]
    left = [pair.to_json() for pair in found.pairs.get("first", [])]
    assert [one for one in whole if one in left] == left
    assert len(left) + bool(found.dropped) >= len(whole) or not content[at:].strip(b"\n")


def test_a_line_that_a_killed_gate_did_not_finish_costs_one_pair(tmp_path: Path) -> None:
    file = kept(tmp_path, plain({1: 1.1}), plain({1: 1.2}))
    file.write_bytes(file.read_bytes()[:-100])
    found = Journal.go_on(tmp_path, PLAN)
    assert len(found.pairs["first"]) == 1
    assert found.dropped == [
        "pairs.jsonl, line 5: damaged, so that pair is left out: its digest does not fit",
    ]
    found.keep("first", plain({1: 1.3}))
    assert len(Journal.go_on(tmp_path, PLAN).pairs["first"]) == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        ("", "its first line is damaged"),
        ('{"schema": 1}', "its first line is damaged: its digest does not fit"),
        ("9015b9a23c4b9ac2 {}", "its first line is damaged"),
        ("\0" * 100, "its first line is damaged"),
    ],
    ids=["missing", "empty", "unsealed", "no plan", "zeros"],
)
def test_a_record_that_cannot_be_read_is_refused(tmp_path: Path, content: str | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "pairs.jsonl").write_text(content)
    with pytest.raises(GateError, match=r"--resume cannot go on from .*pairs\.jsonl") as caught:
        Journal.go_on(tmp_path, PLAN)
    assert reason in caught.value.found


def test_a_plan_with_other_fields_is_of_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lenet.gate import journal

    monkeypatch.setattr(journal, "asdict", lambda plan: {"speed": 1, **asdict(plan)})
    Journal.begin(tmp_path, PLAN)
    with pytest.raises(GateError, match="--resume cannot go on") as caught:
        Journal.go_on(tmp_path, PLAN)
    assert caught.value.found.startswith("another version wrote it: ")


def test_a_record_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lenet.gate import journal

    kept(tmp_path)
    monkeypatch.setattr(journal, "SCHEMA", 2)
    with pytest.raises(GateError, match="--resume cannot go on") as caught:
        Journal.go_on(tmp_path, PLAN)
    assert caught.value.found == "schema 1, and this version writes 2"


@pytest.mark.parametrize("field", ["base", "head", "suite", "rule", "start", "turns"])
def test_what_differs_from_the_record_is_named(tmp_path: Path, field: str) -> None:
    kept(tmp_path)
    values: dict[str, Any] = {"suite": ("--backend=fused",), "rule": {"alpha": 0.01}, "turns": 3}
    fields = {name: getattr(PLAN, name) for name in PLAN.__slots__}
    another = Plan(**fields | {field: values.get(field, "another")})
    with pytest.raises(GateError, match="another gate's pairs") as caught:
        Journal.go_on(tmp_path, another)
    assert caught.value.found.startswith(f"{field}: {getattr(another, field)!r} now, ")


def test_a_full_disk_is_an_error_that_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.begin(tmp_path, PLAN)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="the last pair cannot be kept") as caught:
        journal.keep("first", plain({1: 1.0}))
    assert "free some space" in caught.value.hint
    assert "--resume" in caught.value.hint
