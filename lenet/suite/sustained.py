"""A row of many batches in flight: its pipeline, its checks and its measurement."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import Any, Final, NamedTuple, NoReturn

import numpy as np
import psutil
import pytest
import torch

from lenet.backends.base import Backend
from lenet.comparison import check_in_flight
from lenet.errors import UnavailableError
from lenet.measurement.memory import PeakMemory, peak_memory
from lenet.measurement.parallel import ParallelRunners, numbers_of_runners, threads
from lenet.measurement.protocol import DEFAULT_DEPTH
from lenet.measurement.recorder import Round, Samples
from lenet.measurement.ring import Ring
from lenet.measurement.rounds import measure_sustained
from lenet.measurement.statistics import median, quantile
from lenet.measurement.sustained import Pipeline
from lenet.results import Case, Throughput
from lenet.suite.builds import Built
from lenet.suite.energy import CHUNK
from lenet.suite.images import Batches
from lenet.suite.instruments import Instruments
from lenet.vocabulary import HostMemory

__all__ = ["Measured", "depth_of", "run_sustained"]

_BRIEF: Final = (4, 0.05)
"""Windows and seconds of each, for a brief look at a number of runners, or at the copies or the passes alone."""


class Measured(NamedTuple):
    """What was measured of a row.

    Attributes:
        samples: Its rounds.
        throughput: Its batches in flight, their latencies, and its parts alone. None for one batch at a time.
        peak: Device memory of as many batches as are in flight. None on a CPU.
        energy: The facts about its energy, by `EnergyMeter`.
    """

    samples: Samples
    throughput: Throughput | None
    peak: PeakMemory | None
    energy: Mapping[str, Any]


def depth_of(config: pytest.Config, device: torch.device) -> int | None:
    """The batches in flight of a throughput row. None if the number of runners on a CPU is to be found."""
    depth: int | None = config.getoption("--depth")
    return depth if device.type == "cpu" else depth or DEFAULT_DEPTH


def run_sustained(
    case: Case,
    backend: Backend,
    built: Built,
    arrays: Mapping[str, np.ndarray],
    batches: Batches,
    instruments: Instruments,
) -> Measured:
    """Check and measure a row, and check it again. Nothing of it is held afterwards but by the runner.

    Args:
        case: What the row measures.
        backend: Its backend.
        built: Its runner. On a CPU others are built like it.
        arrays: The weights by parameter name.
        batches: The images.
        instruments: What measures it.

    Raises:
        ParityError: A batch in flight got wrong logits.
    """
    spec = built.runner.spec
    reference = batches.reference(case.batch_size, spec.input)
    with ExitStack() as stack:
        if spec.device.type == "cpu":
            pipeline: Pipeline = stack.enter_context(_runners(case, backend, built, arrays, batches))
        else:
            pipeline = stack.enter_context(_ring(case, built, batches))
        stack.enter_context(torch.inference_mode())
        stack.enter_context(built.runner.on_stream())
        check_in_flight(pipeline, reference, case.batch_size, case.precision)
        samples = measure_sustained(
            pipeline,
            stream=built.runner.stream,
            protocol=instruments.protocol,
            throttling=instruments.sampler.throttling,
            host=instruments.host,
        )
        peak = peak_memory(pipeline.lap, spec.device)
        copy = forward = None
        if isinstance(pipeline, Ring):
            copy, forward = _brief(pipeline.copies), _brief(pipeline.passes)
        joules = instruments.energy(lambda: case.batch_size * pipeline.work(CHUNK), built.runner, case)
        check_in_flight(pipeline, reference, case.batch_size, case.precision)
        p50, p95, p99 = (quantile(samples.latency, share) for share in (0.5, 0.95, 0.99))
        return Measured(samples, Throughput(pipeline.depth, p50, p95, p99, copy, forward), peak, joules)


def _brief(windows: Callable[[int, float], list[Round]]) -> float | None:
    """The median of a few windows in seconds a batch. None if there is nothing to run."""
    rounds = windows(*_BRIEF)
    return median([one.wall for one in rounds]) if rounds else None


@contextmanager
def _ring(case: Case, built: Built, batches: Batches) -> Iterator[Ring]:
    """The ring of a row, whose slots were used once. The first slot is the runner's shared buffer.

    The case fails if the slots do not fit the host's or the GPU's memory.
    """
    assert case.depth is not None
    assert case.host_memory is not None
    spec = built.runner.spec
    first = batches.on_host(case.batch_size, spec.input, HostMemory(case.host_memory))
    needed, free = (case.depth - 1) * first.nbytes, psutil.virtual_memory().available
    if needed > free:
        _refuse(case, f"{needed:,} bytes more for its batches, {free:,} free in the host's memory")
    try:
        with built.runner.on_stream():
            sources = [first, *(_another(first) for _ in range(case.depth - 1))]
            if case.zero_copy:
                slots = [(one, one) for one in sources]
            else:
                others = [torch.empty_like(first, device=spec.device) for _ in sources[1:]]
                slots = [*zip(sources, [built.buffer(first), *others], strict=True)]
            with torch.inference_mode():
                ring = Ring(built.runner, slots)
                ring.lap()
    except RuntimeError as error:  # of memory on the device, or of pinned memory
        if "out of memory" not in str(error):
            raise
        _refuse(case, str(error).partition(".")[0])
    with closing(ring):
        yield ring
    first.copy_(batches.reference(case.batch_size, spec.input).images[: case.batch_size])  # which the checks replaced


def _another(batch: torch.Tensor) -> torch.Tensor:
    """A copy of a batch in the same kind of host memory."""
    return batch.clone().pin_memory() if batch.is_pinned() else batch.clone()


def _refuse(case: Case, found: str) -> NoReturn:
    pytest.fail(
        f"--depth={case.depth} does not fit at batch {case.batch_size:,}: {found}: choose a smaller --depth or "
        "--batch-size",
        pytrace=False,
    )


@contextmanager
def _runners(
    case: Case, backend: Backend, built: Built, arrays: Mapping[str, np.ndarray], batches: Batches
) -> Iterator[ParallelRunners]:
    """As many runners side by side as the case names, or else the fastest number of several.

    A library whose threads were fixed with the first runner has that one alone. The case is skipped if it names more.
    """
    spec, cores = built.runner.spec, torch.get_num_threads()
    batch = batches.reference(case.batch_size, spec.input).images[: case.batch_size]
    with ExitStack() as stack:

        def side_by_side(number: int) -> ParallelRunners:
            share = cores // number
            with threads(share):
                runners = [stack.enter_context(backend.build(arrays, spec)) for _ in range(number)]
            return stack.enter_context(closing(ParallelRunners(runners, batch, share)))

        if case.depth is not None or cores == 1:
            try:
                asked = side_by_side(case.depth or 1)
            except UnavailableError as error:
                pytest.skip(f"{error.found}: choose --depth=1")
            yield asked
            return
        fastest, least = side_by_side(1), math.inf
        for number in numbers_of_runners(cores):
            try:
                tried = fastest if number == 1 else side_by_side(number)
            except UnavailableError:
                break
            seconds, slower = _brief(tried.windows) or math.inf, tried
            if seconds < least:
                fastest, slower, least = tried, fastest, seconds
            if slower is not fastest:
                slower.close()
        yield fastest
