"""A run of the gate on scripted pairs: what it measures again, discards and refuses, and what it comes to."""

from __future__ import annotations

import errno
import html
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from lenet.errors import GateError, OutputError
from lenet.gate import acceptance, report, session
from lenet.gate.acceptance import Acceptance
from lenet.gate.checkouts import Commits
from lenet.gate.decision import Rule, Verdict
from lenet.gate.journal import Journal, Plan
from lenet.gate.outcome import Outcome
from lenet.gate.pairs import TURNS, Pair
from lenet.gate.processes import WorkerError
from lenet.gate.session import TimeLimits
from lenet.gate.trees import Tree
from lenet.gate.why import Explanation
from lenet.report.tables import to_markdown
from lenet.results import Case
from tests.gate.fakes import COMMITS, MACHINE, pair, plain, row, side

NAMES = ("first", "again")
NOISE = [1 + 0.001 * number for number in range(10)]
Script = Callable[[str, int], Pair]
FOREVER = TimeLimits(pair=1)


class Gate:
    """Runs the gate on a script, a function of the stage and the number of the pair, and notes what it asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, own_environments: bool) -> None:
        self.commits = Commits(tmp_path, COMMITS["base"], COMMITS["head"], "main", own_environments)
        self.out = tmp_path
        self.accepted: dict[str, Acceptance] = {}
        self.script: Script = lambda _stage, _number: plain({1: 1.0})
        self.stages: list[str] = []
        self.only: list[Sequence[str] | None] = []
        self.start = "fresh"
        self.servers: list[Any] = []
        self.made: list[Any] = []
        monkeypatch.setattr(session, "checked_out", self._checked_out)
        monkeypatch.setattr(session, "measure_pair", self._measure_pair)
        monkeypatch.setattr(session, "explain", lambda *_, **__: {})

    @contextmanager
    def _checked_out(self, commits: Commits, stage: Path, _deadline: float) -> Iterator[tuple[Tree, Tree]]:
        self.stages.append(stage.name)
        pythons = ("python", "another python" if commits.own_environments else "python")
        base, head = (
            Tree(which, stage / which, COMMITS[which], python, stage)
            for which, python in zip(("base", "head"), pythons, strict=True)
        )
        yield base, head
        for server in self.made:
            assert server.closed, "a checkout is removed while a server may write into it"

    def _measure_pair(self, _trees: Any, _suite: Any, folder: Path, *_: Any, only: Any, **more: Any) -> Pair:
        self.only.append(only)
        self.servers.append(more["servers"])
        found = self.script(self.stages[-1], int(folder.name))
        wanted = {
            which: {name: row for name, row in side.rows.items() if only is None or is_wanted(row.case, only)}
            for which, side in (("base", found.base), ("head", found.head))
        }
        sides = [replace(side, rows=wanted[which]) for which, side in (("base", found.base), ("head", found.head))]
        return replace(found, base=sides[0], head=sides[1], compiles=more["compiles"])

    def plan(self, rule: Rule) -> Plan:
        """What the gate measures."""
        return Plan(self.commits.base, self.commits.head, ("--x",), asdict(rule), self.start, TURNS, 1)

    def run(
        self, script: Script, rule: Rule | None = None, *, resume: bool = False, limits: TimeLimits = FOREVER
    ) -> Outcome:
        self.script = script
        rule = rule or Rule()
        journal = (Journal.go_on if resume else Journal.begin)(self.out, self.plan(rule))
        return session.run(self.commits, rule, journal, accepted=self.accepted, limits=limits, tell=lambda *_: None)


def is_wanted(case: Case, only: Sequence[str]) -> bool:
    """Whether the patterns choose the case's name in the suite."""
    name = f"{case.backend}-{case.mode}-{case.batch_size}-{case.asked}-pinned-{case.input}-turn0"
    return any(re.match(pattern, name) for pattern in only)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gate:
    return Gate(monkeypatch, tmp_path, own_environments=False)


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
    assert len(pairs) == -(-len(heads) // session.PAIRS_A_SERVER)
    assert heads[1] is heads[0] if count == 1 else heads[1] is not heads[0]
    assert all(server.closed for server in made)


def test_servers_that_import_until_the_budget_is_over_end_the_gate(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second servers do. Those of the first two pairs are quick."""
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


ANOTHER_CPU = MACHINE | {"cpu": {"model": "another CPU", "usable": 2}}
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
    assert [stage["name"] for stage in document["stages"]] == list(NAMES)
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


def quiet(number: int) -> Pair:
    """A pair of two rows whose times did not change."""
    return plain({1: NOISE[number % 10], 2: NOISE[number % 10]})


def failing_at(number: int, error: BaseException) -> Script:
    """A script of quiet pairs whose measuring fails at one of them."""

    def script(_stage: str, at: int) -> Pair:
        if at == number:
            raise error
        return quiet(at)

    return script


LOST = WorkerError("the process of head did not measure", found="killed by SIGKILL", wanted="a run", hint="why")
FULL = OutputError("the last pair cannot be kept", found="no space left", wanted="room", hint="free some space")


def test_rows_that_are_decided_are_not_measured_again(gate: Gate) -> None:
    found = gate.run(lambda _, number: plain({1: 1.0, 2: 1.5 if number % 2 else 0.7}))
    assert [(one.verdict, one.pairs) for one in found.rows] == [("PASS", 7), ("INCONCLUSIVE", 30)]
    both, noisy = (["pytorch-forward-1-fp32-(?!.*-uint8)"], ["pytorch-forward-2-fp32-(?!.*-uint8)"])
    assert gate.only == [None, *7 * [both + noisy], *23 * [noisy]]


@pytest.mark.parametrize(
    ("error", "stopped"),
    [
        (KeyboardInterrupt(), "a signal ended the gate"),
        (LOST, "the process of head did not measure: killed by SIGKILL; why"),
        (FULL, "the last pair cannot be kept: no space left; free some space"),
        (OSError(5, "Input/output error"), "[Errno 5] Input/output error"),
    ],
    ids=["signal", "lost process", "full disk", "broken disk"],
)
def test_a_gate_that_ends_early_says_what_it_knows_and_goes_on(gate: Gate, error: BaseException, stopped: str) -> None:
    found = gate.run(failing_at(6, error))
    assert (found.verdict, found.stopped) == (Verdict.INCONCLUSIVE, stopped)
    assert [(one.verdict, one.pairs) for one in found.rows] == [("INCONCLUSIVE", 5)] * 2
    assert found.rows[0].ratio == pytest.approx(1.003)
    assert found.rows[0].reason == "the gate ended before pair 6, the first that can decide a row"
    told = f"It ended early: {stopped}. To go on:\n    nox -s gate -- --base main --x --resume"
    assert told in report.reasons(found)
    assert json.loads(report.to_json(found))["stopped"] == stopped

    gate.only.clear()
    again = gate.run(lambda _, number: quiet(number), resume=True)
    assert (again.verdict, again.stopped) == (Verdict.PASS, None)
    assert len(gate.only) == 3, "one to compile, and two that were missing"
    (stage,) = again.stages
    assert (len(stage.pairs), len(stage.counted)) == (9, 7)
    assert [one.ratio("row 1") for one in stage.counted[:5]] == [one.ratio("row 1") for one in found.stages[0].counted]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), LOST, FULL], ids=["signal", "lost process", "full disk"])
def test_a_gate_that_knows_nothing_yet_has_no_verdict(gate: Gate, error: BaseException) -> None:
    with pytest.raises(type(error)):
        gate.run(failing_at(0, error))


def test_a_pair_is_kept_before_the_next_begins(gate: Gate) -> None:
    def script(_stage: str, number: int) -> Pair:
        plan = Journal.go_on(gate.out, gate.plan(Rule()))
        assert len(plan.pairs.get("first", [])) == number
        return quiet(number)

    assert gate.run(script).verdict is Verdict.PASS


def test_a_fail_that_is_certain_stands_when_the_gate_ends_early(gate: Gate) -> None:
    def script(stage: str, number: int) -> Pair:
        if stage == "again" and number == 10:
            raise KeyboardInterrupt
        return plain({1: 1.1, 2: 1.1 if stage == "first" else (1.5 if number % 2 else 0.7)})

    found = gate.run(script)
    assert (found.verdict, found.stopped) == (Verdict.FAIL, "a signal ended the gate")
    assert [one.verdict for one in found.rows] == [Verdict.FAIL, Verdict.INCONCLUSIVE]


def test_a_fail_that_nothing_could_confirm_is_inconclusive(gate: Gate) -> None:
    def script(stage: str, _number: int) -> Pair:
        if stage == "again":
            raise KeyboardInterrupt
        return plain({1: 1.1})

    found = gate.run(script)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.rows[0].reason == "at least +10.0%, and the gate ended before fresh builds could confirm it"
    again = gate.run(lambda *_: plain({1: 1.1}), resume=True)
    assert again.verdict is Verdict.FAIL
    assert gate.stages == ["first", "again", "again"], "the first stage needs no checkouts any more"


def test_a_budget_ends_the_gate_in_time_and_says_how_much_is_missing(gate: Gate) -> None:
    budget = TimeLimits(pair=900, budget=600)
    found = gate.run(lambda _, number: replace(quiet(number), seconds=700 if number == 4 else 1), limits=budget)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.stopped == "the budget of 600 s is over, and up to 304 min more are needed"
    assert len(found.stages[0].pairs) == 5
    more = TimeLimits(pair=900, budget=6000)
    assert gate.run(lambda _, number: quiet(number), resume=True, limits=more).verdict is Verdict.PASS


def test_a_budget_shorter_than_one_pair_is_refused(gate: Gate) -> None:
    with pytest.raises(GateError, match="--budget is shorter than one pair"):
        gate.run(lambda _, number: replace(quiet(number), seconds=20), limits=TimeLimits(pair=900, budget=10))


def test_what_goes_on_measures_the_same(gate: Gate) -> None:
    gate.run(failing_at(6, KeyboardInterrupt()))
    with pytest.raises(GateError, match="another gate's pairs") as caught:
        gate.run(lambda _, number: quiet(number), Rule(tolerance=0.02), resume=True)
    assert "'tolerance': 0.02" in caught.value.found
    gate.commits = replace(gate.commits, head="c" * 40)
    with pytest.raises(GateError, match="another gate's pairs") as caught:
        gate.run(lambda _, number: quiet(number), resume=True)
    assert caught.value.found == f"head: '{'c' * 40}' now, '{'a' * 40}' then"


def test_what_goes_on_goes_on_on_the_same_machine(gate: Gate) -> None:
    gate.run(failing_at(6, KeyboardInterrupt()))
    with pytest.raises(GateError, match="not like the first of base"):
        gate.run(lambda *_: plain({1: 1.0, 2: 1.0}, machine=ANOTHER_CPU), resume=True)


def test_a_damaged_pair_is_named_and_measured_again(gate: Gate) -> None:
    gate.run(failing_at(6, KeyboardInterrupt()))
    file = gate.out / "pairs.jsonl"
    lines = file.read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line and number > 5)
    lines[at] = lines[at].replace("1.00", "1.90", 1)
    file.write_text("\n".join(lines) + "\n")
    gate.only.clear()
    found = gate.run(lambda _, number: quiet(number), resume=True)
    assert (found.verdict, len(gate.only)) == (Verdict.PASS, 4)
    (note,) = found.notes
    assert note.startswith(f"pairs.jsonl, line {at + 1}: damaged, so that pair is left out")
    assert note in report.reasons(found)


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


def test_an_acceptance_of_a_row_that_is_not_measured_here_is_noted(gate: Gate) -> None:
    row_elsewhere = "fused forward fp32 1000"
    gate.accepted = {row_elsewhere: Acceptance(row_elsewhere, 0.08, "exact sums", "d" * 40)}
    found = gate.run(lambda _, number: quiet(number))
    assert found.verdict is Verdict.PASS
    assert found.notes == (f"{row_elsewhere}: not measured here, so that its slow-down is accepted has no effect",)


def test_a_budget_that_ends_before_a_fail_is_confirmed_says_so(gate: Gate) -> None:
    budget = TimeLimits(pair=900, budget=0.001)
    first = gate.run(failing_in_the_second_stage(KeyboardInterrupt()))
    assert first.verdict is Verdict.INCONCLUSIVE

    def late(stage: str, _number: int) -> Pair:
        raise WorkerError("the process hung", found=stage, wanted="an answer", hint="more time")

    found = gate.run(late, resume=True, limits=budget)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert (found.stopped or "").startswith("the budget of 0.001 s is over")


def failing_in_the_second_stage(error: BaseException) -> Script:
    """A script of a slow row whose FAIL cannot be confirmed."""

    def script(stage: str, _number: int) -> Pair:
        if stage == "again":
            raise error
        return plain({1: 1.1})

    return script


def test_a_pair_of_another_machine_does_not_spoil_the_record(gate: Gate) -> None:
    gate.run(failing_at(6, KeyboardInterrupt()))
    with pytest.raises(GateError, match="not like the first of base"):
        gate.run(lambda *_: plain({1: 1.0, 2: 1.0}, machine=ANOTHER_CPU), resume=True)
    assert gate.run(lambda _, number: quiet(number), resume=True).verdict is Verdict.PASS


def test_the_page_shows_what_a_suite_says_as_it_is(gate: Gate) -> None:
    found = replace(gate.run(lambda *_: plain({1: 1.0})), not_run={"a <b>case": "<img src=x>\n# PASS @all"})
    page = report.to_page(found)
    assert "&#60;img src=x>" in page
    assert "\n# PASS" not in page
    assert "@all" not in page


def test_checkouts_that_take_the_whole_budget_end_it(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines: list[float] = []

    def slow(_commits: Commits, _stage: Path, deadline: float) -> NoReturn:
        deadlines.append(deadline)
        raise TimeoutError("no time was left for `python -m venv`")

    monkeypatch.setattr(session, "checked_out", slow)
    began = time.monotonic()
    with pytest.raises(GateError, match="--budget is shorter than one pair"):
        gate.run(lambda *_: plain({1: 1.0}), limits=TimeLimits(pair=900, budget=1e-9))
    assert began <= deadlines[0] <= time.monotonic()


@pytest.mark.parametrize("seen_by", ["the gate", "a process"])
def test_a_full_disk_after_a_pair_counts_names_tmpdir_too(gate: Gate, seen_by: str) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    hint = "see why\n  | OSError: [Errno 28] No space left on device\n  | 1 error"
    lost = WorkerError("the process of head did not measure", found="exit code 3", wanted="a run", hint=hint)
    found = gate.run(failing_at(6, full if seen_by == "the gate" else lost))
    assert found.verdict is Verdict.INCONCLUSIVE
    told = "".join(report.reasons(found))
    hint = r"name one that has 1\d\d MiB free: `export TMPDIR=DIRECTORY`"
    assert re.search(rf"It ended early: No space left on device, in .+; {hint}\. To go on:\n", told), told


def test_a_full_disk_before_a_pair_counts_names_tmpdir(gate: Gate) -> None:
    with pytest.raises(GateError, match="no temporary directory") as caught:
        gate.run(failing_at(0, OSError(errno.ENOSPC, "No space left on device")))
    assert re.search(r"1\d\d MiB free: `export TMPDIR=DIRECTORY`", caught.value.hint)


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
