"""``lenet gate`` as a person runs it: exit codes and files, on the quick suite, and once on the real one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lenet.cli import main
from lenet.cli.gate import Duration
from lenet.files import only_writer
from lenet.gate import command, processes, report, session, trees
from lenet.gate.command import Options
from lenet.gate.decision import Rule
from lenet.gate.pairs import Pair
from lenet.gate.processes import WorkerError
from lenet.gate.trees import Tree
from tests.gate.fakes import CANARY, git, pair, plain, repository, row, side

ROOT = Path(__file__).parents[2]
ONE, TWO = "pytorch-forward-1-fp32", "pytorch-forward-2-fp32"
GOOD: Mapping[str, float | str] = {ONE: 1.0, TWO: 2.0}
AT_ONCE: Any = partial(Rule, alpha=1.0, looks=(1,))
"""Decides on one pair: what is tested here is what comes after."""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the quick suite's repository goes; canary and servers need no torch, and one pair decides."""
    canary = tmp_path / "test_canary.py"
    canary.write_text(CANARY)
    monkeypatch.setattr(trees, "CANARY_FILE", canary)
    monkeypatch.setattr(processes, "_PRELOADED", ("pytest",))
    monkeypatch.setattr(command, "Rule", AT_ONCE)
    monkeypatch.setenv("LENET_DATA", str(tmp_path))
    return tmp_path / "clone"


def gate(root: Path, *arguments: str) -> tuple[Result, dict[str, Any]]:
    before = Path.cwd()
    os.chdir(root)
    try:
        done = CliRunner().invoke(main, ["gate", "--base=base", "--start=fresh", *arguments])
    finally:
        os.chdir(before)
    assert len(git(root, "worktree", "list").splitlines()) == 1
    return done, json.loads((root / "gate" / "gate.json").read_text())


GOOD_PAIR = plain({1: 1.0, 2: 1.0})


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[Pair | Exception], None]:
    """Sets what comes of each pair, which is then not measured."""

    def set_pair(found: Pair | Exception) -> None:
        def measure_pair(trees: tuple[Tree, Tree], *_: Any, compiles: bool, **__: Any) -> Pair:
            if isinstance(found, Exception):
                raise found
            base, head = (
                replace(which, commit=tree.commit) for which, tree in zip((found.base, found.head), trees, strict=True)
            )
            return replace(found, base=base, head=head, compiles=compiles)

        monkeypatch.setattr(session, "measure_pair", measure_pair)

    return set_pair


@pytest.fixture
def scripted(quick: Path, script: Callable[[Pair | Exception], None]) -> Path:
    """A repository of the quick suite, whose pairs are not measured: for what becomes of a verdict."""
    script(GOOD_PAIR)
    return repository(quick, GOOD, GOOD)


@pytest.mark.programs
@pytest.mark.parametrize(
    ("head", "code", "verdict", "reason"),
    [
        (GOOD, 0, "PASS", "no row became slower"),
        ({ONE: 1.5, TWO: 2.0}, 1, "FAIL", "pytorch forward fp32 1"),
        ({ONE: "hangs", TWO: 2.0}, 2, "ERROR", "the process of head hung"),
    ],
    ids=["no change", "slow-down", "hung worker"],
)
def test_the_exit_code_says_what_came_of_it(
    quick: Path, monkeypatch: pytest.MonkeyPatch, head: Any, code: int, verdict: str, reason: str
) -> None:
    monkeypatch.setattr(session, "explain", lambda *_, **__: {})  # `tests/gate/why` profiles
    timeout = 15 if "hangs" in head.values() else 60
    done, document = gate(repository(quick, GOOD, head), f"--worker-timeout={timeout}")
    assert done.exit_code == code, done.output
    assert document["verdict"] == verdict
    assert reason in document["reason"]
    page = (quick / "gate" / "gate.md").read_text()
    assert page.startswith(f"### {verdict}: ")
    assert document["reason"] in done.output.replace("\n", " ")
    if "hangs" in head.values():
        assert document["found"] == f"no answer in time, at test_inference[{ONE}-pinned-turn0]"
        assert not is_alive(int((quick.parent / "child").read_text()))


@pytest.mark.parametrize(
    ("found", "code", "verdict", "reason"),
    [
        (pair(GOOD_PAIR.base, side("head", {"row 2": row(2, 1.0), "row 3": row(3, 1.0)})), 1, "FAIL", "row 1"),
        (
            pair(GOOD_PAIR.base, side("head", {"row 2": row(2, 1.0)}, not_run={f"{ONE}-pinned": "failed: the logits"})),
            1,
            "FAIL",
            "row 1",
        ),
        (
            WorkerError("the process of head did not measure", found="killed by SIGKILL", wanted="a run", hint="why"),
            2,
            "ERROR",
            "the process of head did not measure",
        ),
    ],
    ids=["renamed row", "wrong logits", "killed worker"],
)
def test_the_exit_code_says_what_came_of_a_pair(
    scripted: Path,
    script: Callable[[Pair | Exception], None],
    found: Pair | Exception,
    code: int,
    verdict: str,
    reason: str,
) -> None:
    """`test_workers` has the processes."""
    script(found)
    done, document = gate(scripted)
    assert (done.exit_code, document["verdict"]) == (code, verdict), done.output
    assert reason in document["reason"]
    assert (scripted / "gate" / "gate.md").read_text().startswith(f"### {verdict}: ")


def is_alive(process: int) -> bool:
    """Whether it still runs; one that has ended and was not waited for yet does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_inconclusive_has_an_exit_code_of_its_own(scripted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "Rule", partial(AT_ONCE, alpha=0.4))  # of one pair there is no such bound
    done, document = gate(scripted)
    assert (done.exit_code, document["verdict"]) == (3, "INCONCLUSIVE")
    assert (document["rule"]["tolerance"], document["rule"]["harm"]) == (0.01, 0.05)


def test_an_error_replaces_an_earlier_verdict(quick: Path) -> None:
    root = repository(quick, GOOD, GOOD)
    (root / "gate").mkdir()
    (root / "gate" / "gate.json").write_text('{"verdict": "PASS"}')
    (root / "untracked").touch()
    done, document = gate(root)
    assert (done.exit_code, document["verdict"]) == (2, "ERROR")
    assert "the worktree is dirty" in (root / "gate" / "gate.md").read_text()


def test_a_fault_of_the_gate_itself_is_no_verdict(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "measure", full)
    done, document = gate(repository(quick, GOOD, GOOD))
    assert (done.exit_code, document["verdict"]) == (2, "ERROR")
    assert document["found"] == "OSError: [Errno 28] No space left on device"


WINDOWS = """
import enum, signal, sys
from click.testing import CliRunner
from lenet.cli import main
from lenet.cli.gate import Duration
from lenet.files import only_writer
sys.modules["fcntl"] = None
signal.Signals = enum.IntEnum("Signals", {one.name: one for one in signal.Signals if one.name in ("SIGINT", "SIGTERM")})
del signal.SIGHUP, signal.SIGQUIT
from lenet.gate import command
sys.platform = "win32"
done = CliRunner().invoke(main, ["gate", "--base=base"])
print(done.output)
sys.exit(done.exit_code)
"""


@pytest.mark.programs
def test_what_windows_lacks_is_not_needed_to_say_so(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WINDOWS]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "the gate runs on Linux alone" in done.stdout


@pytest.mark.parametrize("options", [("--tolerance=0.05", "--harm=0.01"), ("--tolerance=0.05",), ("--tolerance=-1",)])
def test_a_rule_that_makes_no_sense_is_refused(quick: Path, options: tuple[str, ...]) -> None:
    quick.mkdir()
    done = CliRunner().invoke(main, ["gate", "--base=base", f"--out={quick / 'gate'}", *options])
    assert done.exit_code == 2
    assert "wanted: shares, 0 <= tolerance < harm" in done.output


@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "-1"])
def test_a_time_that_no_clock_waits_for_is_refused(quick: Path, seconds: str) -> None:
    quick.mkdir()
    options = ("--base=base", f"--out={quick / 'gate'}", f"--worker-timeout={seconds}")
    done = CliRunner().invoke(main, ["gate", *options])
    assert done.exit_code == 2
    assert done.stderr.startswith("lenet: --worker-timeout cannot be used\n")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90.0), ("90s", 90.0), ("10m", 600.0), ("1.5h", 5400.0), ("0.5 m", 30.0)]
)
def test_a_budget_has_a_unit(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "m", "ten", "-5m", "1d", "1e3", "nan", "10 m s"])
def test_a_budget_that_is_no_time_is_refused(text: str) -> None:
    done = CliRunner().invoke(main, ["gate", "--base=base", f"--budget={text}"])
    assert done.exit_code == 2
    assert "is no duration such as 90s, 10m or 1.5h" in done.output


def test_a_budget_of_no_time_is_refused(quick: Path) -> None:
    quick.mkdir()
    done = CliRunner().invoke(main, ["gate", "--base=base", f"--out={quick / 'gate'}", "--budget=0s"])
    assert done.exit_code == 2
    assert done.stderr.startswith("lenet: --budget cannot be used\n")


def test_nothing_to_go_on_from_is_an_error(quick: Path) -> None:
    done, document = gate(repository(quick, GOOD, GOOD), "--resume")
    assert (done.exit_code, document["verdict"]) == (2, "ERROR")
    assert "leave --resume out to begin anew" in document["next"]


@pytest.mark.parametrize("ignored", [True, False])
def test_a_copy_of_the_verdict_is_kept_where_git_ignores_it(scripted: Path, *, ignored: bool) -> None:
    root = scripted
    if ignored:
        with (root / ".gitignore").open("a") as file:
            file.write("/.benchmarks/local/\n")
        git(root, "commit", "--quiet", "--all", "--message=ignore")
    _, document = gate(root)
    found = list((root / ".benchmarks").rglob("*.json"))
    assert len(found) == ignored
    for copy in found:
        assert json.loads(copy.read_text()) == document
        assert re.fullmatch(rf"\d{{8}}_\d{{6}}_{document['commits']['head'][:12]}\.json", copy.name)
    assert git(root, "status", "--porcelain") == ""


def test_two_gates_do_not_write_into_one_directory(quick: Path) -> None:
    root = repository(quick, GOOD, GOOD)
    (root / "gate").mkdir()
    with only_writer(root / "gate"):
        before = Path.cwd()
        os.chdir(root)
        try:
            done = CliRunner().invoke(main, ["gate", "--base=base"])
        finally:
            os.chdir(before)
    assert done.exit_code == 2
    assert "choose another directory with --out" in done.stderr


def test_the_files_are_written_where_nobody_reads_the_table(scripted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: Any) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(command, "print_whole", closed)
    _, document = gate(scripted)
    assert document["verdict"] == "PASS"


def test_a_signal_that_comes_while_the_verdict_is_written_does_not_change_it(
    scripted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = report.write

    def interrupted(out: Path, document: str, page: str) -> None:
        if '"PASS"' in document:
            signal.raise_signal(signal.SIGTERM)
        write(out, document, page)

    monkeypatch.setattr(report, "write", interrupted)
    done, document = gate(scripted)
    assert (done.exit_code, document["verdict"]) == (0, "PASS")


def test_a_history_that_cannot_be_written_leaves_the_verdict(scripted: Path) -> None:
    root = scripted
    (root / ".benchmarks" / "local").mkdir(parents=True)
    (root / ".benchmarks" / "local" / "gates").write_text("a file")
    (root / ".gitignore").write_text((root / ".gitignore").read_text() + "/.benchmarks/\n")
    git(root, "commit", "--quiet", "--all", "--message=ignore")
    done, document = gate(root)
    assert (done.exit_code, document["verdict"]) == (0, "PASS")
    assert "the report will not show this gate" in done.stderr


@pytest.mark.programs
def test_a_directory_of_one_s_own_does_not_make_the_worktree_dirty(scripted: Path) -> None:
    root = scripted
    done, _ = gate(root, f"--out={root / 'gate'}")
    assert done.exit_code == 0
    before = Path.cwd()
    os.chdir(root)
    try:
        done = CliRunner().invoke(main, ["gate", "--base=base", "--out=results"])
    finally:
        os.chdir(before)
    assert done.exit_code == 0, done.output
    shutil.rmtree(root / "results")


def test_what_goes_on_names_the_directory_and_the_start() -> None:
    options = Options("main", (), Path("elsewhere"), 0.01, 0.05, 900, start="fresh")
    assert command._places(options) == ("--out=elsewhere", "--start=fresh")
    assert command._places(replace(options, out=Path("gate"), start="forked")) == ()
