"""Figures of rows that were never measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lenet.measurement.summary import Summary
from lenet.results import Row


def summary(seconds: float, rounds: int = 100, **others: Any) -> Summary:
    """Of rounds that took all the same time; or with other figures."""
    same = Summary(
        rounds=rounds,
        minimum=seconds,
        median=seconds,
        mean=seconds,
        p95=seconds,
        p99=seconds,
        iqr=0.0,
        maximum=seconds,
        stddev=0.0,
        median_low=seconds,
        median_high=seconds,
        coverage=0.95,
        relative_half_width=0.0,
        autocorrelation=0.0,
    )
    return replace(same, **others)


def with_figures(row: Row, **figures: Any) -> Row:
    """A row of which some figures are others."""
    return replace(row, summary=replace(row.summary, **figures))
