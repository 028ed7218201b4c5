"""The suite's clock against torch.profiler for the same calls on a GPU, and the cost of the clock itself.

``python docs/results/timer_check.py > docs/results/timer-h100.md``

Both hold the stream back until a call is queued, so that neither sees the host. The profiler's time is from the start of
the call's first kernel to the end of its last: the kernels' sum plus the gaps.
"""

from __future__ import annotations

from statistics import median

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from lenet import backends, devices, weights
from lenet.architecture import INPUT_SHAPE
from lenet.backends.base import BatchRange, BuildSpec, Precision, Runner
from lenet.measurement.clocks import ColdStart, Coursework, measure
from lenet.measurement.modes import Mode
from lenet.provenance import source_commit

BACKENDS = ("pytorch", "pytorch-cudagraph")
BATCH_SIZES = (1, 1000, 10_000)
CALLS = 50


def main() -> None:
    device = devices.resolve("cuda")
    print(f"# The clock on {devices.describe(device)}\n")
    print(f"torch {torch.__version__}, commit {source_commit()}; made by `docs/results/timer_check.py`;")
    print(f"medians of {CALLS} forward passes, fp32, cold cache, stream held back until all is queued.\n")
    print("| backend | batch | events, us | profiler, us | difference |\n|---|---:|---:|---:|---:|")
    for name in BACKENDS:
        for batch_size in BATCH_SIZES:
            spec = BuildSpec(device, Precision.FP32, BatchRange.exactly(batch_size))
            runner = backends.load(name).build(weights.load().arrays, spec)
            images = torch.randn(batch_size, *INPUT_SHAPE, device=device)
            torch.cuda.synchronize()
            clock, profiler = by_clock(runner, images), by_profiler(runner, images)
            difference = f"{clock / profiler - 1:+.1%}"
            print(f"| {name} | {batch_size:,} | {1e6 * clock:.1f} | {1e6 * profiler:.1f} | {difference} |", flush=True)
    stream = torch.cuda.Stream(device)
    for mode in Mode:
        empty = measure(lambda: None, mode=mode, stream=stream, protocol=Coursework(rounds=1000))
        print(f"\nAn empty call, {mode}: {1e6 * median(empty.seconds.tolist()):.2f} us by the row's clock.", end="")
    print()


def by_clock(runner: Runner, images: torch.Tensor) -> float:
    """Median device seconds by the suite's clock."""
    samples = measure(
        lambda: runner.forward(images),
        mode=Mode.FORWARD,
        stream=runner.stream,
        protocol=Coursework(rounds=CALLS),
        cold_cache=True,
    )
    return median(samples.seconds.tolist())


def by_profiler(runner: Runner, images: torch.Tensor) -> float:
    """Median seconds from the first kernel's start to the last one's end, by torch.profiler."""
    assert runner.stream is not None
    hold = ColdStart(runner.stream)
    spans: list[float] = []
    for _ in range(3):
        runner.forward(images)
    runner.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(CALLS):
            hold()
            runner.forward(images)
            runner.synchronize()
    kernels = sorted(
        (event for event in recorded.events() if event.device_type is DeviceType.CUDA),
        key=lambda event: event.time_range.start,
    )
    # A spinning kernel opens each call; what follows it, up to the next clearing of the cache, is the call.
    call: list[tuple[float, float]] = []
    for event in kernels:
        if "spin" in event.name.lower():
            call = []
            spans.append(0.0)
        elif spans and "memset" not in event.name.lower() and "fill" not in event.name.lower():
            call.append((event.time_range.start, event.time_range.end))
            spans[-1] = max(end for _, end in call) - call[0][0]
    return median(spans) / 1e6


if __name__ == "__main__":
    main()
