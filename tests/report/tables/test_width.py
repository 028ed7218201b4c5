"""Tables of long names and marked values fit a terminal of 80 columns."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import RenderableType

from lenet.gate import report
from lenet.measurement.energy import Energy
from lenet.report.tables import backends_table, brief, details, doctor_table, parity_table, tight, to_rich
from lenet.results import Row
from lenet.suite import baseline
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


LONGEST = "onnxruntime-cudagraph"
NIGHTLY = "2.15.0.dev20261129+cu130"


def parity() -> RenderableType:
    right: dict[str, Any] = {"backend": LONGEST, "precision": "fp16x2", "loss": 12.7997119, "accuracy": 0.7223}
    right |= {"delta_loss": 5.2e-9, "delta_accuracy": 1e-4, "max_abs_delta": 9.5e-6, "share_of_tolerance": 0.00123}
    right |= {"images": 10_000, "right": True, "diverging_layer": None}
    huge = right | {"loss": 1.23e20, "max_abs_delta": 1e20, "share_of_tolerance": 1e20, "right": False}
    infinite = huge | {"loss": None, "max_abs_delta": None, "share_of_tolerance": None, "reason": "they are not finite"}
    return parity_table([right, huge, infinite | {"diverging_layer": "conv1"}], {LONGEST: "no GPU"}, "x" * 40)


def doctor() -> RenderableType:
    steps = [{"name": name, "passed": True, "seconds": 99.9, "message": ""} for name in ("import", "build", "run")]
    line = {"backend": LONGEST, "version": NIGHTLY, "precision": "fp16x2", "passed": True, "steps": steps}
    return doctor_table({"torch": NIGHTLY}, [line])


def listed() -> RenderableType:
    line = {"name": LONGEST, "version": NIGHTLY, "summary": "its own CUDA graph, and nothing " * 4, "reason": None}
    return backends_table([line], probed=True)


def compared() -> RenderableType:
    name = "onnxruntime-cudagraph (fp16x2) e2e pageable fp16x2 10000 uint8 cold 16 threads depth 16 adaptive"
    one: Any = SimpleNamespace(name=name, label=name, field="median", then=0.0123, now=0.1234, unstable=True)
    one.distinct, one.change = True, 9.033
    run: Any = SimpleNamespace(compared=[one], baseline="0001_before.json", rules=("why",), regressed={name: "why"})
    sheet = baseline.sheet(run)
    assert sheet is not None
    return tight(sheet)


def test_tables_of_backends_fit_80_columns_and_lose_nothing() -> None:
    for what in parity(), doctor(), listed(), compared():
        text = render(what, 80)
        assert max(map(len, text.splitlines())) <= 80, text
        assert "…" not in text
    assert LONGEST in render(parity(), 120).partition("Not run")[0], "where there is room a name stays whole"
    words = render(parity(), 80).split()
    for shown in ("onnxruntime-", "cudagraph", "1.23e+20", "12.7997119", "0.0012", "finite", "conv1"):
        assert shown in words
    assert NIGHTLY in render(doctor(), 80)
    assert "+903.3 % !" in render(compared(), 80)


def test_a_command_that_a_table_names_stays_in_one_line() -> None:
    command = "python -m pip install " + "something " * 9
    line: dict[str, Any] = {
        "name": LONGEST,
        "version": None,
        "summary": "",
        "reason": command,
        "backend": LONGEST,
        "precision": None,
    }
    step = {"name": "import", "passed": False, "seconds": 0.0, "message": ""}
    line |= {"passed": False, "steps": [step], "advice": command, "log": []}
    for what in backends_table([line], probed=False), doctor_table({}, [line]):
        assert command in render(what, 80)


def test_tables_fit_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    for what in brief(rows()), details(rows()), gate(monkeypatch):
        text = render(what, 80)
        assert max(map(len, text.splitlines())) <= 80, text
    assert "0.0123 !" in render(brief(rows()), 80)
    assert "1.23" in render(brief(rows()), 80), "joules"
    assert "100 + 100 INCONCLUSIVE" in render(gate(monkeypatch), 80)
