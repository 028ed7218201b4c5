"""What the tests of the comment share: documents of the gate, a run and a pull request."""

import json
from typing import Any

from lenet.gate.comment.github import PullRequest, Run

HEAD = "4f1c2a9be0d37c5518aa02c4b1f6a7d9e3c80512"
MERGE = "9a0b8c7d6e5f4a3b2c1d0e9f8a7b6c5d4e3f2a1b"
SITE = "https://github.example"
RUN = Run(
    workflow=".github/workflows/benchmark.yml",
    advisory=False,
    id=123,
    attempt=1,
    conclusion="success",
    head_sha=HEAD,
    head_repository=99,
    head_owner="ana",
    head_branch="faster",
    url=f"{SITE}/o/r/actions/runs/123/attempts/1",
    help_url=f"{SITE}/o/r/blob/HEAD/docs/how-to/pull-request.md",
)
PULL = PullRequest(7, "main", MERGE)


def row(name: str, verdict: str = "PASS", ratio: float | None = 1.001, **more: Any) -> dict[str, Any]:
    if ratio is None:
        times = dict.fromkeys(("base", "head", "ratio", "low", "high"))
    else:
        times = {"base": 1e-3, "head": 1e-3 * ratio, "ratio": ratio, "low": ratio - 0.004, "high": ratio + 0.005}
    texts = {"name": name, "verdict": verdict, "reason": "the reason"}
    return texts | times | {"pairs": 12, "again": None, "accepted": None, "why": None} | more


def document(verdict: str = "PASS", rows: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    found = {
        "schema": 2,
        "verdict": verdict,
        "reason": "the gate's reason",
        "started": "2026-11-29T07:00:00Z",
        "rows": [row("pytorch forward fp32 1")] if rows is None else rows,
        "not_run": {"tripy": "not installed"},
        "commits": {"base": "0" * 40, "head": MERGE, "reference": "origin/main", "own_environments": False},
        "rule": {},
        "suite": [],
        "seed": 1,
        "seconds": 174.2,
        "fingerprint": "ab",
        "machine": {"gpu": {"name": "NVIDIA H200"}, "cpu": {"model": "CPU"}},
        "stages": [],
        "stopped": None,
    }
    return found | more


def encoded(found: Any) -> bytes:
    return json.dumps(found).encode()
