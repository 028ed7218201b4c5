"""The figures that a row says of its rounds: made by `lenet.measurement.statistics`, saved, and read back.

It imports nothing, so that commands which only show results start fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["Summary"]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a row says of its rounds. Values are in the sample's unit; a saved row's are seconds a batch.

    Attributes:
        rounds: The size of the sample.
        minimum: The smallest value.
        median: The middle value.
        mean: The arithmetic mean.
        p95: The 95th percentile, as `lenet.measurement.statistics.quantile` defines it.
        p99: The 99th percentile.
        iqr: The distance between the quartiles.
        maximum: The largest value.
        stddev: The sample's standard deviation (n - 1); 0 for a single value.
        median_low: The lower end of the median's interval; None where the sample is too small for one.
        median_high: The upper end.
        coverage: The probability that the interval holds the median
            (`lenet.measurement.statistics.MedianInterval`).
        relative_half_width: Half the interval as a share of the median; None where there is no interval.
        autocorrelation: `lenet.measurement.statistics.lag1_autocorrelation` of the sample.
    """

    rounds: int
    minimum: float
    median: float
    mean: float
    p95: float
    p99: float
    iqr: float
    maximum: float
    stddev: float
    median_low: float | None
    median_high: float | None
    coverage: float | None
    relative_half_width: float | None
    autocorrelation: float

    def as_dict(self) -> dict[str, float | None]:
        """The attributes by name, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Summary:
        """What `as_dict` gave.

        Raises:
            KeyError: A figure is missing.
        """
        return cls(**{one.name: document[one.name] for one in fields(cls)})
