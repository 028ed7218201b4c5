"""Cases, rows and files of measurements as data. No torch here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from lenet.measurement.energy import Energy
from lenet.measurement.floor import Floor, Limits, Workload
from lenet.measurement.summary import Summary
from lenet.vocabulary import HostMemory, InputType, Mode

__all__ = ["FAILED", "FIRST_WEIGHTS", "Case", "Measurement", "NotRun", "Row", "Throughput", "short_name"]


FAILED: Final = "failed: "
"""The beginning of a failed row's reason. A row that cannot run here has another."""

FIRST_WEIGHTS: Final = "1b151b3cb03c42da89f0658d54d1b3db3cd20eb3e6a150f7e46a8f015512adc5"
"""The weights of a file that names none. It is older than ``--weights``, so it measured the shipped ones."""

_OF_A_GPU: Final = ("runs on cuda alone", "on a CPU nothing is copied", "for forward passes on a GPU")
"""Words in the reason of a case that needs an NVIDIA GPU."""


@dataclass(frozen=True, slots=True)
class Case:
    """What a row measures.

    Attributes:
        backend: Name in the table of `lenet.backends`.
        mode: What a round covers.
        asked: The precision that the options asked for.
        precision: The precision that the backend really ran (`Backend.executed_precision`).
        batch_size: Images a batch.
        device: The GPU's name, or the CPU with its number of threads.
        images: Where the images come from.
        host_memory: Of a batch that begins on the host (`HostMemory`). None if nothing is copied.
        cold_cache: Whether the GPU's L2 cache was emptied before each round.
        protocol: The name of the protocol, which decides the number of rounds.
        input: ``float32`` for normalised images, ``uint8`` for the data's bytes.
        weights: `lenet.weights.digest` of the weights, or None if not recorded.
        threads: The number of CPU threads that ``--threads`` asked for. None for PyTorch's own number. It names the row
            and is no condition, because the device tells the number either way.
        depth: Batches in flight of a throughput row. None for another row, and if the suite chooses on a CPU.
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
    input: str = InputType.FLOAT32
    weights: str | None = None
    threads: int | None = field(default=None, compare=False)
    depth: int | None = None

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Self:
        """The case of what `dataclasses.asdict` gave for one."""
        return cls(**{**saved, "mode": Mode(saved["mode"])})

    def conditions(self) -> tuple[object, ...]:
        """What two rows must share to be compared: all but the backend and the precision it ran."""
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
            self.weights or FIRST_WEIGHTS,
            self.depth or 0,
        )

    def with_weights(self) -> Self:
        """The case with the weights that it is compared by."""
        return replace(self, weights=self.weights or FIRST_WEIGHTS)

    @property
    def cpu_threads(self) -> int | None:
        """The number of CPU threads, asked for or not. None on a GPU."""
        found = re.fullmatch(r"CPU, (\d{1,6}) threads?", self.device)
        return int(found[1]) if found else None

    @property
    def zero_copy(self) -> bool:
        """Whether the device reads the host's memory."""
        return self.host_memory == HostMemory.ZERO_COPY

    @property
    def workload(self) -> Workload:
        """What the row's floor depends on."""
        return Workload(self.mode, self.batch_size, self.precision, self.input, self.host_memory, self.cold_cache)


@dataclass(frozen=True, slots=True)
class Throughput:
    """What a throughput row has beside its times. Times are in seconds a batch.

    Attributes:
        depth: Batches in flight: slots of a GPU's ring, or runners on a CPU.
        latency_p50: Median time of a batch from its submission until its logits are ready, under the row's load.
        latency_p95: The 95th percentile.
        latency_p99: The 99th percentile.
        copy_alone: Of the copies alone, in the same ring. None on a CPU, and if nothing is copied.
        forward_alone: Of the forward passes alone, in the same ring. None on a CPU.
    """

    depth: int
    latency_p50: float
    latency_p95: float
    latency_p99: float
    copy_alone: float | None = None
    forward_alone: float | None = None

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Self:
        """What `dataclasses.asdict` gave for one."""
        return cls(**{one.name: saved[one.name] for one in fields(cls) if one.name in saved})


@dataclass(frozen=True, slots=True)
class Row:
    """One measured case. Times are in seconds a batch.

    Attributes:
        case: What was measured.
        summary: The figures of the rounds that were kept.
        wall_median: Median wall time of the same calls, launch included. None if the median is wall time itself.
        peak_memory_bytes: Device memory. None on a CPU, and where it cannot be told.
        throttled: Rounds that were discarded because the GPU was throttled.
        unstable: Reasons not to trust the row, with what to do. Empty if there are none.
        facts: Facts about the build, such as an engine's hash.
        samples: Every kept round, or None if the file does not hold them.
        floor: The shortest time that the machine allows, or None if its limits were not measured.
        max_abs_delta: Largest ``|logit - float64 reference|`` right before the timing, or None if not recorded.
        share_of_tolerance: Largest ``|logit - reference|`` over that logit's tolerance, or None if not recorded.
        energy: The energy of its work, or None if it was not measured.
        energy_missing: Why energy was asked for and not measured. None if there is no such reason.
        throughput: What a throughput row has beside its times. None for other rows.
    """

    case: Case
    summary: Summary
    wall_median: float | None
    peak_memory_bytes: int | None
    throttled: int
    unstable: tuple[str, ...]
    facts: Mapping[str, str]
    samples: tuple[float, ...] | None = None
    floor: Floor | None = None
    max_abs_delta: float | None = None
    share_of_tolerance: float | None = None
    energy: Energy | None = None
    energy_missing: str | None = None
    throughput: Throughput | None = None

    @property
    def milliseconds_per_batch(self) -> float:
        """The median, in milliseconds."""
        return 1e3 * self.summary.median

    @property
    def milliseconds_per_image(self) -> float:
        """The median divided by the batch size, in milliseconds."""
        return 1e3 * self.summary.median / self.case.batch_size

    @property
    def microseconds_per_image(self) -> float:
        """The median divided by the batch size, in microseconds."""
        return 1e6 * self.summary.median / self.case.batch_size

    @property
    def images_per_second(self) -> float:
        """The batch size divided by the median."""
        return self.case.batch_size / self.summary.median

    @property
    def times_floor(self) -> float | None:
        """The median divided by the floor, or None if the floor is not known."""
        return self.summary.median / self.floor.seconds if self.floor else None


@dataclass(frozen=True, slots=True)
class NotRun:
    """A case that was asked for and not measured.

    Attributes:
        name: The benchmark's name.
        reason: Why not, as a text for people.
    """

    name: str
    reason: str

    @property
    def needs_gpu(self) -> bool:
        """Whether the case runs on a machine with an NVIDIA GPU only."""
        return any(words in self.reason for words in _OF_A_GPU)


@dataclass(frozen=True, slots=True)
class Measurement:
    """A file of measurements.

    Attributes:
        path: The file.
        kind: The kind of machine, which is also the name of its folder.
        fingerprint: Of the machine and its clock (`lenet.results.identity`). Runs with one fingerprint can be compared.
        machine: The machine's facts.
        commit: The commit of the source, or None if unknown.
        date: When the run ended, ISO 8601.
        partial: Whether the run was interrupted, so that rows may be missing.
        rows: The inference rows.
        not_run: The cases that were not measured.
        limits: The machine's limits, or None if they were not measured.
        regressed: The rows that the run's own comparison found slower than its baseline.
        measured: The names of all that was measured, as in ``not_run``.
        accuracy: Accuracy of the run's weights on the test images, 0-1, by their own file. None if not recorded.
        cause: What disturbed the whole run, and what to do. None if nothing is known to.
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
    accuracy: float | None = None
    cause: str | None = None

    @property
    def of_unknown_sources(self) -> bool:
        """Whether the source is unknown: there is no commit, or files differ from it. Two such runs may be unlike."""
        return self.commit is None or self.commit.endswith("+dirty")

    @property
    def ended(self) -> datetime:
        """The date as a time, for sorting. UTC if the file names no time zone."""
        found = datetime.fromisoformat(self.date)
        return found if found.tzinfo else found.replace(tzinfo=UTC)

    @property
    def moment(self) -> str:
        """The date for people: to the second."""
        return self.ended.isoformat(" ", "seconds")

    @property
    def flaw(self) -> str | None:
        """Why the run cannot be a baseline, or None if it is whole and without failures."""
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
        return f"{self.path}: {self.kind}, fingerprint {self.fingerprint}, {commit}, {self.moment}{part}"


def short_name(name: str) -> str:
    """A benchmark's name as in `NotRun`: the case, after the test's name unless that is the inference test."""
    return name.removeprefix("test_").removeprefix("inference").replace("[", " ").removesuffix("]").strip()
