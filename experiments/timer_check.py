"""The suite's clock against torch.profiler for the same calls on a GPU, its tare, and what an empty round costs.

``python experiments/timer_check.py > docs/results/timer-h100.md``

The profiler's time is from the start of a call's first kernel to the end of its last: the kernels' sum plus the gaps.
It is taken of calls whose stream is held back, as the suite's are, in rounds of its own: a profiler that listens makes
kernels start later, most of all in a graph. The same events read more with it than without, which is shown as well.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from lenet import backends, devices, weights
from lenet.architecture import INPUT_SHAPE
from lenet.backends.base import BatchRange, BuildSpec, Runner
from lenet.measurement.clocks import LONGEST_HOLD, Coursework, EventClock, HeldStart, Samples, measure
from lenet.provenance import source_commit
from lenet.vocabulary import Mode, Precision

BACKENDS = ("pytorch", "pytorch-cudagraph", "fused")
BATCH_SIZES = (1, 1000, 10_000)
CALLS = 150
HOLD = LONGEST_HOLD / 20
"""Seconds: long enough to queue a call while the profiler listens."""


def main() -> None:
    device = devices.resolve("cuda")
    print(f"# The clock on {devices.describe(device)}\n")
    print(f"torch {torch.__version__}, commit {source_commit()}; made by `experiments/timer_check.py`.\n")
    print(f"Medians of {2 * CALLS} and of {CALLS} forward passes in fp32, in microseconds.")
    print(
        "Their stream is held back until all is queued. Profiler: from the start of a call's first kernel to the end of"
    )
    print("its last. The row's clock is without its tare, the events with the profiler are with it.\n")
    titles = (
        "backend",
        "batch",
        "the row's clock",
        "profiler",
        "difference",
        "the kernels' sum",
        "events with the profiler",
    )
    print(f"| {' | '.join(titles)} |\n|---|{'---:|' * (len(titles) - 1)}")
    for name in BACKENDS:
        for batch_size in BATCH_SIZES:
            spec = BuildSpec(device, Precision.FP32, BatchRange.exactly(batch_size))
            images = torch.randn(batch_size, *INPUT_SHAPE, device=device)
            with backends.load(name).build(weights.load().arrays, spec) as runner:
                torch.cuda.synchronize()
                cells = compare(runner, images)
            print(f"| {name} | {batch_size:,} | {' | '.join(cells)} |", flush=True)
    stream = torch.cuda.Stream(device)
    forward, end_to_end = (empty_rounds(mode, stream) for mode in Mode)
    print(
        f"\nThe clock's tare, which an empty forward call reads: {1e6 * forward.tare:.2f} us. Of 1,000 such calls half"
    )
    low, high = (1e6 * float(np.percentile(forward.device, share)) for share in (25, 75))
    print(f"read {low:.2f} to {high:.2f} us without it, where 0.5 is the least that a round reads.")
    print(f"An empty end-to-end round: {1e6 * median(end_to_end.seconds.tolist()):.2f} us.")


def empty_rounds(mode: Mode, stream: torch.cuda.Stream) -> Samples:
    """Rounds in which nothing is called."""
    return measure(lambda: None, mode=mode, stream=stream, protocol=Coursework(rounds=1000))


def compare(runner: Runner, images: torch.Tensor) -> list[str]:
    """Microseconds of the same calls by the suite's clock and by torch.profiler."""

    def by_the_clock() -> list[float]:
        protocol = Coursework(rounds=CALLS)
        samples = measure(lambda: runner.forward(images), mode=Mode.FORWARD, stream=runner.stream, protocol=protocol)
        return [float(seconds) for seconds in samples.seconds]

    with torch.inference_mode(), runner.on_stream():
        # Before the profiler and after it, so that no drift falls on one of the two alone.
        before, (events, calls), after = by_the_clock(), profiled(runner, images), by_the_clock()
    clock = 1e6 * median(before + after)
    profiler = median(max(e["ts"] + e["dur"] for e in call) - call[0]["ts"] for call in calls)
    busy = median(sum(e["dur"] for e in call) for call in calls)
    difference = clock / profiler - 1
    return [f"{clock:.1f}", f"{profiler:.1f}", f"{difference:+.1%}", f"{busy:.1f}", f"{1e6 * events:.1f}"]


def profiled(runner: Runner, images: torch.Tensor) -> tuple[float, list[list[dict[str, Any]]]]:
    """While the profiler listens: median seconds between events, and each call's kernels."""
    assert runner.stream is not None
    hold, clock = HeldStart(runner.stream), EventClock(runner.stream)
    hold.fit(HOLD)
    seconds = []
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(CALLS):
            hold()
            began = clock()
            runner.forward(images)
            seconds.append(clock() - began)
            runner.synchronize()
    with TemporaryDirectory() as directory:
        path = Path(directory) / "trace.json"
        recorded.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return median(seconds), _calls(events)


def _calls(events: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The kernels of each call: those behind a spin that holds the stream."""
    on_device = [event for event in events if event.get("cat") in {"kernel", "gpu_memset", "gpu_memcpy"}]
    calls: list[list[dict[str, Any]]] = []
    for event in sorted(on_device, key=lambda event: event["ts"]):
        if "spin" in event["name"]:
            calls.append([])
        elif calls:
            calls[-1].append(event)
    if not any(calls):
        raise SystemExit(f"no call found among {sorted({event['name'] for event in on_device})}")
    return [call for call in calls if call]


if __name__ == "__main__":
    main()
