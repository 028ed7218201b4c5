"""Tables of long names and marked values fit a terminal of 80 columns."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import RenderableType

from lenet.gate import report
from lenet.measurement.energy import Energy
from lenet.report.tables import brief, details, to_rich
from lenet.results import Row
from lenet.vocabulary import Mode
from tests.report.tables.examples import measured, render

ENERGY = Energy("RAPL (package-0, dram)", joules=1234.5, seconds=1.002, images=1_000_000, idle_watts=100.4)


def rows() -> list[Row]:
    seconds = {"pytorch": 3e-3, "onnxruntime-cudagraph": 12.345e-3, "fused": 0.0123e-3}
    found = [
        measured(name, mode, median, memory=None if mode is Mode.FORWARD else "pinned")
        for name, median in seconds.items()
        for mode in (Mode.FORWARD, Mode.END_TO_END)
    ]
    return [
        replace(row, energy=ENERGY, unstable=("why",), peak_memory_bytes=2**34, max_abs_delta=1e-5) for row in found
    ]


def gate(monkeypatch: pytest.MonkeyPatch) -> RenderableType:
    row = {"name": "onnxruntime-cudagraph e2e pageable fp16x2 10000 uint8", "base": 0.0123456, "head": 0.0234567}
    row |= {"ratio": 1.10123, "low": 1.0923, "high": 1.1123, "pairs": 100, "again": SimpleNamespace(pairs=100)}
    outcome: Any = SimpleNamespace(
        verdict="INCONCLUSIVE", reason="why", rows=[SimpleNamespace(**row, verdict="INCONCLUSIVE")]
    )
    monkeypatch.setattr(report, "summary", lambda _: [])
    return to_rich(report.sheet(outcome))


def test_tables_fit_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    for what in brief(rows()), details(rows()), gate(monkeypatch):
        text = render(what, 80)
        assert max(map(len, text.splitlines())) <= 80, text
    assert "0.0123 !" in render(brief(rows()), 80)
    assert "1.23" in render(brief(rows()), 80), "joules"
    assert "100 + 100 INCONCLUSIVE" in render(gate(monkeypatch), 80)
