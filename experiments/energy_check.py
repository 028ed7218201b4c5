"""NVML's energy counter beside the integral of sampled power, over the same work.

``python experiments/energy_check.py > docs/results/energy-check-h200.md``

The power is read after each hundredth of a second of work, and integrated by the trapezoidal rule. NVML has an instant
power and one that it averages over time. The exit status is 1 if the integral of the instant power and the counter
differ by more than 5 %.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median

import numpy as np
import pynvml
import torch

from common import head, row
from lenet import backends, devices, weights
from lenet.architecture import INPUT_SHAPE
from lenet.backends.base import BatchRange, BuildSpec
from lenet.measurement.energy import Energy, NvmlCounter, idle_power, measure_energy
from lenet.measurement.gpu_state import GpuSampler
from lenet.provenance import source_commit
from lenet.vocabulary import Precision

LOADS = (("pytorch", 1), ("pytorch", 10_000), ("pytorch-cudagraph", 1000), ("fused", 1), ("fused", 1000))
COLUMNS = (
    "load",
    "batch",
    "s",
    "mean W",
    "counter, J",
    "instant power, J",
    "difference",
    "average power, J",
    "difference",
)
CHUNK = 0.01
"""Seconds of work between two samples."""

MOST = 0.05
"""The largest difference that is right."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load (%(default)g)")
    option = parser.parse_args(arguments)
    device = devices.resolve("cuda")
    with GpuSampler(device) as sampler:
        counter = NvmlCounter(lambda: sampler.query(pynvml.nvmlDeviceGetTotalEnergyConsumption))
        print(f"# The energy counter of {devices.describe(device)}\n")
        print(f"torch {torch.__version__}, commit {source_commit()}; made by `experiments/energy_check.py`.\n")
        print(steps(counter))
        print(f"Idle power, after a second without work: {idle_power(counter):.1f} W.")
        head(*COLUMNS)
        differences = [rested(counter, sampler, option.seconds)]
        for name, batch_size in LOADS:
            spec = BuildSpec(device, Precision.FP32, BatchRange.exactly(batch_size))
            images = torch.randn(batch_size, *INPUT_SHAPE, device=device)
            with backends.load(name).build(weights.load().arrays, spec) as runner, torch.inference_mode():
                torch.cuda.synchronize()
                with runner.on_stream():
                    work = until_done(lambda: runner.forward(images), runner.synchronize)  # noqa: B023 - called here
                    differences.append(compare(name, batch_size, work, counter, sampler, option.seconds))
    worst = max(map(abs, differences))
    print(f"\nThe largest difference from the integral of instant power is {worst:.1%}.")
    return int(worst > MOST)


def until_done(call: Callable[[], object], synchronize: Callable[[], None]) -> Callable[[], int]:
    """About `CHUNK` of calls, and the wait until they are done."""

    def timed(calls: int) -> float:
        began = time.perf_counter()
        for _ in range(calls):
            call()
        synchronize()
        return time.perf_counter() - began

    calls = max(1, round(CHUNK / (median(timed(10) for _ in range(10)) / 10)))

    def work() -> int:
        timed(calls)
        return calls

    return work


def rested(counter: NvmlCounter, sampler: GpuSampler, seconds: float) -> float:
    """The row of a GPU without work."""

    def rest() -> int:
        time.sleep(CHUNK)
        return 1

    return compare("none", 0, rest, counter, sampler, seconds)


def compare(
    name: str, batch_size: int, work: Callable[[], int], counter: NvmlCounter, sampler: GpuSampler, seconds: float
) -> float:
    """Print a load's row; the difference of the counter from the integral of the instant power, as a share of it."""
    samples: list[tuple[float, float, float]] = []

    def sampled() -> int:
        done = work()
        samples.append((time.perf_counter(), instant_watts(sampler), average_watts(sampler)))
        return done

    found = measure_energy(sampled, counter, 0.0, shortest=seconds)
    instant, average = (integral(samples, which, found) for which in (1, 2))
    row(
        name, f"{batch_size:,}", f"{found.seconds:.2f}", f"{found.watts:.1f}", f"{found.joules:.1f}",
        f"{instant:.1f}", f"{found.joules / instant - 1:+.1%}", f"{average:.1f}", f"{found.joules / average - 1:+.1%}",
    )  # fmt: skip
    return found.joules / instant - 1


def integral(samples: Sequence[tuple[float, float, float]], which: int, found: Energy) -> float:
    """Joules by the samples of the energy's time, which ends with the last of them."""
    times = np.array([sample[0] for sample in samples])
    watts = np.array([sample[which] for sample in samples])
    within = times >= times[-1] - found.seconds - 1e-3
    return float(np.trapezoid(watts[within], times[within]))


def instant_watts(sampler: GpuSampler) -> float:
    """The power now, by the GPU's field of that name."""
    (value,) = sampler.query(pynvml.nvmlDeviceGetFieldValues, [pynvml.NVML_FI_DEV_POWER_INSTANT]) or [None]
    if value is None or value.nvmlReturn != pynvml.NVML_SUCCESS:
        raise SystemExit("this GPU tells no instant power")
    return float(value.value.uiVal) / 1e3


def average_watts(sampler: GpuSampler) -> float:
    """The power by ``nvmlDeviceGetPowerUsage``."""
    return float(sampler.query(pynvml.nvmlDeviceGetPowerUsage) or 0) / 1e3


def steps(counter: NvmlCounter) -> str:
    """How often the counter moves, and how long a reading takes."""
    readings, until = [], time.perf_counter() + 1
    while time.perf_counter() < until:
        readings.append((counter.read(), time.perf_counter()))
    moved = [now for (before, _), (after, now) in pairwise(readings) if after > before]
    apart = [1e3 * (after - before) for before, after in pairwise(moved)]
    return (
        f"The counter moved {len(moved)} times in a second, {median(apart):.1f} ms apart (median), at most "
        f"{max(apart):.1f} ms. A reading takes {1e6 / len(readings):.0f} us.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
