"""A row of one batch at a time: the call that is timed, and its measurement."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from lenet.backends.base import Runner
from lenet.measurement.memory import peak_memory
from lenet.measurement.rounds import measure
from lenet.measurement.statistics import median
from lenet.results import Case
from lenet.suite.energy import passes
from lenet.suite.images import Batches
from lenet.suite.instruments import Instruments
from lenet.suite.sustained import Measured
from lenet.vocabulary import HostMemory

__all__ = ["call_of", "run_one_batch"]


def run_one_batch(call: Callable[[], torch.Tensor], case: Case, runner: Runner, instruments: Instruments) -> Measured:
    """Measure a row.

    Args:
        call: The call that is timed, by `call_of`.
        case: What the row measures.
        runner: Its runner.
        instruments: What measures it.
    """
    with torch.inference_mode(), runner.on_stream():
        samples = measure(
            call,
            mode=case.mode,
            stream=runner.stream,
            protocol=instruments.protocol,
            cold_cache=case.cold_cache,
            throttling=instruments.sampler.throttling,
            host=instruments.host,
        )
        peak = peak_memory(call, runner.spec.device)
    joules = instruments.energy(passes(call, runner, case, median(samples.seconds.tolist())), runner, case)
    return Measured(samples, None, peak, joules)


def call_of(
    runner: Runner, images: torch.Tensor, case: Case, batches: Batches
) -> tuple[Callable[[], torch.Tensor], torch.Tensor]:
    """The call that is timed in each round, on the runner's stream, and the batch that it starts from.

    Args:
        runner: The backend's runner.
        images: The batch on the device. End to end, the batch is copied there.
        case: What the row measures.
        batches: The batch in the host's memory, end to end.
    """
    if case.host_memory is None:
        return partial(runner.forward, images), images
    source = batches.on_host(case.batch_size, runner.spec.input, HostMemory(case.host_memory))
    if case.zero_copy:
        return partial(runner.forward, source), source

    def copy_and_run() -> torch.Tensor:
        images.copy_(source, non_blocking=True)
        return runner.forward(images)

    return copy_and_run, source
