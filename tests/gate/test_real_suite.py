"""A pair of the real suite, in processes that are forked: `test_workers` has the faults, on a quick one."""

from __future__ import annotations

import math
import random
import shutil
import sys
from pathlib import Path

import pytest

from lenet.gate.pairs import TURNS
from lenet.gate.trees import Tree
from lenet.gate.workers import fork_servers, measure_pair
from tests.gate.fakes import git

pytestmark = pytest.mark.programs

ROOT = Path(__file__).parents[2]
SLOWED = """            began = time.perf_counter()
            logits = self._network(images)
            until = began + 8 * (time.perf_counter() - began)
            while time.perf_counter() < until:
                pass
            return logits
"""


def test_a_slow_down_of_the_real_suite_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair with the real canary and forked processes; by a factor that no noise makes or hides."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "tests.benchmarks.short_limits")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    base, head = (checkout(tmp_path / side, slowed=side == "head") for side in ("base", "head"))
    rows = ("--synthetic", "--backend=pytorch", "--mode=forward", "--batch-size=1", "--device=cpu", "--rounds=20")
    folder, draw = tmp_path / "pairs", random.Random(0)  # noqa: S311
    with fork_servers((base, head), folder) as (servers, *_):
        assert [server.cannot(120) for server in servers.values()] == [None, None]
        found = measure_pair((base, head), rows, folder / "0", draw, servers=servers, timeout=120)
    assert found.base.rows.keys() == found.head.rows.keys() == {"pytorch forward fp32 1"}
    assert found.ratio("pytorch forward fp32 1") > math.log(3)
    assert (found.base.commit, found.head.commit) == (base.commit, head.commit)
    assert [len(side.canary) for side in (found.base, found.head)] == [TURNS, TURNS]
    assert found.head.not_run == {}


def checkout(root: Path, *, slowed: bool) -> Tree:
    """A copy of this checkout, as a side of a pair."""
    root.mkdir()
    for name in ("lenet", "benchmarks", "conftest.py", "pyproject.toml", ".gitignore"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, root / name)
    if slowed:
        file = root / "lenet" / "backends" / "pytorch_eager.py"
        source = file.read_text().replace("            return self._network(images)\n", SLOWED)
        file.write_text(source.replace("from collections.abc", "import time\nfrom collections.abc", 1))
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=all")
    return Tree(root.name, root, git(root, "rev-parse", "HEAD"), sys.executable, root.with_name("caches"))
