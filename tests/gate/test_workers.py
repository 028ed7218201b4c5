"""Pairs of real processes of a suite that measures nothing: their turns, and how they may end."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from lenet.errors import GateError
from lenet.gate import fork_server, processes, trees
from lenet.gate.pairs import TURNS, Pair
from lenet.gate.processes import WorkerError
from lenet.gate.trees import Tree, environment
from lenet.gate.worker import Worker
from lenet.gate.workers import fork_servers, measure_pair
from tests.gate.fakes import CANARY, git, pair, plain, repository, row

ONE, TWO = "pytorch-forward-1-fp32", "pytorch-forward-2-fp32"
GOOD: Mapping[str, float | str] = {ONE: 1.0, TWO: 2.0}
QUICK = ("pytest", "xmlrpc.client")
"""What the fork servers of these tests import, in the place of PyTorch and the suite."""

KILLED = """
import os, sys
from pathlib import Path
from tests.gate import test_workers
from tests.gate.test_workers import ONE, TWO, trees

folder = Path(sys.argv[1])
trees.CANARY_FILE = folder / "test_canary.py"
test_workers.processes._PRELOADED = test_workers.QUICK
os.environ["GATE"] = str(os.getpid())
test_workers.measure(folder, *2 * [{ONE: "kills the gate", TWO: 2.0}], start=sys.argv[2])
"""
"""A gate that its own worker kills, whichever has the first turn."""

COLLECTS = """
import atexit, gc, os
from pathlib import Path

import pytest

atexit.register(Path(os.environ["LENET_DATA"], "taken-apart").touch)
if gc.isenabled():
    pytest.exit("the imports collect garbage", returncode=9)


@pytest.fixture(autouse=True)
def _collects():
    if not gc.isenabled() or not gc.get_freeze_count():
        pytest.exit("no garbage is collected, or that of the imports too", returncode=9)
"""
"""Of cases that end with a code of their own unless only what they make themselves is collected."""

ALTERNATES = """
import os
import sys
from pathlib import Path
from types import SimpleNamespace

sys.modules["torch"] = SimpleNamespace(get_num_threads=lambda: 1, cuda=SimpleNamespace(is_initialized=lambda: False))


@pytest.fixture
def host():
    return None


def test_chunks(host, request):
    side = Path.cwd().name
    look = request.node.funcargs["host"].is_slowed
    look()
    for _ in range(3 if side == "head" else 2):
        with Path(os.environ["LENET_DATA"], "chunks").open("a") as chunks:
            print(side, file=chunks)
        look()
"""
"""A case of one thread that looks at the host as the suite's rows do, before the first round and after each chunk."""


@pytest.fixture(autouse=True)
def _canary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that needs no torch, which takes seconds to import."""
    canary = tmp_path / "test_canary.py"
    canary.write_text(CANARY)
    monkeypatch.setattr(trees, "CANARY_FILE", canary)
    monkeypatch.setattr(processes, "_PRELOADED", QUICK)
    monkeypatch.setenv("LENET_DATA", str(tmp_path))
    monkeypatch.setenv("PYTEST_ADDOPTS", "--an-option-for-another-suite")
    monkeypatch.setenv("LENET_COMMIT", "of another checkout")


def measure(
    tmp_path: Path,
    head: Mapping[str, float | str],
    base: Mapping[str, float | str] = GOOD,
    *,
    only: list[str] | None = None,
    start: str = "fresh",
    more: str = "",
) -> Pair:
    both = []
    for side, speeds in (("base", base), ("head", head)):
        root = repository(tmp_path / side, speeds, speeds)
        with (root / "benchmarks" / "test_inference.py").open("a") as cases:
            cases.write(more)
        both.append(Tree(side, root, git(root, "rev-parse", "HEAD"), sys.executable, tmp_path / "caches"))
    draw = random.Random(0)  # noqa: S311
    sides, folder = (both[0], both[1]), tmp_path / "pairs"
    with ExitStack() as stack:
        servers = None
        if start == "forked":
            servers, *_ = stack.enter_context(fork_servers(sides, folder))
            assert [server.cannot(120) for server in servers.values()] == [None, None]
        return measure_pair(sides, (), folder / "0", draw, only=only, servers=servers, timeout=60)


each_start = pytest.mark.parametrize("start", ["fresh", "forked"])


def turns(*cases: str) -> set[str]:
    """The names of the cases' turns, and of the canary's."""
    names = [f"test_inference[{case}-pinned-turn{number}]" for case in cases for number in range(TURNS)]
    return {*names, *(f"test_canary[turn{number}]" for number in range(TURNS))}


@pytest.mark.programs
@each_start
def test_a_pair_has_both_sides_rows_and_the_drawn_order(tmp_path: Path, start: str) -> None:
    found = measure(tmp_path, {ONE: 1.5, TWO: "skipped here", "pytorch-forward-3-fp32": 3.0}, start=start)
    assert found.medians("pytorch forward fp32 1") == ((1.0,) * TURNS, (1.5,) * TURNS)
    assert found.medians("canary") == ((1.0,) * TURNS, (1.0,) * TURNS)
    assert found.ratio("pytorch forward fp32 1") == pytest.approx(math.log(1.5))
    assert set(found.head.rows) == {"pytorch forward fp32 1", "pytorch forward fp32 3"}
    assert found.head.not_run == {f"{TWO}-pinned": "skipped here"}
    # What only one side has is run, but in no order.
    assert set(found.first) == turns(ONE, TWO)
    assert set(found.first.values()) == {"base", "head"}
    assert 0 <= found.others <= 1
    assert found.base.commit == git(tmp_path / "base", "rev-parse", "HEAD")


def test_others_have_what_was_busy_and_not_one_s_own() -> None:
    assert processes.share_of_others((100.0, 10.0), (130.0, 15.0), 50.0) == 0.5
    assert processes.share_of_others((100.0, 10.0), (101.0, 15.0), 50.0) == 0.0
    _, before = processes.processor_seconds()
    time.sleep(0.1)
    _, after = processes.processor_seconds()
    assert 0 <= after - before < 0.05, "it slept"


@pytest.mark.programs
def test_a_row_that_lacks_a_turn_is_not_measured(tmp_path: Path) -> None:
    assert set(measure(tmp_path, {ONE: 99.0, TWO: 2.0}).head.rows) == {"pytorch forward fp32 2"}


def test_one_turn_that_is_disturbed_changes_no_ratio() -> None:
    good = plain({1: 1.1})
    disturbed = replace(row(1, 1.1), medians=(1.1, 9.0, 1.1))
    found = pair(good.base, replace(good.head, rows={"row 1": disturbed}))
    assert found.ratio("row 1") == pytest.approx(math.log(1.1))


@pytest.mark.programs
def test_only_the_rows_that_are_asked_for_are_run(tmp_path: Path) -> None:
    assert set(measure(tmp_path, GOOD, only=[f"{TWO}-"]).first) == turns(TWO)
    assert f"{TURNS} deselected" in (tmp_path / "pairs" / "0" / "head.log").read_text()


@pytest.mark.programs
@each_start
def test_a_process_collects_nothing_that_it_imports_and_is_not_taken_apart(tmp_path: Path, start: str) -> None:
    assert set(measure(tmp_path, GOOD, start=start, more=COLLECTS).head.rows) == {
        "pytorch forward fp32 1",
        "pytorch forward fp32 2",
    }
    assert not (tmp_path / "taken-apart").exists()
    assert "passed" in (tmp_path / "pairs" / "0" / "head.log").read_text().splitlines()[-1]


@pytest.mark.programs
@each_start
def test_sides_of_one_thread_alternate_within_a_turn(tmp_path: Path, start: str) -> None:
    """Each chunk of a side follows one of the other, until one of them has no more."""
    measure(tmp_path, GOOD, start=start, more=ALTERNATES, only=["turn"])
    chunks = (tmp_path / "chunks").read_text().split()
    assert len(chunks) == TURNS * 5
    for turn in range(TURNS):
        first, second, *rest = chunks[5 * turn : 5 * turn + 5]
        assert {first, second} == {"base", "head"}
        assert rest == [first, second, "head"]


@pytest.mark.programs
@each_start
def test_a_killed_worker_is_an_error_that_names_it_and_where(
    tmp_path: Path, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "tmp", "caches":
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(GateError, match="the process of head did not measure") as caught:
        measure(tmp_path, {ONE: "killed", TWO: 2.0}, start=start)
    assert caught.value.found == f"killed by SIGKILL, at test_inference[{ONE}-pinned-turn0]"
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert list((tmp_path / "tmp").iterdir()) == [], "what it left lies with its caches"
    assert list((tmp_path / "caches").glob("lenet-of-a-library-*"))


@pytest.mark.programs
@each_start
def test_the_workers_of_a_killed_gate_end_before_their_next_turn(tmp_path: Path, start: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), start], cwd=Path(__file__).parents[2], check=False
    )
    assert done.returncode == -signal.SIGKILL

    def left() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("LENET_DATA") == str(tmp_path) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    end = time.monotonic() + 60
    while left() and time.monotonic() < end:
        time.sleep(0.05)
    assert not left()
    logs = [(tmp_path / "pairs" / "0" / f"{side}.log").read_text() for side in ("base", "head")]
    assert ["the gate is gone" in log for log in logs] == [True, True], "\n".join(logs)
    assert (tmp_path / "began").read_text().split() == [f"test_inference[{ONE}-pinned-turn0]"]


@pytest.mark.programs
def test_a_suite_that_cannot_start_is_an_error_with_its_own_words(tmp_path: Path) -> None:
    root = repository(tmp_path / "tree", GOOD, GOOD)
    tree = Tree("base", root, "", sys.executable, tmp_path / "caches")
    draw = random.Random(0)  # noqa: S311
    with pytest.raises(GateError, match="did not measure") as caught:
        measure_pair((tree, tree), ("--bakcend=pytorch",), tmp_path / "pairs" / "0", draw, timeout=60)
    assert caught.value.found == "exit code 4"
    assert "unrecognized arguments: --bakcend=pytorch" in caught.value.hint


def test_an_environment_of_a_tree_s_own_is_not_mixed_with_the_user_s_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "relative")
    tree = Tree("base", tmp_path / "base", "", sys.executable, tmp_path)
    plugins = tmp_path / "plugins"
    for one, theirs in ((tree, [str(Path.cwd() / "relative")]), (replace(tree, python="another"), [])):
        found = environment(one, plugins)["PYTHONPATH"].split(os.pathsep)
        assert found == [str(tree.path), str(plugins), *theirs]


@pytest.mark.programs
def test_a_server_that_is_killed_is_an_error_that_names_it(tmp_path: Path) -> None:
    root = repository(tmp_path / "tree", GOOD, GOOD)
    both = [Tree(side, root, "", sys.executable, tmp_path / "caches") for side in ("base", "head")]
    with fork_servers((both[0], both[1]), tmp_path / "pairs") as (servers, *_):
        assert servers["head"].cannot(120) is None
        server = servers["head"]._process
        server.kill()
        draw = random.Random(0)  # noqa: S311
        with pytest.raises(WorkerError, match="the server of head's processes ended") as caught:
            measure_pair((both[0], both[1]), (), tmp_path / "pairs" / "0", draw, servers=servers, timeout=60)
    assert caught.value.found == "killed by SIGKILL"


@pytest.mark.programs
def test_forks_of_a_server_share_its_imports_and_nothing_that_they_do(tmp_path: Path) -> None:
    """The suite's process sets a variable of the module `json`: the next fork does not see it."""
    root = repository(tmp_path / "tree", GOOD, GOOD)
    cases = (root / "benchmarks" / "test_inference.py").read_text()
    spy = (
        "import json, sys\nassert 'xmlrpc.client' in sys.modules\nassert not hasattr(json, 'seen')\njson.seen = True\n"
    )
    (root / "benchmarks" / "test_inference.py").write_text(spy + cases)
    git(root, "commit", "--quiet", "--all", "--message=spy")
    both = [Tree(side, root, "", sys.executable, tmp_path / "caches") for side in ("base", "head")]
    draw = random.Random(0)  # noqa: S311
    with fork_servers((both[0], both[1]), tmp_path / "pairs") as (servers, *_):
        assert [server.cannot(120) for server in servers.values()] == [None, None]
        for number in range(2):
            folder = tmp_path / "pairs" / str(number)
            found = measure_pair((both[0], both[1]), (), folder, draw, servers=servers, timeout=60)
            assert set(found.head.rows) == {"pytorch forward fp32 1", "pytorch forward fp32 2"}
            assert found.others < 1, "what the server's forks used is the gate's own"


@pytest.mark.programs
def test_a_process_with_threads_or_an_open_device_is_not_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import threading; from lenet.gate.fork_server import _why_not as why; print(why()); {}; print(why())"
    for more, reason in (
        ("threading.Thread(target=threading.Event().wait, daemon=True).start()", "its imports left 2 threads"),
        ("", "None"),
    ):
        command = [sys.executable, "-c", code.format(more or "pass")]
        done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == ["None", reason]
    monkeypatch.setattr(Path, "readlink", lambda _: Path("/dev/nvidia0"))
    assert fork_server._why_not() == "its imports opened /dev/nvidia0"


def test_a_row_gets_the_rounds_that_are_asked_for_by_its_pattern() -> None:
    worker = object.__new__(Worker)
    hear, tell = os.pipe()
    worker._tell, worker._rounds = tell, {f"{ONE}-": 12, f"{TWO}-": 34}
    for at, rounds in ((f"x.py::test_inference[{TWO}-pinned-turn0]", 34), ("x.py::test_canary[turn0]", 20)):
        worker.at, worker.left = at, [at]
        worker.go(cpu=1)
        assert json.loads(os.read(hear, 100)) == {"rounds": rounds, "cpu": 1}
    os.close(hear)
    os.close(tell)


@pytest.mark.parametrize("alone", [True, False])
def test_a_row_that_hands_over_prepares_beside_the_other_side_unless_it_times_itself_then(
    monkeypatch: pytest.MonkeyPatch, *, alone: bool
) -> None:
    monkeypatch.setattr(Worker, "_next", lambda _: {"within": True, "alone": alone})
    worker = object.__new__(Worker)
    worker.tree = Tree("base", Path(), "", sys.executable, Path())
    worker.at, worker._divided = "x.py::test_inference[row-turn0]", set()
    worker.listen()
    worker.at = "x.py::test_inference[row-turn1]"
    assert worker.divides is not alone


def test_the_sides_share_what_compilers_choose_by_timing(tmp_path: Path) -> None:
    base, head = (
        environment(Tree(side, tmp_path / side, "", sys.executable, tmp_path / f"{side}-caches"), tmp_path)
        for side in ("base", "head")
    )
    for name in "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR":
        assert base[name] == head[name]
        assert Path(base[name]).is_relative_to(tmp_path)
    assert base["LENET_CACHE"] != head["LENET_CACHE"]
