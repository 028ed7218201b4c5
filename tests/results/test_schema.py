"""Every field of a file of measurements, one at a time: what it is refused for, by name, and what it may be."""

from __future__ import annotations

import json
import math
import re
import reprlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from lenet import results
from lenet.errors import ResultsError
from lenet.measurement.energy import Energy
from lenet.results import Throughput
from lenet.vocabulary import HostMemory, Mode
from tests.report.documents import LIMITS
from tests.results.test_results import document, entry, save

LEAST, MOST = 1e-15, 1e30
"""No clock gives less than the one, or the other or more."""
SHORTER, SHORT_OF_MOST = math.nextafter(LEAST, 0), math.nextafter(MOST, 0)

ROW, STATS, LIMITS_AT = "benchmarks[0].extra_info", "benchmarks[0].stats", "lenet.limits"
PARTS = [f"machine_info.{name}" for name in ("cpu", "gpu", "cuda", "system", "python", "torch", "packages")]
INTERVAL = [f"{ROW}.summary.{name}" for name in ("median_low", "median_high")]
WIDTH = [f"{ROW}.summary.{name}" for name in ("coverage", "relative_half_width")]
ERRORS = [f"{ROW}.{name}" for name in ("max_abs_delta", "share_of_tolerance")]
FIELDS: list[tuple[str, list[Any], list[Any], list[str]]] = [
    (
        "a positive number of seconds",
        [-1.0, 0, SHORTER, MOST, 10**400, "1", True, []],
        [LEAST, 1, SHORT_OF_MOST],
        [
            *(f"{ROW}.summary.{name}" for name in ("median", "mean", "minimum", "maximum", "p95", "p99")),
            *INTERVAL,
            *(f"{ROW}.{name}" for name in ("wall_median", "floor.seconds", "energy.seconds")),
            *(f"{ROW}.throughput.latency_{name}" for name in ("p50", "p95", "p99")),
            *(f"{ROW}.throughput.{name}_alone" for name in ("copy", "forward")),
            *(f"{LIMITS_AT}.{name}" for name in ("launch", "launch_wall")),
        ],
    ),
    ("a positive number of joules", [-1.0, 0, MOST, "1", True], [LEAST, 1], [f"{ROW}.energy.joules"]),
    (
        "a positive rate",
        [-1.0, 0, SHORTER, MOST, "1", True],
        [LEAST, 1, SHORT_OF_MOST],
        [f"{LIMITS_AT}.{name}" for name in ("arithmetic.fp32", "memory[0][1]", "copy.pinned[0][1]")],
    ),
    (
        "a number of at least 0",
        [-1e-9, MOST, "1", True],
        [0, 0.5],
        [f"{ROW}.summary.stddev", f"{ROW}.summary.iqr", f"{ROW}.energy.idle_watts", *WIDTH, *ERRORS],
    ),
    (
        "a finite number",
        [-2e30, MOST, "1", True],
        [-MOST, 0, SHORT_OF_MOST],
        [
            f"{ROW}.summary.autocorrelation",
            *(f"{STATS}.{name}" for name in ("min", "max", "mean", "median", "q1", "q3")),
            *(f"{STATS}.{name}" for name in ("iqr", "stddev", "ld15iqr", "hd15iqr", "ops")),
        ],
    ),
    ("a finite number", [MOST, "1"], [LEAST], [f"{STATS}.data[1]"]),
    ("a positive number of seconds", [-1.0, 0, SHORTER], [], [f"{STATS}.data[1]"]),
    (
        "a whole number of at least 1",
        [0, 1.5, "7", True, int(MOST)],
        [1, 2],
        [
            *(f"{ROW}.case.{name}" for name in ("batch_size", "threads", "depth")),
            *(f"{ROW}.energy.images", f"{ROW}.throughput.depth", f"{LIMITS_AT}.memory[0][0]"),
        ],
    ),
    (
        "a whole number of at least 0",
        [-1, 1.5, "7", True, int(MOST)],
        [0, 1],
        [
            *(f"{ROW}.{name}" for name in ("summary.rounds", "throttled", "peak_memory_bytes")),
            *(f"{STATS}.{name}" for name in ("rounds", "iterations")),
        ],
    ),
    (
        "a text",
        [7, True, [], {}],
        [],
        [
            *(f"{ROW}.case.{name}" for name in ("backend", "asked", "precision", "device", "images", "protocol")),
            *(
                f"{ROW}.{name}"
                for name in ("case.input", "unstable[0]", "floor.term", "energy.counter", "energy_missing")
            ),
            *(f"benchmarks[0].{name}" for name in ("name", "fullname", "stats.outliers")),
            *(f"lenet.{name}" for name in ("kind", "fingerprint", "not_run[0].name", "not_run[0].reason")),
            *("lenet.regressed[0]", "lenet.cause", "machine_info.commit", "datetime"),
        ],
    ),
    (
        "a text that can name a folder",
        ["", "-x", "a b", "a/b", "../a", ".x", "..", "x\n"],
        ["gpu_y-2.0+cu12", "7"],
        ["lenet.kind"],
    ),
    ("a date by ISO 8601", ["", "yesterday", "2026-13-01"], ["2026-11-24"], ["datetime"]),
    ("true or false", [0, 1, "no"], [True, False], [f"{ROW}.case.cold_cache", "lenet.partial"]),
    ("forward or end_to_end or throughput", ["", "backward", 7, []], [Mode.FORWARD], [f"{ROW}.case.mode"]),
    (
        "an object",
        [7, "x", [], ["x"]],
        [],
        [
            *(
                "benchmarks[0]",
                STATS,
                ROW,
                *(f"{ROW}.{name}" for name in ("case", "summary", "floor", "energy", "throughput")),
            ),
            *(LIMITS_AT, f"{LIMITS_AT}.arithmetic", f"{LIMITS_AT}.copy", "lenet.not_run[0]", "machine_info"),
        ],
    ),
    ("an object", [7, "x", [], ["x"]], [{}], [f"{ROW}.facts", *PARTS]),
    (
        "a list",
        [7, "x", {}],
        [[]],
        ["benchmarks", "lenet.not_run", "lenet.regressed", f"{ROW}.unstable", f"{STATS}.data"],
    ),
    (
        "a list of at least 1",
        [7, "x", {}, []],
        [[[1, 1.0]]],
        [f"{LIMITS_AT}.{name}" for name in ("memory", "copy.pinned", "copy.pageable")],
    ),
    ("a size and a rate", [7, "xy", [], [1], [1, 2, 3]], [[1, 1.0]], [f"{LIMITS_AT}.memory[0]"]),
    (
        "the rates of pinned and of pageable memory",
        [{"pinned": [[1, 1.0]]}, {"pageable": [[1, 1.0]]}],
        [{}],
        [f"{LIMITS_AT}.copy"],
    ),
]
"""What a field holds, what it is refused for, what it may be, and the fields."""
CASES = [pytest.param(wanted, *values, place, id=f"{place}-{wanted}") for wanted, *values, at in FIELDS for place in at]
WANTED = {place: wanted for wanted, _, _, at in reversed(FIELDS) for place in at}
NONE = {
    *(*INTERVAL, *WIDTH, *ERRORS, *PARTS, ROW, LIMITS_AT, f"{STATS}.data", "machine_info.commit", "lenet.cause"),
    *(f"{ROW}.{name}" for name in ("wall_median", "peak_memory_bytes", "floor")),
    *(f"{ROW}.{name}" for name in ("energy", "energy_missing", "case.threads")),
    *(f"{ROW}.{name}" for name in ("case.depth", "throughput.copy_alone", "throughput.forward_alone")),
}
ABSENT = {
    *(*ERRORS, *PARTS, ROW, LIMITS_AT, f"{STATS}.data", f"{STATS}.ops", "machine_info.commit"),
    *(f"{ROW}.floor", f"{ROW}.case", f"{ROW}.case.input", "lenet.regressed", "lenet.cause"),
    *(f"{ROW}.{name}" for name in ("energy", "energy_missing", "case.threads")),
    *(f"{ROW}.{name}" for name in ("case.depth", "throughput", "throughput.copy_alone", "throughput.forward_alone")),
}


def of_every_field() -> dict[str, Any]:
    benchmark = entry()
    benchmark["extra_info"]["floor"] = {"seconds": 0.0005, "term": "copy"}
    benchmark["extra_info"] |= {"energy": Energy("NVML", 1000.0, 2.0, 5000, 50.0).to_json(), "energy_missing": "x"}
    benchmark["extra_info"]["case"]["threads"] = 2
    benchmark["extra_info"]["throughput"] = asdict(Throughput(3, 0.1, 0.2, 0.3, 0.4, 0.5))
    about = {"limits": LIMITS.to_json(), "not_run": [{"name": "x", "reason": "y"}], "regressed": ["z"], "cause": "c"}
    content = document(benchmark, **about)
    content["machine_info"] |= {"gpu": {"name": "a GPU"}, "cuda": {}, "torch": {}}
    found: dict[str, Any] = json.loads(json.dumps(content))
    return found


def where(content: Any, place: str) -> tuple[Any, Any]:
    """The object or list that holds a place, and its key there."""
    *above, last = [int(key) if key.isdigit() else key for key in re.findall(r"[^.\[\]]+", place)]
    for key in above:
        content = content[key]
    return content, last


def refusal(path: Path, content: Any) -> str | None:
    try:
        results.load(save(path, content))
    except ResultsError as error:
        return error.found
    return None


@pytest.mark.parametrize(("wanted", "wrong", "right", "place"), CASES)
def test_a_field_is_what_it_should_be(
    tmp_path: Path, wanted: str, wrong: list[Any], right: list[Any], place: str
) -> None:
    content = of_every_field()
    above, key = where(content, place)
    for value in wrong:
        above[key] = value
        found = refusal(tmp_path / "a.json", content)
        assert found == f"a part is missing or misshapen: {place} is {reprlib.repr(value)}, not {wanted}"
    for value in right:
        above[key] = value
        assert refusal(tmp_path / "a.json", content) is None, value


@pytest.mark.parametrize("place", WANTED)
def test_a_field_is_there(tmp_path: Path, place: str) -> None:
    content = of_every_field()
    above, key = where(content, place)
    above[key] = None
    none = f"a part is missing or misshapen: {place} is None, not {WANTED[place]}"
    assert refusal(tmp_path / "a.json", content) == (None if place in NONE else none)
    if isinstance(above, list) or place.startswith((f"{LIMITS_AT}.arithmetic.", f"{LIMITS_AT}.copy.")):
        return  # what is in it is free, but for both copies
    del above[key]
    missing = f"a part is missing or misshapen: {place} is missing"
    assert refusal(tmp_path / "a.json", content) == (None if place in ABSENT else missing)


MEMORIES = "pinned or pageable or zero-copy"
NO_MEMORY = "null, in a forward row"


@pytest.mark.parametrize(
    ("mode", "memory", "wanted"),
    [
        (Mode.FORWARD, None, None),
        (Mode.FORWARD, "pinned", NO_MEMORY),
        (Mode.FORWARD, 7, NO_MEMORY),
        (Mode.END_TO_END, None, MEMORIES),
        (Mode.END_TO_END, "elsewhere", MEMORIES),
        (Mode.END_TO_END, [], MEMORIES),
        *((Mode.END_TO_END, memory, None) for memory in HostMemory),
        (Mode.THROUGHPUT, "elsewhere", MEMORIES),
        *((Mode.THROUGHPUT, memory, None) for memory in (*HostMemory, None)),
    ],
)
def test_a_row_that_copies_has_a_host_memory(tmp_path: Path, mode: Mode, memory: object, wanted: str | None) -> None:
    content = of_every_field()
    content["benchmarks"][0]["extra_info"]["case"] |= {"mode": mode, "host_memory": memory}
    place = f"{ROW}.case.host_memory is {reprlib.repr(memory)}, not {wanted}"
    assert refusal(tmp_path / "a.json", content) == (wanted and f"a part is missing or misshapen: {place}")


def test_a_throughput_row_has_its_latencies(tmp_path: Path) -> None:
    content = of_every_field()
    content["benchmarks"][0]["extra_info"]["case"] |= {"mode": Mode.THROUGHPUT, "depth": 3}
    (row,) = results.load(save(tmp_path / "a.json", content)).rows
    assert (row.case.depth, row.throughput) == (3, Throughput(3, 0.1, 0.2, 0.3, 0.4, 0.5))
    del content["benchmarks"][0]["extra_info"]["throughput"]
    assert refusal(tmp_path / "b.json", content) == f"a part is missing or misshapen: {ROW}.throughput is missing"
