"""The facts that are stored beside a row's times, and the failure of a row with wrong logits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from statistics import median
from typing import Any, Final

import pytest

from lenet.backends.base import Backend, Runner
from lenet.comparison import layer_at_fault
from lenet.errors import WeightsError
from lenet.measurement.floor import Limits, floor
from lenet.measurement.gpu_state import throttling_problem
from lenet.measurement.host_state import slowed_problem
from lenet.measurement.recorder import Samples, launch_problem
from lenet.measurement.statistics import instabilities, summarize
from lenet.parity import Comparison, ParityError, Reference
from lenet.results import Case, Row
from lenet.suite.builds import Built
from lenet.weights import Weights

__all__ = ["FINER", "UNDERCUT", "failing_with_the_layer", "row_facts"]

UNDERCUT: Final = (
    "it is faster than the machine's limits, which were measured while it was busy, so it has no floor: measure again"
)
FINER: Final = "its logits lack the rounding of {}: the library ran a finer arithmetic, which the label does not say"
_QUICK_BUILD: Final = 3.0
"""The longest build, in seconds, for which the layer at fault is searched. That takes up to nine builds."""


@contextmanager
def failing_with_the_layer(
    backend: Backend, network: Weights, built: Built, reference: Reference, executed: str
) -> Iterator[None]:
    """Fail the row if its logits are wrong. If builds are quick, the message names the layer at fault."""
    try:
        yield
    except WeightsError as error:  # no backend is at fault
        pytest.fail(f"{error.summary}: {error.found}; {error.hint}", pytrace=False)
    except ParityError as error:
        where = f"; {error.hint}"
        if built.build_seconds <= _QUICK_BUILD:
            layer = layer_at_fault(backend, network.arrays, built.runner.spec, reference.images, executed)
            where = f"; the layer at fault is {layer}" if layer else "; a new build shows no layer at fault"
        pytest.fail(f"{error.summary}: {error.found}{where}", pytrace=False)


def row_facts(
    case: Case, samples: Samples, runner: Runner, limits: Limits | None, compared: Comparison
) -> dict[str, Any]:
    """The facts to store beside a row's times.

    Args:
        case: What the row measures.
        samples: Its rounds.
        runner: Its runner.
        limits: The machine's limits, if they are known.
        compared: Its logits against the reference.
    """
    row = _row(case, samples, runner, limits, compared)
    named = asdict(case)
    weights, threads = named.pop("weights"), named.pop("threads")
    return {
        "weights": weights,
        "case": named if threads is None else {**named, "threads": threads},
        "summary": row.summary.as_dict(),
        "images_per_second": row.images_per_second,
        "us_per_image": row.microseconds_per_image,
        "tare": samples.tare if samples.device is not None else None,
        "wall_median": row.wall_median,
        "floor": asdict(row.floor) if row.floor else None,
        "times_floor": row.times_floor,
        "launch_median": median(samples.launch.tolist()),
        "launch_bound_share": float(samples.launch_bound.mean()),
        "throttled": row.throttled,
        "throttling": list(samples.throttling),
        "slowed": int(samples.slowed.sum()),
        "stopped": samples.stopped,
        "unstable": list(row.unstable),
        "facts": row.facts,
        "max_abs_delta": row.max_abs_delta,
        "share_of_tolerance": row.share_of_tolerance,
        "closeness": asdict(compared.closeness) if compared.closeness else None,
    }


def _row(case: Case, samples: Samples, runner: Runner, limits: Limits | None, compared: Comparison) -> Row:
    """The row, without its peak memory, which the caller measures after the rounds."""
    summary = summarize(samples.seconds)
    lowest = floor(case.workload, limits) if limits else None
    undercut = lowest is not None and summary.median < lowest.seconds
    return Row(
        case,
        summary,
        wall_median=median(samples.wall_seconds.tolist()) if samples.device is not None else None,
        peak_memory_bytes=None,
        throttled=int(samples.throttled.sum()),
        unstable=(
            *instabilities(summary, adaptive=case.protocol == "adaptive"),
            *_problems(case, samples, compared, undercut=undercut),
        ),
        facts=runner.facts(zero_copy=case.zero_copy),
        floor=None if undercut else lowest,
        max_abs_delta=compared.max_abs_delta,
        share_of_tolerance=compared.max_share,
    )


def _problems(case: Case, samples: Samples, compared: Comparison, *, undercut: bool) -> Iterable[str]:
    """Why a row may not be trusted, beside what its rounds alone show."""
    throttled, slowed = int(samples.throttled.sum()), int(samples.slowed.sum())
    by_device = samples.device is not None
    found = (
        throttling_problem(throttled, len(samples.throttled), samples.throttling),
        launch_problem(samples) if by_device else slowed_problem(slowed, len(samples.slowed)),
        UNDERCUT if undercut else None,
        FINER.format(case.precision) if compared.closeness and compared.closeness.finer else None,
    )
    return filter(None, found)
