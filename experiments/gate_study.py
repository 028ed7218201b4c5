"""The gate's false alarms and power: the real command on the real suite, with injected slow-downs.

``python experiments/gate_study.py --out DIR --minutes 180``

It runs one gate after the other on a CPU, and appends a record for each to DIR/JOB.jsonl. You can stop it at any time
and continue with the same command. ``--jobs N`` runs N gates at a time, each on two processors of its own. It needs no
network and no git history: it makes a repository of its own tree.

Head is really slower in the row of batch 1: a wait follows the forward pass, and lasts the given share of the pass's
time. The row of batch 2 and the canary are unchanged. Every alarm of these is false, and so is every alarm of a gate
with 0 %.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing import Process
from pathlib import Path
from typing import Any

from lenet.provenance import without_git_variables

ROOT = Path(__file__).resolve().parents[1]
CYCLE = (0, 2, 5, 5, 10)
"""Slow-downs in percent. Each cycle has an order of its own. The power is wanted for 5 %."""

ROWS = ("--backend=pytorch", "--mode=forward", "--batch-size=1", "--batch-size=2", "--device=cpu")
FILE = "lenet/backends/pytorch_eager.py"
SLOWED = """

import time

_at_full_speed = Network.forward


def _slowed(self: Network, images: torch.Tensor) -> torch.Tensor:
    began = time.perf_counter()
    logits = _at_full_speed(self, images)
    if images.shape[0] == 1:
        until = began + (1 + {percent} / 100) * (time.perf_counter() - began)
        while time.perf_counter() < until:
            pass
    return logits


Network.forward = _slowed
"""
"""Appended to `FILE`."""

WHO = ("-c", "user.name=study", "-c", "user.email=study@localhost", "-c", "commit.gpgsign=false")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="for the records")
    parser.add_argument("--minutes", type=float, required=True, help="no gate begins after so many")
    parser.add_argument("--jobs", type=int, default=1, help="studies at a time")
    parser.add_argument("--seed", type=int, default=0, help="of the slow-downs' order")
    option = parser.parse_args(arguments)
    out = option.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    usable = sorted(os.sched_getaffinity(0))
    jobs = []
    for number in range(option.jobs):
        own = usable[2 * number : 2 * number + 2] if option.jobs > 1 else usable
        if not own:
            parser.error(f"{option.jobs} jobs want {2 * option.jobs} processors, {len(usable)} are usable")
        name = f"{option.seed:03d}-{number:02d}"
        deadline = time.monotonic() + 60 * option.minutes
        jobs.append(Process(target=study, args=(out, name, option.seed, number, own, deadline)))
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    return 1 if any(job.exitcode for job in jobs) else 0


def study(out: Path, name: str, seed: int, number: int, processors: list[int], deadline: float) -> None:
    """Run gates one after the other, until the time is up."""
    os.sched_setaffinity(0, processors)
    os.environ.update(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    repository = out / f"{name}.repository"
    if not (repository / ".git").exists():
        make_repository(repository)
    records = out / f"{name}.jsonl"
    done = len(records.read_text().splitlines()) if records.exists() else 0
    for position in range(done, 1_000_000):
        if time.monotonic() > deadline:
            return
        cycle, place = divmod(position, len(CYCLE))
        order = random.Random(f"{seed} {number} {cycle}").sample(CYCLE, len(CYCLE))  # noqa: S311
        record = one_gate(repository, order[place], out / f"{name}.gate")
        with records.open("a") as file:
            file.write(json.dumps(record, separators=(",", ":")) + "\n")


def make_base(repository: Path) -> None:
    """Make a repository with this tree as the branch ``base``."""
    repository.mkdir()
    for name in ("lenet", "benchmarks", "conftest.py", "pyproject.toml", ".gitignore"):
        if (ROOT / name).exists():
            subprocess.run(["cp", "-r", str(ROOT / name), str(repository)], check=True)  # noqa: S603, S607
    git(repository, "init", "--quiet", "--initial-branch=base")
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message=base")


def make_repository(repository: Path) -> None:
    """Make a repository with this tree as base, and a branch for each slow-down."""
    make_base(repository)
    for percent in sorted(set(CYCLE)):
        git(repository, "checkout", "--quiet", "-b", f"slow-{percent}", "base")
        if percent:
            with (repository / FILE).open("a") as file:
                file.write(SLOWED.format(percent=percent))
        else:  # another commit, the same code
            (repository / "README.md").write_text("Nothing changed.\n")
        git(repository, "add", "--all")
        git(repository, "commit", "--quiet", f"--message={percent} % slower")


def one_gate(repository: Path, percent: int, out: Path) -> dict[str, Any]:
    """Run the gate; return the record of its report, or of its error."""
    git(repository, "checkout", "--quiet", f"slow-{percent}")
    found = out / "gate.json"
    found.unlink(missing_ok=True)
    command = [sys.executable, "-m", "lenet", "gate", "--base=base", f"--out={out}", *ROWS]
    started, began = time.time(), time.monotonic()
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)  # noqa: S603
    record = {"percent": percent, "started": round(started), "exit": done.returncode, "wall": time.monotonic() - began}
    report = json.loads(found.read_text()) if found.exists() else {"verdict": "ERROR"}
    if report["verdict"] == "ERROR":
        return record | {"error": done.stderr[-2000:]}
    return compact(record | report)


def compact(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a report that the analysis needs, with the medians to four digits."""
    kept = ("percent", "started", "exit", "verdict", "reason", "rows", "rule", "seed", "fingerprint")
    return {name: record[name] for name in kept} | {
        "wall": round(record["wall"], 1),
        "cpu": record["machine"]["cpu"],
        "packages": record["machine"]["packages"],
        "stages": [compact_stage(stage) for stage in record["stages"]],
    }


def compact_stage(stage: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": stage["name"],
        "void": stage["void"],
        "decisions": {row: decision["verdict"] for row, decision in stage["decisions"].items()},
        "pairs": [
            {
                "counted": pair["counted"],
                "seconds": round(pair["seconds"], 1),
                "others": round(pair["others"], 2),
                "medians": {
                    row: [[float(f"{one:.4g}") for one in side] for side in both]
                    for row, both in pair["medians"].items()
                },
            }
            for pair in stage["pairs"]
        ],
    }


def git(repository: Path, *arguments: str) -> None:
    command = ["git", "-C", str(repository), *WHO, *arguments]
    subprocess.run(command, env=without_git_variables(), check=True)  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
