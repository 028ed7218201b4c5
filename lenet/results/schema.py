"""Check each field of a file of measurements, so that a damaged file is refused before anything uses it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from lenet.results import checks
from lenet.vocabulary import HostMemory, Mode

__all__ = ["check"]


def check(document: Mapping[str, Any]) -> None:
    """Check every field that this package or pytest-benchmark reads from a file of measurements.

    Args:
        document: The file's content.

    Raises:
        ValueError: A field is missing or wrong. The message names it.
    """
    _DOCUMENT(document, "")


def _folder(value: Any, name: str) -> None:
    checks.text(value, name)
    checks.want(re.fullmatch(r"\w[\w.+-]*", value), value, name, "a text that can name a folder")


def _mode(value: Any, name: str) -> None:
    checks.want(value in list(Mode), value, name, " or ".join(Mode))


_STATS: Final = checks.fields(
    {
        **dict.fromkeys(
            ("min", "max", "mean", "median", "q1", "q3", "iqr", "stddev", "ld15iqr", "hd15iqr"), checks.REAL
        ),
        **dict.fromkeys(("rounds", "iterations"), checks.count(0)),
        "outliers": checks.text,
    },
    {"ops": checks.REAL, "data": checks.or_none(checks.each(checks.REAL))},
)
"""What pytest-benchmark reads for its table, histogram and ``--benchmark-compare-fail``."""


def _memory(value: Any, name: str) -> None:
    checks.want(value in list(HostMemory), value, name, " or ".join(HostMemory))


def _no_memory(value: Any, name: str) -> None:
    checks.want(value is None, value, name, "null, in a forward row")


_CASES: Final = {
    mode: checks.fields(
        {
            **dict.fromkeys(("backend", "asked", "precision", "device", "images", "protocol"), checks.text),
            "batch_size": checks.count(1),
            "host_memory": memory,
            "cold_cache": checks.flag,
        },
        {"input": checks.text, **dict.fromkeys(("threads", "depth"), checks.or_none(checks.count(1)))},
    )
    for mode, memory in {
        Mode.FORWARD: _no_memory,
        Mode.END_TO_END: _memory,
        Mode.THROUGHPUT: checks.or_none(_memory),
    }.items()
}
_MODE: Final = checks.fields({"mode": _mode})


def _case(value: Any, name: str) -> None:
    """A case. A forward row has no host memory, since its images are on the device; nor has throughput on a CPU."""
    _MODE(value, name)
    _CASES[Mode(value["mode"])](value, name)


_ROW: Final = checks.fields(
    {
        "case": _case,
        "summary": checks.fields(
            {
                "rounds": checks.count(0),
                **dict.fromkeys(("median", "mean", "minimum", "maximum", "p95", "p99"), checks.TIME),
                **dict.fromkeys(("stddev", "iqr"), checks.SIZE),
                **dict.fromkeys(("median_low", "median_high"), checks.or_none(checks.TIME)),
                **dict.fromkeys(("coverage", "relative_half_width"), checks.or_none(checks.SIZE)),
                "autocorrelation": checks.REAL,
            }
        ),
        "wall_median": checks.or_none(checks.TIME),
        "peak_memory_bytes": checks.or_none(checks.count(0)),
        "throttled": checks.count(0),
        "unstable": checks.each(checks.text),
        "facts": checks.mapping,
    },
    {
        "floor": checks.or_none(checks.fields({"seconds": checks.TIME, "term": checks.text})),
        **dict.fromkeys(("max_abs_delta", "share_of_tolerance"), checks.or_none(checks.SIZE)),
        "weights": checks.or_none(checks.text),
        "energy": checks.or_none(
            checks.fields(
                {
                    "counter": checks.text,
                    "joules": checks.number("a positive number of joules", checks.LEAST),
                    "seconds": checks.TIME,
                    "images": checks.count(1),
                    "idle_watts": checks.SIZE,
                }
            )
        ),
        "energy_missing": checks.or_none(checks.text),
        "throughput": checks.fields(
            {"depth": checks.count(1), **dict.fromkeys(("latency_p50", "latency_p95", "latency_p99"), checks.TIME)},
            dict.fromkeys(("copy_alone", "forward_alone"), checks.or_none(checks.TIME)),
        ),
    },
)
_SUSTAINED: Final = checks.fields({"throughput": checks.mapping})
"""What a throughput row must have."""


def _benchmark(value: Any, name: str) -> None:
    """An entry of pytest-benchmark, with the suite's additions if it is an inference row."""
    checks.fields(
        {"name": checks.text, "fullname": checks.text, "stats": _STATS}, {"extra_info": checks.or_none(checks.mapping)}
    )(value, name)
    info = value.get("extra_info") or {}
    if "case" in info:
        _ROW(info, f"{name}.extra_info")
        if info["case"]["mode"] == Mode.THROUGHPUT:
            _SUSTAINED(info, f"{name}.extra_info")
        checks.each(checks.TIME)(value["stats"].get("data") or [], f"{name}.stats.data")


def _pair(value: Any, name: str) -> None:
    checks.want(isinstance(value, list) and len(value) == 2, value, name, "a size and a rate")  # noqa: PLR2004 - as it says
    for place, inner in enumerate((checks.count(1), checks.RATE)):
        inner(value[place], f"{name}[{place}]")


def _copy(value: Any, name: str) -> None:
    checks.by_name(checks.each(_pair, least=1))(value, name)
    checks.want(
        not value or value.keys() == {HostMemory.PINNED, HostMemory.PAGEABLE},
        value,
        name,
        "the rates of pinned and of pageable memory",
    )


_DOCUMENT: Final = checks.fields(
    {
        "lenet": checks.fields(
            {
                "kind": _folder,
                "fingerprint": checks.text,
                "partial": checks.flag,
                "not_run": checks.each(checks.fields({"name": checks.text, "reason": checks.text})),
            },
            {
                "regressed": checks.each(checks.text),
                "cause": checks.or_none(checks.text),
                "weights": checks.or_none(
                    checks.fields(
                        {"file": checks.text, "digest": checks.text}, {"accuracy": checks.or_none(checks.SIZE)}
                    )
                ),
                "limits": checks.or_none(
                    checks.fields(
                        {
                            "arithmetic": checks.by_name(checks.RATE),
                            "memory": checks.each(_pair, least=1),
                            "copy": _copy,
                            "launch": checks.TIME,
                            "launch_wall": checks.TIME,
                        }
                    )
                ),
            },
        ),
        "machine_info": checks.fields(
            {},
            {
                **dict.fromkeys(
                    ("cpu", "gpu", "cuda", "system", "python", "torch", "packages"), checks.or_none(checks.mapping)
                ),
                "commit": checks.or_none(checks.text),
            },
        ),
        "datetime": checks.moment,
        "benchmarks": checks.each(_benchmark),
    }
)
