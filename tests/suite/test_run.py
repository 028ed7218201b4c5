"""A whole run of the suite, inside the process of its test. `tests/benchmarks` has it as a person starts it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lenet import results
from lenet.measurement import limits

ROOT = Path(__file__).parents[2]
QUICK = ("--backend=pytorch", "--device=cpu", "--mode=forward", "--synthetic", "--warmups=1", "--rounds=3")
ALONE = ("-p", "no:cacheprovider", "-p", "no:faulthandler", "-p", "no:timeout")
"""Without the plugins that would take something from the pytest that runs this test."""


def test_rows_are_measured_printed_and_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setattr(limits, "_shortest", lambda call, device, seconds=0: limits._seconds(call, device, 1))  # noqa: ARG005
    monkeypatch.setitem(limits._MATRIX, "cpu", 64)
    monkeypatch.setitem(limits._SIZES, "cpu", (2**16, 2**20))
    monkeypatch.setattr(limits, "_AGAIN", 0)
    saved = tmp_path / "saved.json"
    sizes = ("--batch-size=2", "--batch-size=1")
    places = (f"--benchmark-storage=file://{tmp_path}", f"--benchmark-json={saved}")
    code = pytest.main(["benchmarks/test_inference.py", *QUICK, *ALONE, *sizes, *places])
    said = capfd.readouterr().out
    assert code == pytest.ExitCode.OK, said
    found = results.load(saved)
    assert [(row.case.backend, row.case.batch_size, row.summary.rounds) for row in found.rows] == [
        ("pytorch", 2, 3),
        ("pytorch", 1, 3),
    ]
    assert all(row.max_abs_delta is not None and row.max_abs_delta < 1e-4 for row in found.rows)
    assert "LeNet, batch 2, fp32, CPU" in said
    assert len(re.findall(r"^ ?pytorch +[\d.]+", said, re.MULTILINE)) == 2
    (kept,) = tmp_path.rglob("0001_*.json")
    assert [row.case for row in results.load(kept).rows] == [row.case for row in found.rows]
