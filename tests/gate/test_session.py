"""A run of the gate on scripted pairs: what it measures again, discards and refuses, and what it comes to."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lenet.errors import GateError
from lenet.gate import report, session
from lenet.gate.acceptance import Acceptance
from lenet.gate.decision import Verdict
from lenet.gate.pairs import TURNS, Pair
from lenet.gate.session import TimeLimits
from tests.gate.fakes import MACHINE, pair, plain, row, side
from tests.gate.scripted import ANOTHER_CPU, FOREVER, NOISE, Gate, quiet

NAMES = ("first", "again")


def test_no_change_passes_after_seven_pairs_and_one_to_compile(gate: Gate) -> None:
    found = gate.run(lambda _, number: plain({1: NOISE[number % 10], 2: NOISE[number % 10]}))
    assert found.verdict is Verdict.PASS
    assert gate.stages == ["first"]
    (stage,) = found.stages
    assert (len(stage.pairs), len(stage.counted)) == (8, 7)
    assert stage.pairs[0] not in stage.counted
    assert [(one.verdict, one.pairs) for one in found.rows] == [("PASS", 7)] * 2
    assert found.rows[0].ratio == pytest.approx(1.004)
    assert found.rows[0].reason == "slower by less than 5%: at most +0.7%"


class Server:
    """Of one side, in the place of a process that forks."""

    closed = False

    def cannot(self, seconds: float) -> str | None:
        assert not self.closed
        assert 0 < seconds <= FOREVER.pair
        return None


@pytest.mark.parametrize("count", [1, 3])
def test_servers_take_turns_and_are_replaced(gate: Gate, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    made: list[Server] = gate.made

    @contextmanager
    def fork_servers(_trees: Any, _folder: Path) -> Iterator[list[dict[str, Server]]]:
        assert all(server.closed for server in made)
        own = [{side: Server() for side in ("base", "head")} for _ in range(count)]
        made.extend(server for pair in own for server in pair.values())
        yield own
        for server in made:
            server.closed = True

    monkeypatch.setattr(session, "fork_servers", fork_servers)
    gate.start = "forked"
    gate.run(lambda _, number: plain({1: 1.5 if number % 2 else 0.7}))
    assert len(gate.servers) == 31
    assert (gate.servers[0] is None) == (count > 1), "where several servers import, the first pair does so by itself"
    heads = [servers["head"] for servers in gate.servers if servers]
    pairs = [heads.count(server) for server in dict.fromkeys(heads)]
    assert max(pairs) == pairs[0] == session.PAIRS_A_SERVER
    sets, rest = divmod(len(heads), count * session.PAIRS_A_SERVER)
    assert len(pairs) == sets * count + min(rest, count)
    assert heads[1] is heads[0] if count == 1 else heads[1] is not heads[0]
    assert all(server.closed for server in made)


def test_servers_that_import_until_the_budget_is_over_end_the_gate(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second servers do. Those of the first pairs are quick."""
    late = [0.0]
    monkeypatch.setattr(session, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + late[0]))

    class Slow(Server):
        def cannot(self, _: float) -> str | None:
            late[0] = 600
            raise TimeoutError

    kinds = iter([Server, Slow])
    monkeypatch.setattr(
        session, "fork_servers", lambda *_: nullcontext([dict.fromkeys(("base", "head"), next(kinds)())])
    )
    gate.start = "forked"
    found = gate.run(lambda *_: plain({1: 1.0}), limits=TimeLimits(pair=FOREVER.pair, budget=600))
    assert (found.stopped or "").startswith("the budget of 600 s is over")
    assert (len(found.stages[0].pairs), found.notes) == (session.PAIRS_A_SERVER, ())


def test_a_slow_down_is_confirmed_by_fresh_builds_of_the_failing_rows_alone(gate: Gate) -> None:
    found = gate.run(lambda stage, _: plain({1: 1.1, 2: 1.0} if stage == "first" else {1: 1.1}))
    assert found.verdict is Verdict.FAIL
    assert found.reason == "a row became slower, or is no longer measured: row 1"
    assert gate.stages == ["first", "again"]
    slow_row, other = (f"pytorch-forward-{size}-fp32-(?!.*-uint8)" for size in (1, 2))
    assert gate.only == [None, *7 * [[slow_row, other]], *7 * [[slow_row]]]
    slow, same = found.rows
    assert (slow.verdict, same.verdict) == ("FAIL", "PASS")
    assert slow.reason == "slower by more than 1%: at least +10.0%; fresh builds confirm it"
    assert slow.again is not None
    assert slow.again.verdict is Verdict.FAIL


def test_what_fresh_builds_do_not_confirm_is_inconclusive(gate: Gate) -> None:
    found = gate.run(lambda stage, _: plain({1: 1.1 if stage == "first" else 1.0}))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.rows[0].reason == "at least +10.0%, which fresh builds did not confirm"


def test_noise_is_inconclusive_after_thirty_pairs(gate: Gate) -> None:
    found = gate.run(lambda _, number: plain({1: 1.5 if number % 2 else 0.7, 2: 1.0}))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reason == "a row could not be decided: row 1"
    assert len(found.stages[0].counted) == 30
    assert [(one.verdict, one.pairs) for one in found.rows] == [("INCONCLUSIVE", 30), ("PASS", 7)]


@pytest.mark.parametrize("change", [1.1, 1 / 1.1], ids=["slower", "faster"])
def test_a_canary_that_changes_voids_the_run(gate: Gate, change: float) -> None:
    found = gate.run(lambda *_: plain({1: 1.1}, canary=change))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reason.startswith(f"the run is void: the canary, which is the same code on both sides, {'changed by'}")
    assert gate.stages == ["first"]
    assert len(found.stages[0].pairs) == 7
    assert found.rows[0].verdict is Verdict.INCONCLUSIVE


def test_a_canary_that_changes_while_a_fail_is_confirmed_voids_that_fail(gate: Gate) -> None:
    first = plain({1: 1.1, 2: 1.0})
    found = gate.run(lambda stage, _: first if stage == "first" else plain({1: 1.1}, canary=1.1))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert [one.verdict for one in found.rows] == [Verdict.INCONCLUSIVE, Verdict.PASS]
    assert "canary" in found.rows[0].reason


def test_throttled_pairs_are_measured_again(gate: Gate) -> None:
    found = gate.run(lambda _, number: plain({1: 9.0 if number == 3 else 1.0}, throttled=0.06 * (number == 3)))
    assert found.verdict is Verdict.PASS
    (stage,) = found.stages
    assert (len(stage.pairs), len(stage.counted), stage.discarded) == (9, 7, 1)


def test_over_a_fifth_of_throttled_pairs_is_inconclusive(gate: Gate) -> None:
    found = gate.run(lambda _, number: plain({1: 1.0}, throttled=0.06 * (number % 2)))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reason.startswith("the run is void: 3 of 5 pairs were throttled")


def test_a_few_throttled_rounds_discard_no_pair(gate: Gate) -> None:
    assert gate.run(lambda *_: plain({1: 1.0}, throttled=0.05)).stages[0].discarded == 0


ONE, TWO = "pytorch-forward-1-fp32-pinned", "pytorch-forward-2-fp32-pinned"


@pytest.mark.parametrize(
    ("rows", "not_run", "failing", "reason"),
    [
        ({"row 1": row(1, 1.0)}, {}, "row 2", "removed or renamed: head has no such row"),
        ({"row 1": row(1, 1.0), "row 3": row(3, 1.0)}, {}, "row 2", "removed or renamed: head has no such row"),
        ({"row 1": row(1, 1.0)}, {TWO: "no GPU here"}, "row 2", "no GPU here"),
        ({"row 1": row(1, 1.0)}, {TWO: "failed: the logits"}, "row 2", "failed: the logits"),
        ({"row 1": row(1, 1.0)}, {f"{TWO}-0": "failed: once", f"{TWO}-1": "no GPU here"}, "row 2", "failed: once"),
        ({"row 1": row(1, 1.0), "row 2": row(2, 1.0)}, {"new": "failed: at once"}, "new", "failed: at once"),
        ({}, {ONE: "skipped", TWO: "skipped"}, "row 2", "skipped"),
    ],
    ids=["removed", "renamed", "skipped", "wrong logits", "one turn fails", "a new row that fails", "empty"],
)
@pytest.mark.parametrize("at", [0, 4], ids=["at once", "later"])
def test_what_head_does_not_measure_fails_and_is_named(
    gate: Gate, rows: dict[str, Any], not_run: dict[str, str], failing: str, reason: str, at: int
) -> None:
    def script(_stage: str, number: int) -> Pair:
        good = plain({1: 1.0, 2: 1.0})
        return good if number < at else pair(good.base, side("head", rows, not_run=not_run))

    found = gate.run(script)
    assert found.verdict is Verdict.FAIL
    by_name = {one.name: one for one in found.rows}
    assert (by_name[failing].verdict, by_name[failing].reason, by_name[failing].pairs) == ("FAIL", reason, 0)
    assert failing in found.reason
    assert len(found.stages[0].pairs) == at + 1
    assert gate.stages == ["first"]


def test_rows_of_floats_and_of_bytes_are_told_apart(gate: Gate) -> None:
    rows = {"floats": row(1, 1.0), "bytes": row(1, 1.0, input_type="uint8")}
    not_run = {f"{ONE}-float32": "failed: the logits", f"{ONE}-uint8": "no GPU here"}
    found = gate.run(lambda *_: pair(side("base", rows), side("head", {}, not_run=not_run)))
    assert {one.name: one.reason for one in found.rows} == {"floats": "failed: the logits", "bytes": "no GPU here"}


@pytest.mark.parametrize(("slow", "name"), [("floats", f"{ONE}-float32-turn0"), ("bytes", f"{ONE}-uint8-turn0")])
def test_of_floats_and_of_bytes_that_alone_is_confirmed_which_failed(gate: Gate, slow: str, name: str) -> None:
    rows = {"floats": row(1, 1.0), "bytes": row(1, 1.0, input_type="uint8")}

    def script(stage: str, _number: int) -> Pair:
        base = rows if stage == "first" else {slow: rows[slow]}
        return pair(side("base", base), side("head", base | {slow: replace(rows[slow], medians=(1.1,) * TURNS)}))

    gate.run(script)
    cases = [f"{ONE}-float32-turn0", f"{ONE}-uint8-turn0"]
    (only,) = gate.only[-1] or ()
    assert [one for one in cases if re.match(only, one)] == [name]


def test_a_row_that_fails_while_it_is_confirmed_fails(gate: Gate) -> None:
    def script(stage: str, _number: int) -> Pair:
        slow = plain({1: 1.1})
        return slow if stage == "first" else pair(slow.base, side("head", {}, not_run={ONE: "failed: the logits"}))

    found = gate.run(script)
    assert [(one.name, one.verdict, one.reason) for one in found.rows] == [("row 1", "FAIL", "failed: the logits")]


def test_what_base_does_not_measure_is_not_judged(gate: Gate) -> None:
    good = plain({1: 1.0, 2: 1.0})
    broken = side("base", {"row 1": row(1, 1.0)}, not_run={TWO: "failed: the logits"})
    found = gate.run(lambda *_: pair(broken, good.head))
    assert found.verdict is Verdict.PASS
    assert [one.name for one in found.rows] == ["row 1"]
    assert "New in head, not judged: row 2." in report.summary(found)
    assert found.not_run == {TWO: "failed: the logits"}


@pytest.mark.parametrize("at", [0, 2], ids=["at once", "later"])
def test_a_base_that_cannot_be_measured_is_an_error(gate: Gate, at: int) -> None:
    def script(_stage: str, number: int) -> Pair:
        good = plain({1: 1.0})
        return good if number < at else pair(side("base", {}, not_run={ONE: "no GPU here"}), good.head)

    with pytest.raises(GateError, match=r"base itself cannot be measured(.|\n)*no GPU here"):
        gate.run(script)


ANOTHER_TORCH = MACHINE | {"packages": {"torch": "2.15", "numpy": "2.4.6"}}


@pytest.mark.parametrize(
    ("machine", "difference"),
    [
        (ANOTHER_CPU, "cpu.model: 'a CPU', not 'another CPU'"),
        (ANOTHER_TORCH, "packages.torch: '2.14.1', not '2.15'"),
    ],
    ids=["machine", "library"],
)
@pytest.mark.parametrize("at", [("first", 0), ("first", 3), ("again", 0)], ids=["at once", "later", "at the end"])
def test_another_machine_or_library_is_refused(gate: Gate, machine: Any, difference: str, at: tuple[str, int]) -> None:
    def script(stage: str, number: int) -> Pair:
        spoilt = (NAMES.index(stage), number) >= (NAMES.index(at[0]), at[1])
        base, head = (
            side(
                which,
                {"row 1": row(1, time)},
                machine=machine if spoilt and (which == "head" or stage == "again") else MACHINE,
            )
            for which, time in (("base", 1.0), ("head", 1.1))
        )
        return pair(base, head)

    with pytest.raises(GateError) as caught:
        gate.run(script)
    assert difference in caught.value.found


def test_own_environments_may_differ_in_libraries_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gate = Gate(monkeypatch, tmp_path, own_environments=True)
    found = gate.run(lambda *_: plain({1: 1.0}, machine=ANOTHER_TORCH))
    assert found.verdict is Verdict.PASS
    assert "The dependencies differ, so each side ran in an environment of its own." in report.summary(found)
    with pytest.raises(GateError, match=r"cpu\.model"):
        gate.run(lambda *_: plain({1: 1.0}, machine=ANOTHER_CPU))
    with pytest.raises(GateError, match=r"packages\.torch"):
        gate.run(lambda _, number: plain({1: 1.0}, machine=ANOTHER_TORCH if number else MACHINE))


def test_another_source_than_the_checkout_is_refused(gate: Gate) -> None:
    with pytest.raises(GateError, match="measured another source"):
        gate.run(lambda *_: plain({1: 1.0}, commit="c" * 40))


@pytest.mark.parametrize(
    ("slow", "verdict", "row_verdict", "reason"),
    [
        (1.04, "PASS", "PASS", "slower by less than 12%: at most +4.0%"),
        (1.07, "PASS", "ACCEPTED", "at most +7.0%; up to 8% is accepted: exact sums"),
        (1.2, "FAIL", "FAIL", "slower by more than the 8% that is accepted: at least +20.0%; fresh builds confirm it"),
    ],
    ids=["within the rule", "as accepted", "beyond"],
)
def test_an_accepted_slow_down_passes_up_to_its_bound(
    gate: Gate, slow: float, verdict: str, row_verdict: str, reason: str
) -> None:
    gate.accepted = {"row 1": Acceptance("row 1", 0.08, "exact sums", "d" * 40)}
    found = gate.run(lambda stage, _: plain({1: slow, 2: 1.0} if stage == "first" else {1: slow}))
    assert found.verdict == verdict
    assert (found.rows[0].verdict, found.rows[0].reason) == (row_verdict, reason)
    accepted = json.loads(report.to_json(found))["rows"][0]["accepted"]
    assert accepted == {"bound": 0.08, "reason": "exact sums", "commit": "d" * 40}
    if row_verdict == "ACCEPTED":
        assert found.reason == "slower as accepted, and no other row: row 1"


def test_an_acceptance_of_no_row_is_refused(gate: Gate) -> None:
    gate.accepted = {"row 7": Acceptance("row 7", 0.08, "exact sums", "d" * 40)}
    with pytest.raises(GateError, match="row 7"):
        gate.run(lambda _, number: quiet(number))


def test_an_acceptance_of_a_row_that_is_not_measured_here_is_noted(gate: Gate) -> None:
    row_elsewhere = "fused forward fp32 1000"
    gate.accepted = {row_elsewhere: Acceptance(row_elsewhere, 0.08, "exact sums", "d" * 40)}
    found = gate.run(lambda _, number: quiet(number))
    assert found.verdict is Verdict.PASS
    assert found.notes == (f"{row_elsewhere}: not measured here, so that its slow-down is accepted has no effect",)
