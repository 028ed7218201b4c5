"""Files of measurements: what the suite attaches to a row, and how saved files are read back. No torch here.

A file is pytest-benchmark's JSON. The suite adds ``lenet`` at its top (schema, kind of machine, fingerprint, limits,
how many rounds there were to be, whether the run was cut short), the machine's facts as ``machine_info``, and the row's
own facts as ``extra_info``; times are pytest-benchmark's ``stats``, in seconds a batch.

History of the schema:

1. 2026-11: the first.
2. 2026-11: a case has its input type, which was float32 before; ``zero-copy`` is a host memory; the machine's limits
   beside the fingerprint, and each row's floor. Files of schema 1 are read as what they are: float32, without limits.
3. 2026-11: a forward row of a GPU is timed with its stream held back until the call is queued; before, its times held
   the host's launches. Older files of a GPU are refused, for no row says which it is; those of a CPU are read.
4. 2026-11: the device times of a forward row of a GPU are without the clock's tare, about a microsecond. Files of a GPU
   of schema 3 are read, but never compared or put together with newer ones: `identity` tells them apart.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from lenet import documents
from lenet.errors import ResultsError
from lenet.files import make_directory, only_writer, read_regular, write_atomically
from lenet.measurement import schema
from lenet.measurement.environment import describe_difference
from lenet.measurement.floor import Floor, Limits, Workload, moved_bytes
from lenet.measurement.modes import Mode

__all__ = [
    "BASELINE_BACKEND",
    "FAILED",
    "LARGEST",
    "SCHEMA",
    "Case",
    "Matching",
    "Measurement",
    "NotRun",
    "Row",
    "find_file",
    "find_row",
    "identity",
    "latest",
    "load",
    "match",
    "merge",
    "newest",
    "not_run",
    "promote",
    "row",
    "short_name",
    "speedup",
    "store",
    "stored_files",
    "to_csv",
]

SCHEMA: Final = 4
LARGEST: Final = 2**28
"""Bytes of a file of measurements, or of another file that a report is made from."""
_READABLE: Final = (1, 2, 3, 4)
_READABLE_OF_A_GPU: Final = (3, 4)
_SAME_CLOCK_OF_A_GPU: Final = (4,)
FAILED: Final = "failed: "
"""What the reason of a row that failed begins with, as against one that cannot run here."""
BASELINE_BACKEND: Final = "pytorch"
_STORED_NAME: Final = re.compile(r"([0-9]{4,})_(.*)\.json", re.DOTALL)
"""A stored file's number, which has no end, and its name."""
_PATIENCE: Final = 10.0
"""Seconds to wait for another process that stores a file."""


@dataclass(frozen=True, slots=True)
class Case:
    """What a row measures.

    Attributes:
        backend: Name in the table of `lenet.backends`.
        mode: What a round covers.
        asked: The precision that was asked for.
        precision: What the backend really ran (`Backend.executed_precision`).
        batch_size: Images a batch.
        device: The GPU's name, or the CPU with its number of threads.
        images: Where the images come from.
        host_memory: ``pinned`` or ``pageable`` memory that an end-to-end row copies from, or ``zero-copy`` where the
            device reads pinned memory itself; None for a forward row.
        cold_cache: Whether the GPU's L2 cache was emptied before each round.
        protocol: How many rounds there were to be.
        input: ``float32``, normalised images, or ``uint8``, the data's bytes.
    """

    backend: str
    mode: Mode
    asked: str
    precision: str
    batch_size: int
    device: str
    images: str
    host_memory: str | None
    cold_cache: bool
    protocol: str
    input: str = "float32"

    def conditions(self) -> tuple[object, ...]:
        """What two rows must share for their times to be compared: all but the backend and the arithmetic it ran."""
        return (
            self.mode,
            self.asked,
            self.batch_size,
            self.device,
            self.images,
            self.host_memory or "",
            self.cold_cache,
            self.protocol,
            self.input,
        )

    @property
    def zero_copy(self) -> bool:
        """Whether the device reads the host's memory."""
        return self.host_memory == "zero-copy"

    @property
    def workload(self) -> Workload:
        """What its floor depends on."""
        return Workload(self.mode, self.batch_size, self.precision, self.input, self.host_memory, self.cold_cache)


@dataclass(frozen=True, slots=True)
class Row:
    """One measured case. Times are in seconds a batch.

    Attributes:
        case: What was measured.
        rounds: Timed batches that were kept.
        median: The middle time.
        mean: The arithmetic mean.
        stddev: The sample's standard deviation.
        minimum: The shortest.
        p95: The 95th percentile.
        p99: The 99th percentile.
        iqr: Distance between the quartiles.
        median_low: Lower end of the median's 95 % interval; None where there are too few rounds.
        median_high: Its upper end.
        wall_median: Median wall time of the same calls, launch included, where device time is what counts; else None.
        peak_memory_bytes: Device memory; None on a CPU, and where it could not be told.
        throttled: Rounds that were discarded because the GPU was throttled.
        unstable: Why the row may not be trusted, and what to do; empty where nothing speaks against it.
        facts: What the build says of itself, such as an engine's hash.
        samples: Every kept round, where the file has them.
        floor: The shortest time that the machine allows, where its limits were measured.
        max_abs_delta: Largest |logit - float64 reference| right before it was timed, where that was recorded.
        share_of_tolerance: Largest of these over its own tolerance, likewise.
    """

    case: Case
    rounds: int
    median: float
    mean: float
    stddev: float
    minimum: float
    p95: float
    p99: float
    iqr: float
    median_low: float | None
    median_high: float | None
    wall_median: float | None
    peak_memory_bytes: int | None
    throttled: int
    unstable: tuple[str, ...]
    facts: Mapping[str, str]
    samples: tuple[float, ...] | None = None
    floor: Floor | None = None
    max_abs_delta: float | None = None
    share_of_tolerance: float | None = None

    @property
    def milliseconds_per_batch(self) -> float:
        """The median, in milliseconds."""
        return 1e3 * self.median

    @property
    def milliseconds_per_image(self) -> float:
        """The median over the batch size, in milliseconds."""
        return 1e3 * self.median / self.case.batch_size

    @property
    def microseconds_per_image(self) -> float:
        """The median over the batch size, in microseconds."""
        return 1e6 * self.median / self.case.batch_size

    @property
    def images_per_second(self) -> float:
        """The batch size over the median."""
        return self.case.batch_size / self.median

    @property
    def times_floor(self) -> float | None:
        """The median over the floor; None where that is not known."""
        return self.median / self.floor.seconds if self.floor else None


@dataclass(frozen=True, slots=True)
class NotRun:
    """A case that was asked for and not measured.

    Attributes:
        name: The benchmark's name.
        reason: Why, for people to read.
    """

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """A file of measurements.

    Attributes:
        path: The file.
        kind: The kind of machine, which is also the name of its folder.
        fingerprint: Of the machine (`lenet.measurement.environment.fingerprint`), and of an older clock (`identity`):
            runs of one fingerprint can be compared.
        machine: Its facts.
        commit: Of the source, where it was known.
        date: When the run ended, ISO 8601.
        partial: Whether the run was interrupted, so that rows may be missing.
        rows: The rows that are cases of the suite.
        not_run: The cases that were not measured.
        measured: The names of all that was measured, as ``not_run`` has them.
        limits: The machine's, where they were measured.
        regressed: The rows that the run's own comparison found slower than its baseline.
    """

    path: Path
    kind: str
    fingerprint: str
    machine: Mapping[str, Any]
    commit: str | None
    date: str
    partial: bool
    rows: tuple[Row, ...]
    not_run: tuple[NotRun, ...]
    limits: Limits | None = None
    regressed: tuple[str, ...] = ()
    measured: frozenset[str] = frozenset()

    @property
    def of_unknown_sources(self) -> bool:
        """Whether no commit tells what ran: there is none, or files differed from it. Two such runs may be unlike."""
        return self.commit is None or self.commit.endswith("+dirty")

    @property
    def ended(self) -> datetime:
        """The date, to put runs in order; in UTC where the file does not say."""
        found = datetime.fromisoformat(self.date)
        return found if found.tzinfo else found.replace(tzinfo=UTC)

    @property
    def flaw(self) -> str | None:
        """Why nothing may be compared with it; None where it is whole and nothing in it failed."""
        if self.partial:
            return "the run was interrupted"
        failed = [item.name for item in self.not_run if item.reason.startswith(FAILED)]
        if failed:
            return f"failed rows: {', '.join(failed)}"
        if self.regressed:
            return f"slower than its baseline: {', '.join(self.regressed)}"
        return None if self.rows else "no row"

    def describe(self) -> str:
        """The machine, the source and the date, in one line."""
        commit = self.commit or "an unknown commit"
        part = ", PARTIAL: the run was interrupted" if self.partial else ""
        return f"{self.path}: {self.kind}, fingerprint {self.fingerprint}, {commit}, {self.date}{part}"


def load(path: Path) -> Measurement:
    """Read a file of measurements.

    Raises:
        ResultsError: It cannot be read, is no file of this suite's, or is of another schema.
    """
    try:
        document = documents.parse(read_regular(path, LARGEST).decode())
    except OSError as error:
        inside = "name a file in it" if path.is_dir() else "look at its name and its permissions"
        raise _unreadable(
            path, error.strerror or str(error), f"{inside}; `lenet results` alone takes the last"
        ) from error
    except ValueError as error:
        raise _unreadable(path, f"no whole JSON document: {error}") from error
    if not isinstance(document, dict) or not isinstance(about := document.get("lenet"), dict):
        raise _unreadable(path, "no part 'lenet': it is not of this suite")
    readable = _READABLE_OF_A_GPU if _of_a_gpu(document) else _READABLE
    if isinstance(about.get("schema"), bool) or about.get("schema") not in readable:  # True equals 1
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
                moved_bytes(one.case.workload)  # knows the precision and the input type
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
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(path, f"a part is missing or misshapen: {error}") from error
    return found


def identity(document: Mapping[str, Any]) -> str:
    """What two files have in common that can be compared: the fingerprint of the machine, and the clock.

    Args:
        document: A file of measurements.

    Returns:
        The machine's fingerprint; with the schema, where that had another clock for this machine.
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
    """The row of one entry of pytest-benchmark's ``benchmarks``, or None where it is no case of the suite's.

    Raises:
        KeyError: A field is missing.
    """
    info = benchmark.get("extra_info") or {}
    if "case" not in info:
        return None
    stats, summary = benchmark["stats"], info["summary"]
    case = Case(**{**info["case"], "mode": Mode(info["case"]["mode"])})
    samples = stats.get("data")
    return Row(
        case=case,
        rounds=summary["rounds"],
        median=summary["median"],
        mean=summary["mean"],
        stddev=summary["stddev"],
        minimum=summary["minimum"],
        p95=summary["p95"],
        p99=summary["p99"],
        iqr=summary["iqr"],
        median_low=summary["median_low"],
        median_high=summary["median_high"],
        wall_median=info["wall_median"],
        peak_memory_bytes=info["peak_memory_bytes"],
        throttled=info["throttled"],
        unstable=tuple(info["unstable"]),
        facts=info["facts"],
        samples=tuple(samples) if samples else None,
        floor=Floor(**info["floor"]) if info.get("floor") else None,
        max_abs_delta=info.get("max_abs_delta"),
        share_of_tolerance=info.get("share_of_tolerance"),
    )


def stored_files(storage: Path, kind: str | None = None) -> list[Path]:
    """The saved files under a storage directory, of one kind of machine or of all, by their numbers."""
    found = [path for path in storage.glob(f"{kind or '*'}/*.json") if _STORED_NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (_number(path), path.name, path.parent))


def _number(stored: Path) -> int:
    return int(stored.name.partition("_")[0])


def _load_each(paths: Iterable[Path]) -> tuple[list[Measurement], list[ResultsError]]:
    """The files that can be read, and why each of the others cannot."""
    found, problems = [], []
    for path in paths:
        try:
            found.append(load(path))
        except ResultsError as error:
            problems.append(error)
    return found, problems


def latest(storage: Path) -> tuple[Measurement | None, list[ResultsError]]:
    """The last run by its own date, of whatever machine: numbers of files count for one kind of machine alone.

    Args:
        storage: The directory with one folder a kind of machine.

    Returns:
        The measurement, None where no file can be read; and why each that cannot be read was passed over.
    """
    found, problems = _load_each(stored_files(storage))
    return max(reversed(found), key=lambda one: one.ended, default=None), problems


def newest(
    storage: Path, kind: str, fingerprint: str, facts: Mapping[str, Any]
) -> tuple[Measurement, list[ResultsError]]:
    """The newest whole measurement of this very machine in which nothing failed.

    Args:
        storage: The directory with one folder a kind of machine, such as ``.benchmarks``.
        kind: Of this machine.
        fingerprint: Of this machine.
        facts: Of this machine, to tell what differs.

    Returns:
        The measurement; and why each file of this kind of machine that cannot be read was passed over.

    Raises:
        ResultsError: There is none; the fingerprints that are there are named, those of other kinds too, and the
            files that cannot be read.
    """
    alike, problems = _load_each(stored_files(storage, kind))
    ours = [one for one in alike if one.fingerprint == fingerprint and one.flaw is None]
    if ours:
        return ours[-1], problems
    unlike, more = _load_each(path for path in stored_files(storage) if path.parent.name != kind)
    there = {f"{one.fingerprint} ({one.kind}{f'; {one.flaw}' if one.flaw else ''})" for one in alike}
    there |= {f"{one.fingerprint} ({one.kind})" for one in unlike}
    there |= {f"{one.summary}: {one.found}" for one in (*problems, *more)}
    differences = describe_difference(facts, alike[-1].machine) if alike else []
    raise ResultsError(
        f"no baseline of this machine in {storage}",
        found=", ".join(sorted(there)) or "no file at all",
        wanted=f"{fingerprint} ({kind})" + (f"; it differs by {'; '.join(differences)}" if differences else ""),
        hint="record one here with `nox -s baseline`; times of another machine cannot be compared",
    )


def find_file(storage: Path, kind: str, name: str) -> Path:
    """A saved file by its path, or by its number or the beginning of its name among this kind of machine's.

    Raises:
        ResultsError: There is none; those that are there are named.
    """
    if os.path.isfile(name):  # noqa: PTH113 - false for a name that no file can have, where pathlib raises
        return Path(name)
    stored = stored_files(storage, kind)
    if re.fullmatch("[0-9]+", name):
        found = [path for path in stored if str(_number(path)) == (name.lstrip("0") or "0")]
    else:
        found = [path for path in stored if path.name.startswith(name)]
    if not found:
        raise ResultsError(
            f"there is no baseline {name!r} in {storage / kind}",
            found=", ".join(path.name for path in stored) or "no file at all",
            wanted="a path, or the number that a saved file's name begins with",
            hint="`--benchmark-compare` alone takes the newest of this machine",
        )
    return found[-1]


def promote(path: Path, storage: Path) -> Path:
    """Make a measurement a baseline: copy it into its kind of machine's folder, under the next number.

    Args:
        path: A file of measurements.
        storage: The directory with one folder a kind of machine.

    Returns:
        The new file.

    Raises:
        ResultsError: The file cannot be read, was cut short, holds no row, or is of a run in which something failed.
        OutputError: As of `store`.
    """
    measurement = load(path)
    if measurement.flaw is not None:
        raise ResultsError(
            f"{path} cannot be a baseline",
            found=measurement.flaw,
            wanted="a whole run without a failure",
            hint="mend what failed and measure again",
        )
    numbered = _STORED_NAME.fullmatch(path.name)
    name = numbered[2] if numbered else path.name.removesuffix(".json")
    return store(read_regular(path, LARGEST), name, storage / measurement.kind, "--storage")


def store(content: bytes, name: str, folder: Path, option: str) -> Path:
    """Save a file of measurements, whole or not at all, under the next number.

    Args:
        content: The file's content.
        name: What follows the number in the file's name.
        folder: Of its kind of machine, in the storage directory.
        option: What chooses the storage directory, for an error to name.

    Returns:
        The new file.

    Raises:
        OutputError: It cannot be written, or another process keeps the directory.
    """
    make_directory(folder, option)
    with only_writer(folder, option, _PATIENCE):  # from the look for the last number until the next one is taken
        stored = stored_files(folder.parent, folder.name)
        number = _number(stored[-1]) + 1 if stored else 1
        target = folder / f"{number:04d}_{name}.json"
        write_atomically(target, content, otherwise=f"choose another directory with {option}")
    return target


def short_name(name: str) -> str:
    """A benchmark's name as `NotRun` has it: that of the test only where it is not of inference, then the case."""
    return name.removeprefix("test_").removeprefix("inference").replace("[", " ").removesuffix("]").strip()


def merge(measurements: Sequence[Measurement]) -> tuple[Row, ...]:
    """The rows of several runs of one machine; of rows that measure the same, the later run's.

    Raises:
        ResultsError: The runs are of unlike machines or commits, or of unknown sources, which may be unlike, so
            together they would mean nothing.
    """
    return tuple(found for found, _ in _merged(measurements))


def _merged(measurements: Sequence[Measurement]) -> list[tuple[Row, Measurement]]:
    """Each row of `merge`, and the run that it is of."""
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
    """What several runs did not measure, and no later one did either, with the latest reason."""
    found: dict[str, NotRun] = {}
    for measurement in sorted(measurements, key=lambda one: one.ended):
        found |= {item.name: item for item in measurement.not_run}
        found = {name: item for name, item in found.items() if name not in measurement.measured}
    return tuple(found.values())


@dataclass(frozen=True, slots=True)
class Matching:
    """What a run and its baseline have in common.

    Attributes:
        alike: The name of a benchmark of the run, and of that of the baseline which measured the same.
        unlike: Benchmarks of the run that the baseline has under other conditions, with what differs.
        new: Benchmarks of the run that the baseline has not.
        gone: Benchmarks of the baseline that the run has not.
    """

    alike: Mapping[str, str]
    unlike: Mapping[str, str] = field(default_factory=dict)
    new: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


def match(ours: Mapping[str, Case | None], theirs: Mapping[str, Case | None]) -> Matching:
    """Find what may be compared: rows of one case, and of what is no row of inference, benchmarks of one name.

    Args:
        ours: The run's benchmarks by name, each with its case; None where it is no row of inference.
        theirs: The baseline's.
    """
    by_case = {case: name for name, case in theirs.items() if case is not None}
    by_place = {_place(case): name for name, case in theirs.items() if case is not None}
    alike: dict[str, str] = {}
    unlike: dict[str, str] = {}
    near = set()
    for name, case in ours.items():
        if case is None:
            if name in theirs and theirs[name] is None:
                alike[name] = name
        elif case in by_case:
            alike[name] = by_case[case]
        elif (other := by_place.get(_place(case))) is not None:
            near.add(other)
            unlike[name] = _differences(case, theirs[other])
    new = tuple(name for name in ours if name not in alike and name not in unlike)
    met = near | set(alike.values())
    return Matching(alike, unlike, new, tuple(name for name in theirs if name not in met))


def _place(case: Case) -> tuple[object, ...]:
    """What names a row in the options; the rest are its conditions."""
    return (case.backend, case.mode, case.asked, case.batch_size, case.host_memory, case.input)


def _differences(ours: Case, theirs: Case | None) -> str:
    here, there = asdict(ours), asdict(theirs) if theirs else {}
    return ", ".join(f"{name} {here[name]}, not {there.get(name)}" for name in here if here[name] != there.get(name))


def find_row(rows: Iterable[Row], backend: str, like: Row) -> Row | None:
    """The row of a backend under the same conditions as another row."""
    wanted = like.case.conditions()
    return next((one for one in rows if one.case.backend == backend and one.case.conditions() == wanted), None)


def speedup(found: Row, rows: Iterable[Row]) -> float | None:
    """How many times faster a row is than PyTorch's under the same conditions; None where that was not measured.

    PyTorch copies its images, so a zero-copy row is compared with its row from the same pinned memory.
    """
    like = replace(found, case=replace(found.case, host_memory="pinned")) if found.case.zero_copy else found
    baseline = find_row(rows, BASELINE_BACKEND, like)
    return baseline.median / found.median if baseline else None


def to_csv(measurements: Sequence[Measurement]) -> str:
    """The rows of several runs of one machine as CSV, a line each: the case, the times in seconds, and what follows.

    The last columns are the machine's, the source's, and whether the file that a row comes from was cut short.

    Raises:
        ResultsError: As of `merge`.
    """
    text = io.StringIO()
    case_names = [one.name for one in fields(Case)]
    times = ("rounds", "median", "mean", "stddev", "minimum", "p95", "p99", "iqr", "median_low", "median_high")
    more = ("wall_median", "peak_memory_bytes", "throttled", "max_abs_delta", "share_of_tolerance")
    run = ("kind", "fingerprint", "commit", "date", "partial")
    writer = csv.writer(text, lineterminator="\n")
    derived = ("images_per_second", "speedup_over_pytorch", "floor", "floor_term", "times_floor", "unstable")
    writer.writerow([*case_names, *times, *more, *derived, *run])
    merged = _merged(measurements)
    rows = [one for one, _ in merged]
    for one, source in merged:
        case = asdict(one.case)
        cells = [
            *(case[name] for name in case_names),
            *(getattr(one, name) for name in (*times, *more)),
            one.images_per_second,
            speedup(one, rows),
            one.floor.seconds if one.floor else None,
            one.floor.term if one.floor else None,
            one.times_floor,
            "; ".join(one.unstable),
            *(getattr(source, name) for name in run),
        ]
        writer.writerow(map(_no_formula, cells))
    return text.getvalue()


def _no_formula(cell: Any) -> Any:
    """A text that a spreadsheet would take for a formula, with an apostrophe before it, as OWASP has it."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@")) else cell


def _unreadable(path: Path, found: str, hint: str = "delete it, or name another file") -> ResultsError:
    schemas, of_a_gpu = (f"{min(one)} to {max(one)}" for one in (_READABLE, _READABLE_OF_A_GPU))
    return ResultsError(
        f"{path} cannot be read",
        found=found,
        wanted=f"a file that `pytest benchmarks --benchmark-autosave` wrote, schema {schemas}, of a GPU {of_a_gpu}",
        hint=hint,
    )


def _unlike(one: Measurement, other: Measurement, difference: str) -> ResultsError:
    return ResultsError(
        f"{one.path} and {other.path} cannot be put together",
        found=difference,
        wanted="runs of one machine and one commit",
        hint="print them one at a time",
    )
