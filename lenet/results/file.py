"""Read files of measurements. No torch here.

A file is pytest-benchmark's JSON, with times as ``stats`` in seconds a batch. The suite adds:

- ``lenet``: the schema, the kind of machine, the fingerprint, the limits, the protocol, the weights, and whether the
  run was interrupted;
- ``machine_info``: the machine's facts;
- ``extra_info`` of each row: the row's own facts.

Schemas:

1. 2026-11: the first.
2. 2026-11: adds a case's input type, zero-copy as a host memory, the machine's limits and each row's floor. Files of
   schema 1 are read as float32 without limits.
3. 2026-11: a GPU's stream is held back until a forward row's call is queued, so that times do not hold the host's
   launches. Older files of a GPU are refused, since no row says which time it holds. Those of a CPU are read.
4. 2026-11: a GPU's forward times are without the clock's tare, about a microsecond. A GPU's files of schema 3 are read,
   but `identity` keeps them apart from newer ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from lenet import documents
from lenet.errors import ResultsError
from lenet.files import read_regular, reading_remedy
from lenet.measurement.energy import Energy
from lenet.measurement.floor import Floor, Limits, moved_bytes
from lenet.measurement.summary import Summary
from lenet.results import schema
from lenet.results.case import Case, Measurement, NotRun, Row, Throughput, short_name

__all__ = ["LARGEST", "SCHEMA", "identity", "load", "row"]

SCHEMA: Final = 4


LARGEST: Final = 2**28
"""The most bytes of a file of measurements, and of other files for a report."""


_READABLE: Final = (1, 2, 3, 4)


_READABLE_OF_A_GPU: Final = (3, 4)


_SAME_CLOCK_OF_A_GPU: Final = (4,)


def load(path: Path) -> Measurement:
    """Read a file of measurements.

    Raises:
        ResultsError: The file cannot be read, is not of this suite, or has a schema that cannot be read.
    """
    try:
        document = documents.parse(read_regular(path, LARGEST).decode())
    except OSError as error:
        hint = reading_remedy(error, "leave it out: `lenet results` alone takes this machine's latest")
        raise _unreadable(path, error.strerror or str(error), hint) from error
    except ValueError as error:
        raise _unreadable(path, f"no whole JSON document: {error}") from error
    if not isinstance(document, dict) or not isinstance(about := document.get("lenet"), dict):
        raise _unreadable(path, "no part 'lenet': it is not of this suite")
    readable = _READABLE_OF_A_GPU if _of_a_gpu(document) else _READABLE
    if isinstance(about.get("schema"), bool) or about.get("schema") not in readable:  # in Python, True == 1
        raise ResultsError(
            f"{path} cannot be read",
            found=f"schema {about.get('schema')}",
            wanted=f"schema {' or '.join(map(str, readable))}",
            hint="measure again with this version, or read the file with the version that wrote it",
        )
    try:
        schema.check(document)
        rows = tuple(found for found in map(row, document["benchmarks"]) if found is not None)
        for one in rows:
            if one.floor:
                moved_bytes(one.case.workload)  # raises for an unknown precision or input type
        found = Measurement(
            path=path,
            kind=about["kind"],
            fingerprint=identity(document),
            machine=document["machine_info"],
            commit=document["machine_info"].get("commit"),
            date=document["datetime"],
            partial=about["partial"],
            rows=rows,
            not_run=tuple(NotRun(item["name"], item["reason"]) for item in about["not_run"]),
            limits=Limits.from_json(about["limits"]) if about.get("limits") else None,
            regressed=tuple(about.get("regressed", ())),
            measured=frozenset(short_name(benchmark["name"]) for benchmark in document["benchmarks"]),
            accuracy=(about.get("weights") or {}).get("accuracy"),
            cause=about.get("cause"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(path, f"a part is missing or misshapen: {error}") from error
    return found


def identity(document: Mapping[str, Any]) -> str:
    """The fingerprint of a file's machine and clock. Two files can be compared if it is the same.

    Args:
        document: The content of a file of measurements.

    Returns:
        The machine's fingerprint. The schema is added if it timed such a machine with another clock.
    """
    about = document["lenet"]
    fingerprint: str = about["fingerprint"]
    if _of_a_gpu(document) and about["schema"] not in _SAME_CLOCK_OF_A_GPU:
        return f"{fingerprint} by the clock of schema {about['schema']}"
    return fingerprint


def _of_a_gpu(document: Mapping[str, Any]) -> bool:
    facts = document.get("machine_info")
    return isinstance(facts, dict) and bool(facts.get("gpu"))


def row(benchmark: Mapping[str, Any]) -> Row | None:
    """The row of one entry of pytest-benchmark's ``benchmarks``, or None if that is not an inference row.

    Raises:
        KeyError: A field is missing.
    """
    info = benchmark.get("extra_info") or {}
    if "case" not in info:
        return None
    samples = benchmark["stats"].get("data")
    return Row(
        case=Case.from_dict({**info["case"], "weights": info.get("weights")}),
        summary=Summary.from_dict(info["summary"]),
        wall_median=info["wall_median"],
        peak_memory_bytes=info["peak_memory_bytes"],
        throttled=info["throttled"],
        unstable=tuple(info["unstable"]),
        facts=info["facts"],
        samples=tuple(samples) if samples else None,
        floor=Floor(**info["floor"]) if info.get("floor") else None,
        max_abs_delta=info.get("max_abs_delta"),
        share_of_tolerance=info.get("share_of_tolerance"),
        energy=Energy.from_json(info["energy"]) if info.get("energy") else None,
        energy_missing=info.get("energy_missing"),
        throughput=Throughput.from_dict(info["throughput"]) if "throughput" in info else None,
    )


def _unreadable(path: Path, found: str, hint: str = "delete it, or name another file") -> ResultsError:
    schemas, of_a_gpu = (f"{min(one)} to {max(one)}" for one in (_READABLE, _READABLE_OF_A_GPU))
    return ResultsError(
        f"{path} cannot be read",
        found=found,
        wanted=f"a file that `pytest benchmarks` saved, schema {schemas}, of a GPU {of_a_gpu}",
        hint=hint,
    )
