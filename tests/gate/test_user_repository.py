"""The user's repository is left exactly as it was, whatever happens to the gate."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.gate.fakes import CANARY, git, repository

pytestmark = pytest.mark.programs

ROOT = Path(__file__).parents[2]
ONE = "pytorch-forward-1-fp32"
GOOD: Mapping[str, float | str] = {ONE: 1.0}
PROGRAM = """
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any
from lenet.cli import main
from lenet.gate import command, processes, trees
from lenet.gate.decision import Rule
processes._PRELOADED = ("pytest",)
trees.CANARY_FILE = Path(sys.argv.pop(1))
command.Rule = partial(Rule, alpha=1.0, looks=(int(sys.argv.pop(1)),))
exec(os.environ.pop("FIRST", ""))
main()
"""
"""The gate with a canary and fork servers that need no torch, deciding on so many pairs."""
HOOK = """#!/bin/sh
echo ran >> "$(git rev-parse --git-common-dir)/hooked"
"""


def snapshot(root: Path) -> dict[str, str]:
    """The mode and content of each file, git's own included; but for what the repository ignores."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if not name.startswith("gate") and "__pycache__" not in name:
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            found[name] = f"{stat.filemode(path.lstat().st_mode)} {content}"
    return found


class Place:
    """A repository, and what the gate may write to beside it."""

    def __init__(self, folder: Path, head: Mapping[str, float | str]) -> None:
        self.root = repository(folder / "clone", GOOD, head)
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.child = folder / "child"
        self.orphans: list[psutil.Process] = []
        self._folder = folder
        self._canary = folder / "test_canary.py"
        self._canary.write_text(CANARY)

    def start(
        self, *arguments: str, python: str = sys.executable, looks: int = 1, **variables: str
    ) -> subprocess.Popen[str]:
        own = {"PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary), "LENET_DATA": str(self._folder)}
        return subprocess.Popen(
            [python, "-c", PROGRAM, str(self._canary), str(looks), "gate", "--base=base", "--start=fresh", *arguments],
            cwd=self.root,
            env=os.environ | own | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, python: str = sys.executable, looks: int = 1, **variables: str) -> tuple[int, str]:
        with self.start(*arguments, python=python, looks=looks, **variables) as process:
            output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def hang(self, *arguments: str) -> subprocess.Popen[str]:
        """A gate whose worker of head has started, and hangs."""
        process = self.start(*arguments)
        while process.poll() is None and not (self.child.exists() and self.child.read_text()):
            time.sleep(0.05)
        child = psutil.Process(int(self.child.read_text()))
        self.orphans += [child, *filter(None, [child.parent()])]
        self.child.unlink()
        return process

    def snapshot(self) -> dict[str, str]:
        return snapshot(self.root)

    def left(self) -> list[str]:
        return [path.name for path in self.temporary.glob("lenet-gate-*")]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A repository whose head hangs, with hooks, and a worktree that lies elsewhere at the moment."""
    made = Place(tmp_path, {ONE: "hangs"})
    git(made.root, "worktree", "add", "--detach", "--quiet", str(tmp_path / "wt"))
    git(tmp_path / "wt", "commit", "--quiet", "--allow-empty", "--message=theirs")
    (tmp_path / "wt").rename(tmp_path / "away")
    for name in "post-checkout", "reference-transaction":
        hook = made.root / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(HOOK)
        hook.chmod(0o755)
    yield made
    for process in made.orphans:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    (tmp_path / "away").rename(tmp_path / "wt")
    assert git(tmp_path / "wt", "log", "-1", "--format=%s") == "theirs"


def commit_a_good_head(place: Place) -> None:
    (place.root / "speed.json").write_text(json.dumps(GOOD))
    git(place.root, "commit", "--quiet", "--all", "--message=good")


@pytest.mark.parametrize("arguments", ["--nonsense", "--base=nowhere", "--worker-timeout=5"])
def test_a_gate_that_ends_with_an_error_leaves_the_repository_as_it_was(place: Place, arguments: str) -> None:
    before = place.snapshot()
    code, output = place.run(arguments)
    assert (code, place.left()) == (2, []), output
    assert place.snapshot() == before


NO_PIP = """
from lenet.gate import checkouts
run = checkouts._run
checkouts._run = lambda *command, **more: run(*command, *(["--without-pip"] if "venv" in command else []), **more)
"""
"""An environment without pip is made in no time, and then pip fails."""


def test_an_environment_that_cannot_be_made_leaves_the_index_of_a_hook_as_it_was(place: Place) -> None:
    """`git commit` names its index to its hooks. A checkout that wrote into it would revert the next commit."""
    commit_a_good_head(place)
    project = (place.root / "pyproject.toml").read_text()
    (place.root / "pyproject.toml").write_text(project.replace("dependencies = []", 'dependencies = ["nothing"]', 1))
    git(place.root, "commit", "--quiet", "--all", "--message=needs something")
    before = place.snapshot()
    code, output = place.run(GIT_INDEX_FILE=str(place.root / ".git" / "index"), FIRST=NO_PIP)
    assert (code, place.left()) == (2, []), output
    assert "the checkouts cannot be prepared" in output
    assert "No module named pip" in output
    assert place.snapshot() == before


def test_the_variables_of_another_repository_name_no_other_commit(place: Place, tmp_path: Path) -> None:
    commit_a_good_head(place)
    other = repository(tmp_path / "other", GOOD, GOOD)
    before, theirs = place.snapshot(), snapshot(other)
    names = git(place.root, "rev-parse", "--local-env-vars").split()
    hook: dict[str, Any] = {
        "GIT_DIR": str(other / ".git"),
        "GIT_WORK_TREE": str(other),
        "GIT_COMMON_DIR": str(other / ".git"),
    }
    hook |= {"GIT_INDEX_FILE": str(other / ".git" / "index"), "GIT_OBJECT_DIRECTORY": str(other / ".git" / "objects")}
    assert hook.keys() <= set(names)
    code, output = place.run(**hook)
    assert (code, place.left()) == (0, []), output
    assert (place.snapshot(), snapshot(other)) == (before, theirs)
    document = json.loads((place.root / "gate" / "gate.json").read_text())
    assert document["commits"]["head"] == git(place.root, "rev-parse", "HEAD")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_gate_that_gets_a_signal_leaves_the_repository_as_it_was(place: Place, number: signal.Signals) -> None:
    before = place.snapshot()
    process = place.hang()
    process.send_signal(number)
    output, _ = process.communicate()
    assert (process.returncode, place.left()) == (2, []), output
    assert "the gate was interrupted" in output
    assert place.snapshot() == before


EARLY = """
import os
import signal
import sys
from lenet.cli import main

class Sender:
    def find_spec(self, name, *_):
        if name == "lenet.gate.session":
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Sender())
main(["gate", "--base=base"])
"""
"""The gate gets a signal while it imports its modules."""


def test_a_signal_in_the_first_moments_leaves_files_that_say_so(place: Place) -> None:
    before = place.snapshot()
    (place.root / "gate").mkdir()
    (place.root / "gate" / "gate.json").write_text('{"verdict": "PASS"}')
    variables = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(place.temporary)}
    done = subprocess.run(
        [sys.executable, "-c", EARLY], cwd=place.root, env=variables, capture_output=True, text=True, check=False
    )
    assert (done.returncode, place.left()) == (2, []), done.stderr
    document = json.loads((place.root / "gate" / "gate.json").read_text())
    assert (document["verdict"], document["reason"]) == ("ERROR", "the gate was interrupted")
    assert (place.root / "gate" / "gate.md").read_text().startswith("### ERROR: the gate was interrupted")
    assert place.snapshot() == before


def test_signals_that_follow_cut_no_cleaning_up_short(place: Place) -> None:
    """As from a job that is cancelled: SIGINT, and a little later SIGTERM."""
    before = place.snapshot()
    process = place.hang()
    for number in cycle([signal.SIGINT, signal.SIGTERM]):
        if process.poll() is not None:
            break
        process.send_signal(number)
        time.sleep(0.005)
    process.communicate()
    assert place.left() == []
    assert place.snapshot() == before


@pytest.mark.parametrize("elsewhere", [False, True], ids=["the same TMPDIR", "another TMPDIR"])
def test_the_gate_after_a_killed_one_removes_what_that_one_left(
    place: Place, tmp_path: Path, *, elsewhere: bool
) -> None:
    before = place.snapshot()
    process = place.hang()
    process.kill()
    process.communicate()
    assert len(place.left()) == 1
    assert len(git(place.root, "worktree", "list").splitlines()) == 4
    if elsewhere:
        (tmp_path / "elsewhere").mkdir()
    code, output = place.run("--nonsense", TMPDIR=str(tmp_path / "elsewhere" if elsewhere else place.temporary))
    assert (code, place.left()) == (2, []), output
    assert place.snapshot() == before


def pairs(place: Place) -> int:
    """How many pairs the record of the gate in progress holds."""
    file = place.root / "gate" / "pairs.jsonl"
    return file.read_text().count('"stage"') if file.exists() else 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_gate_that_is_stopped_after_a_pair_loses_none(place: Place, number: signal.Signals) -> None:
    commit_a_good_head(place)
    before = place.snapshot()
    process = place.start(looks=2)
    while process.poll() is None and pairs(place) < 2:  # one to compile, and one that counts
        time.sleep(0.02)
    process.send_signal(number)
    output, _ = process.communicate()
    if number != signal.SIGKILL:
        assert (process.returncode, place.left()) == (3, []), output
        document = json.loads((place.root / "gate" / "gate.json").read_text())
        assert (document["verdict"], document["stopped"]) == ("INCONCLUSIVE", "a signal ended the gate")
        assert document["rows"][0]["pairs"] == 1
        assert "--resume" in output
    code, output = place.run("--resume", looks=2)
    assert (code, place.left()) == (0, []), output
    document = json.loads((place.root / "gate" / "gate.json").read_text())
    (stage,) = document["stages"]
    assert [one["counted"] for one in stage["pairs"]] == [False, True, False, True]
    assert place.snapshot() == before


FULL_DISK = """
import resource
from lenet.gate.journal import Journal
keep = Journal.keep

def keep_two(journal, stage, pair):
    if journal._path.read_text().count('"stage"') == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (journal._path.stat().st_size, resource.RLIM_INFINITY))
    keep(journal, stage, pair)

Journal.keep = keep_two
"""
"""When a third pair is to be kept no file may grow past the pairs, as on a full disk: gate.json is larger."""


def test_a_gate_on_a_full_disk_shows_what_it_knows(place: Place) -> None:
    commit_a_good_head(place)
    before = place.snapshot()
    code, output = place.run(looks=30, FIRST=FULL_DISK)
    assert (code, place.left()) == (3, []), output
    assert "the last pair cannot be kept: " in output
    assert place.snapshot() == before


def test_two_gates_at_once_leave_each_other_alone(place: Place) -> None:
    before = place.snapshot()
    process = place.hang()
    (one,) = place.left()
    code, output = place.run("--nonsense", f"--out={place.root / 'gate-2'}")
    assert (code, place.left()) == (2, [one]), output
    trees = [place.temporary / one / "first" / side for side in ("base", "head")]
    assert [git(tree, "status", "--porcelain") for tree in trees] == ["", ""]
    process.terminate()
    process.communicate()
    assert (process.returncode, place.left()) == (2, [])
    assert place.snapshot() == before


def test_modules_of_the_user_s_path_are_found_after_the_tree_s(place: Place, tmp_path: Path) -> None:
    """An interpreter that has nothing installed, and finds pytest, and a misleading plugin, by PYTHONPATH alone."""
    commit_a_good_head(place)
    bare = tmp_path / "bare"
    venv.create(bare, symlinks=True)
    (tmp_path / "misleading").mkdir()
    (tmp_path / "misleading" / "lenet_gate_turns.py").write_text("raise RuntimeError")
    entries = [str(ROOT), os.path.relpath(Path(pytest.__file__).parents[1], place.root), str(tmp_path / "misleading")]
    python = str(bare / "bin" / "python")
    code, output = place.run(python=python, PYTHONPATH=os.pathsep.join(entries))
    assert code == 0, output
