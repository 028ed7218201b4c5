"""Which rows can be compared or put together. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Final

from lenet.errors import ResultsError
from lenet.measurement.environment import describe_difference
from lenet.results.case import Case, Measurement, NotRun, Row
from lenet.vocabulary import BASELINE_BACKEND, HostMemory

__all__ = ["Matching", "find_row", "match", "merge", "not_run", "pytorch_row", "speedup"]

_COMPARED: Final = tuple(one.name for one in fields(Case) if one.compare)
_DIGEST: Final = 64
"""Length of a SHA-256 in hexadecimal."""


def merge(measurements: Sequence[Measurement]) -> tuple[Row, ...]:
    """The rows of several runs of one machine and commit. Of rows with one case, the later run's.

    Raises:
        ResultsError: The runs are of different machines or commits, or of unknown sources, which may differ.
    """
    return tuple(found for found, _ in merge_with_runs(measurements))


def merge_with_runs(measurements: Sequence[Measurement]) -> list[tuple[Row, Measurement]]:
    """Each row of `merge`, with its run."""
    first, *others = measurements
    for other in others:
        if other.fingerprint != first.fingerprint:
            differences = describe_difference(first.machine, other.machine)
            clocks = f"fingerprint: {first.fingerprint}, not {other.fingerprint}"
            raise _unlike(first, other, "; ".join(differences) or clocks)
        if other.commit != first.commit:
            raise _unlike(first, other, f"commit: {first.commit}, not {other.commit}")
        if other.of_unknown_sources and other.path.resolve() != first.path.resolve():
            raise _unlike(first, other, f"commit: {other.commit or 'unknown'}, which may be another in each")
    rows: dict[Case, tuple[Row, Measurement]] = {}
    for measurement in sorted(measurements, key=lambda one: one.ended):
        rows |= {found.case: (found, measurement) for found in measurement.rows}
    return list(rows.values())


def not_run(measurements: Iterable[Measurement]) -> tuple[NotRun, ...]:
    """The cases that some runs did not measure, and that no later run measured. Each has its latest reason."""
    found: dict[str, NotRun] = {}
    for measurement in sorted(measurements, key=lambda one: one.ended):
        found |= {item.name: item for item in measurement.not_run}
        found = {name: item for name, item in found.items() if name not in measurement.measured}
    return tuple(found.values())


@dataclass(frozen=True, slots=True)
class Matching:
    """What a run and its baseline have in common.

    Attributes:
        alike: By the name of a benchmark of the run, the name of the baseline's that measured the same.
        unlike: By the name of a benchmark of the run, how its conditions differ from the baseline's.
        new: Benchmarks that only the run has.
        gone: Benchmarks that only the baseline has.
    """

    alike: Mapping[str, str]
    unlike: Mapping[str, str] = field(default_factory=dict)
    new: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


def match(ours: Mapping[str, Case | None], theirs: Mapping[str, Case | None]) -> Matching:
    """Find what can be compared. Inference rows match by case, other benchmarks by name.

    Args:
        ours: The case of each benchmark of the run, by name. None if it is not an inference row.
        theirs: The same of the baseline.
    """
    by_case = {case.with_weights(): name for name, case in theirs.items() if case is not None}
    alike: dict[str, str] = {}
    for name, case in ours.items():
        if case is None:
            if name in theirs and theirs[name] is None:
                alike[name] = name
        elif case.with_weights() in by_case:
            alike[name] = by_case[case.with_weights()]
    left = {name: case for name, case in theirs.items() if case is not None and name not in alike.values()}
    by_place = {_place(case): name for name, case in left.items()}
    unlike: dict[str, str] = {}
    near = set()
    for name, case in ours.items():
        if case is not None and name not in alike and (other := by_place.get(_place(case))) is not None:
            near.add(other)
            unlike[name] = _differences(case, left[other])
    new = tuple(name for name in ours if name not in alike and name not in unlike)
    met = near | set(alike.values())
    return Matching(alike, unlike, new, tuple(name for name in theirs if name not in met))


def _place(case: Case) -> tuple[object, ...]:
    """What the options call a row. The rest of a case are its conditions."""
    return (case.backend, case.mode, case.asked, case.batch_size, case.host_memory, case.input, case.depth)


def _differences(ours: Case, theirs: Case) -> str:
    here, there = ours.with_weights(), theirs.with_weights()
    pairs = {name: (getattr(here, name), getattr(there, name)) for name in _COMPARED}
    unlike = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    return ", ".join(f"{name} {_shown(own)}, not {_shown(other)}" for name, (own, other) in unlike.items())


def _shown(value: object) -> str:
    """A field's value; a digest by its first 12 digits."""
    text = str(value)
    return text[:12] if len(text) == _DIGEST else text


def find_row(rows: Iterable[Row], backend: str, like: Row) -> Row | None:
    """The row of a backend under the same conditions as another row."""
    wanted = like.case.conditions()
    return next((one for one in rows if one.case.backend == backend and one.case.conditions() == wanted), None)


def speedup(found: Row, rows: Iterable[Row]) -> float | None:
    """How many times faster a row is than its `pytorch_row`, or None without such a row."""
    baseline = pytorch_row(found, rows)
    return baseline.summary.median / found.summary.median if baseline else None


def pytorch_row(found: Row, rows: Iterable[Row]) -> Row | None:
    """PyTorch's row under the same conditions as another row.

    A zero-copy row is compared with PyTorch's row from pinned memory, since PyTorch copies its images.
    """
    like = replace(found, case=replace(found.case, host_memory=HostMemory.PINNED)) if found.case.zero_copy else found
    return find_row(rows, BASELINE_BACKEND, like)


def _unlike(one: Measurement, other: Measurement, difference: str) -> ResultsError:
    return ResultsError(
        f"{one.path} and {other.path} cannot be put together",
        found=difference,
        wanted="runs of one machine and one commit",
        hint="print them one at a time",
    )
