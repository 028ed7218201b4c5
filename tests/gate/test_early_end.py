"""A gate that ends early, on scripted pairs: what it knows by then, what it keeps, and how it goes on."""

from __future__ import annotations

import errno
import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from lenet.errors import GateError, OutputError
from lenet.gate import report, session
from lenet.gate.checkouts import Commits
from lenet.gate.decision import Rule, Verdict
from lenet.gate.journal import Journal
from lenet.gate.pairs import Pair
from lenet.gate.processes import WorkerError
from lenet.gate.session import TimeLimits
from tests.gate.fakes import plain
from tests.gate.scripted import ANOTHER_CPU, Gate, Script, failing_at, quiet

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
