"""The suite's clock beside torch.profiler for the same calls on a GPU, its tare, and the cost of an empty round.

``python experiments/timer_check.py > docs/results/timer-h100.md``

The profiler's time is from the start of a call's first kernel to the end of its last, gaps included. The stream of
these calls is held back, as in the suite. They run in rounds of their own, as an active profiler makes kernels start
later, most of all in a graph. The table shows this: the same events read more with the profiler than without.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
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
from lenet.measurement.held_start import LONGEST_HOLD, HeldStart
from lenet.measurement.protocol import Coursework
from lenet.measurement.recorder import Samples
from lenet.measurement.rounds import measure
from lenet.provenance import source_commit
from lenet.vocabulary import Mode, Precision

BACKENDS = ("pytorch", "pytorch-cudagraph", "fused")
BATCH_SIZES = (1, 1000, 10_000)
COLUMNS = (
    "backend",
    "batch",
    "the row's clock",
    "profiler",
    "difference",
    "the kernels' sum",
    "events with the profiler",
)
CALLS = 150
HOLD = LONGEST_HOLD / 20
"""Seconds: long enough to queue a call while the profiler is active."""


def main(arguments: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args(arguments)
    device = devices.resolve("cuda")
    print(f"# The clock on {devices.describe(device)}\n")
    print(f"torch {torch.__version__}, commit {source_commit()}; made by `experiments/timer_check.py`.\n")
    print(f"Medians of {2 * CALLS} and of {CALLS} forward passes in fp32, in microseconds.")
    print(
        "Their stream is held back until all is queued. Profiler: from the start of a call's first kernel to the end of"
    )
    print("its last. The row's clock is without its tare, the events with the profiler are with it.\n")
    print(f"| {' | '.join(COLUMNS)} |\n|---|{'---:|' * (len(COLUMNS) - 1)}")
    for name in BACKENDS:
        for batch_size in BATCH_SIZES:
            spec = BuildSpec(device, Precision.FP32, BatchRange.exactly(batch_size))
            images = torch.randn(batch_size, *INPUT_SHAPE, device=device)
            with backends.load(name).build(weights.load().arrays, spec) as runner:
                torch.cuda.synchronize()
                cells = compare(runner, images)
            print(f"| {name} | {batch_size:,} | {' | '.join(cells)} |", flush=True)
    print_empty_rounds(torch.cuda.Stream(device))


def print_empty_rounds(stream: torch.cuda.Stream) -> None:
    """What the clock reads where nothing is called."""
    forward, end_to_end = (empty_rounds(mode, stream) for mode in Mode)
    assert forward.device is not None
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
        # The clock runs before and after the profiler, so that a drift affects both.
        before, (events, calls), after = by_the_clock(), profiled(runner, images), by_the_clock()
    clock = 1e6 * median(before + after)
    profiler = median(max(e["ts"] + e["dur"] for e in call) - call[0]["ts"] for call in calls)
    busy = median(sum(e["dur"] for e in call) for call in calls)
    difference = clock / profiler - 1
    return [f"{clock:.1f}", f"{profiler:.1f}", f"{difference:+.1%}", f"{busy:.1f}", f"{1e6 * events:.1f}"]


def profiled(runner: Runner, images: torch.Tensor) -> tuple[float, list[list[dict[str, Any]]]]:
    """With the profiler active: median seconds between events, and each call's kernels."""
    assert runner.stream is not None
    hold = HeldStart(runner.stream)
    hold.fit(HOLD)
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    seconds = []
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(CALLS):
            hold()
            began.record(runner.stream)
            runner.forward(images)
            ended.record(runner.stream)
            runner.synchronize()
            seconds.append(1e-3 * began.elapsed_time(ended))
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
