"""Rows of measurements: what the suite attaches to a benchmark, and how a saved file is read back. No torch here.

The suite stores a row's facts in pytest-benchmark's ``extra_info``; the times are pytest-benchmark's ``stats``, in
seconds a batch. History of the schema:

1. 2026-11: backend, mode, precision, batch size, device, and where the images come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeAlias

from lenet.errors import ResultsError

__all__ = ["SCHEMA", "Case", "Mode", "NotRun", "Row", "row"]

SCHEMA: Final = 1

Mode: TypeAlias = Literal["forward", "end_to_end"]


@dataclass(frozen=True, slots=True)
class Case:
    """What a row measures.

    Attributes:
        backend: Name in the table of `lenet.backends`.
        mode: ``forward`` (images already on the device) or ``end_to_end`` (from host memory to synchronised logits).
        precision: What the backend really ran (`Backend.executed_precision`).
        batch_size: Images a batch.
        device: The GPU's name, or the CPU with its number of threads.
        images: Where the images come from.
    """

    backend: str
    mode: Mode
    precision: str
    batch_size: int
    device: str
    images: str

    def to_extra_info(self) -> dict[str, Any]:
        """What the suite stores beside the row's times."""
        return {"schema": SCHEMA, **asdict(self)}


@dataclass(frozen=True, slots=True)
class Row:
    """One measured case.

    Attributes:
        case: What was measured.
        rounds: Number of timed batches.
        median: Seconds a batch.
        mean: Seconds a batch.
        stddev: Seconds a batch.
    """

    case: Case
    rounds: int
    median: float
    mean: float
    stddev: float

    @property
    def milliseconds_per_batch(self) -> float:
        """The median, in milliseconds."""
        return 1e3 * self.median

    @property
    def milliseconds_per_image(self) -> float:
        """The median over the batch size, in milliseconds."""
        return 1e3 * self.median / self.case.batch_size


@dataclass(frozen=True, slots=True)
class NotRun:
    """A case that was asked for and not measured.

    Attributes:
        name: The benchmark's name.
        reason: Why, for people to read.
    """

    name: str
    reason: str


def row(benchmark: Mapping[str, Any]) -> Row | None:
    """The row of one entry of pytest-benchmark's ``benchmarks``, or None where it is no case of this suite's.

    Raises:
        ResultsError: The entry is of another schema, or a field is missing.
    """
    info = benchmark.get("extra_info", {})
    if "schema" not in info:
        return None
    if info["schema"] != SCHEMA:
        raise ResultsError(
            f"{benchmark.get('name')} cannot be read",
            found=f"row schema {info['schema']}",
            wanted=f"row schema {SCHEMA}",
            hint="measure again with this version, or read the file with the version that wrote it",
        )
    try:
        case = Case(**{key: info[key] for key in Case.__dataclass_fields__})
        stats = benchmark["stats"]
        return Row(case, stats["rounds"], stats["median"], stats["mean"], stats["stddev"])
    except KeyError as error:
        raise ResultsError(
            f"{benchmark.get('name')} cannot be read",
            found=f"no field {error}",
            wanted=f"a row of schema {SCHEMA}",
            hint="measure again",
        ) from error
