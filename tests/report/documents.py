"""Files of the kinds that a report is made from, with times that a formula gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pytest_benchmark.stats import Stats

from lenet.measurement.floor import Limits, floor
from lenet.measurement.statistics import summarize
from lenet.results import SCHEMA, Case, Throughput
from lenet.vocabulary import ONE_BATCH_MODES, Mode

LIMITS = Limits(
    arithmetic={"fp32": 2e12, "fp16": 4e12},
    memory=((2**20, 4e11), (2**28, 2e11)),
    copy={"pinned": ((2**20, 2e10), (2**26, 2.4e10)), "pageable": ((2**20, 5e9),)},
    launch=2e-6,
    launch_wall=8e-6,
)
WEIGHTS = "5eed" * 16
"""The digest of the measured weights."""
BACKENDS = ("pytorch", "pytorch-compile", "onnxruntime", "tensorrt", "tripy")


def ten_baselines(folder: Path) -> list[Path]:
    """The largest report that is promised to be quick and small: ten files of a hundred rows."""
    return [
        measurement(
            folder / f"many{number}.json",
            backends=BACKENDS,
            batches=(1, 10, 100, 1000, 10_000),
            precisions=("fp32", "fp16"),
            number=number,
        )
        for number in range(10)
    ]


def change(path: Path, place: Sequence[str | int], value: object) -> None:
    """Give a file of JSON another value at a place, or none for `KeyError`."""
    node = document = json.loads(path.read_text())
    for name in place[:-1]:
        node = node[name]
    if value is KeyError:
        del node[place[-1]]
    else:
        node[place[-1]] = value
    path.write_text(json.dumps(document))


def benchmark(case: Case, median: float, rounds: int = 100) -> dict[str, Any]:
    """A row as the suite stores it, its rounds spread by a few per cent around the median."""
    seconds = [median * (1 + 0.04 * ((7 * one) % rounds / rounds - 0.5)) for one in range(rounds)]
    facts: dict[str, Any] = {"case": asdict(case), "summary": summarize(seconds).as_dict(), "wall_median": None}
    least = floor(case.workload, LIMITS)
    facts["floor"] = asdict(least) if least else None
    more: dict[str, Any] = {"peak_memory_bytes": None, "throttled": 0, "unstable": [], "facts": {}}
    more["weights"] = WEIGHTS
    if case.depth is not None:
        more["throughput"] = asdict(
            Throughput(case.depth, 3 * median, 4 * median, 5 * median, 0.9 * median, 0.5 * median)
        )
    name = {"name": "test_inference", "fullname": "benchmarks/test_inference.py::test_inference"}
    return {**name, "stats": stats(seconds), "extra_info": facts | more}


def stats(seconds: Sequence[float]) -> dict[str, Any]:
    """What pytest-benchmark stores of rounds."""
    found = Stats()
    for one in seconds:
        found.update(one)
    return {**found.as_dict(), "iterations": 1, "data": list(seconds)}


def measurement(
    path: Path,
    *,
    backends: Sequence[str] = BACKENDS[:2],
    batches: Sequence[int] = (1000,),
    precisions: Sequence[str] = ("fp32",),
    number: int = 0,
    name: str = "A GPU",
    fingerprint: str = "f1",
    rounds: int = 100,
    modes: Sequence[Mode] = ONE_BATCH_MODES,
    **changed: Any,
) -> Path:
    """A file of measurements: each backend at each batch and precision, in each mode."""
    rows = []
    for place, backend in enumerate(backends):
        for precision in precisions:
            for batch in batches:
                for mode in modes:
                    memory = None if mode is Mode.FORWARD else "pinned"
                    case = Case(backend, mode, precision, precision, batch, name, "images", memory, False, "coursework")  # noqa: FBT003
                    case = replace(case, depth=3 if mode is Mode.THROUGHPUT else None)
                    median = (2e-5 + 1e-6 * batch) * (2 - 0.3 * place) * (2 if memory else 1) * (1 + 0.01 * number)
                    rows.append(benchmark(case, median, rounds))
    facts = {"cpu": {"model": "a CPU", "usable": 8}, "gpu": {"name": name}, "packages": {"torch": "2"}}
    about = {"schema": SCHEMA, "kind": "a-gpu", "fingerprint": fingerprint, "partial": False, "not_run": []}
    weights = {"file": "weights.safetensors", "digest": WEIGHTS, "accuracy": 0.7223}
    document = {
        "lenet": about | {"limits": LIMITS.to_json(), "weights": weights},
        "machine_info": facts | {"commit": f"{number + 1:07x}" + "0" * 33},
        "datetime": f"2026-11-{number + 1:02}T00:00:00+00:00",
        "benchmarks": rows,
    }
    path.write_text(json.dumps(document | changed))
    return path


def run_directory(path: Path, epochs: int = 3) -> Path:
    """A finished training run."""
    path.mkdir()
    recipe: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": 200,
        "learning_rate": 0.05,
        "momentum": 0.9,
        "weight_decay": 5e-4,
    }
    recipe |= {"milestones": [30, 45], "decay": 0.1, "padding": 4, "seed": 0}
    facts = {"recipe": recipe, "versions": {"torch": "2"}, "device": "CPU, 2 threads", "commit": None}
    times = {"training_seconds": 1.5, "images_an_epoch": 50_000}
    (path / "run.json").write_text(json.dumps(facts | {"times": times}))
    lines = [f"{one},{2 / one},{1.9 / one},{0.1 * one},{0.11 * one}" for one in range(1, epochs + 1)]
    head = "epoch,train_loss,test_loss,train_accuracy,test_accuracy"
    (path / "history.csv").write_text("\n".join([head, *lines, ""]))
    return path


def parity(path: Path) -> Path:
    """What ``lenet evaluate --backend all --json`` prints."""
    line = {"backend": "pytorch", "precision": "fp32", "device": "cpu", "loss": 0.7997119, "accuracy": 0.7223}
    line |= {"delta_loss": None, "delta_accuracy": None, "max_abs_delta": 9.5e-6, "share_of_tolerance": 0.11}
    line |= {"right": True, "images": 10_000, "diverging_layer": None}
    document = {"images": 10_000, "backends": [line], "not_run": {"tensorrt": "tensorrt is not installed"}}
    path.write_text(json.dumps(document))
    return path


def gate(path: Path, *rows: dict[str, Any], number: int = 0, **changed: Any) -> Path:
    """A ``gate.json``, by default of one row that became slower; of others what ``number`` differs in."""
    rows = rows or (gate_row(),)
    document = {
        "schema": 2,
        "verdict": "FAIL",
        "reason": "1 row is slower",
        "started": f"2026-11-{number + 1:02}T07:00:00Z",
        "rows": list(rows),
        "not_run": {},
        "commits": {"base": "b" * 40, "head": f"{number:x}" * 40, "reference": "main"},
        "fingerprint": "f1",
        "machine": {"cpu": {"model": "a CPU"}, "gpu": {"name": "A GPU"}},
        "stopped": None,
    }
    path.write_text(json.dumps(document | changed))
    return path


def gate_row(**changed: Any) -> dict[str, Any]:
    """A row of a gate: slower by a tenth, and profiled."""
    differences = [
        {"what": "conv1", "base": 1e-5, "head": 2.8e-5, "note": "3 calls, 2 in base"},
        {"what": "copy", "base": None, "head": 1e-6, "note": ""},
    ]
    row = {"name": "pytorch forward fp32 1", "verdict": "FAIL", "reason": "slower by more than 1 %", "pairs": 20}
    row |= {"base": 1e-3, "head": 1.1e-3, "ratio": 1.1, "low": 1.08, "high": None, "again": None, "accepted": None}
    return row | {"why": {"line": "conv1: +18.0 us", "differences": differences}} | changed
