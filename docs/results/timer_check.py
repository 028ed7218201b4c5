"""The suite's clock against torch.profiler for the same calls on a GPU, and the cost of the clock itself.

``python docs/results/timer_check.py > docs/results/timer-h100.md``

Both hold the stream back until a call is queued, so that neither sees the host. The profiler's time is from the start
of the call's first kernel to the end of its last: the kernels' sum plus the gaps.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from lenet import backends, devices, weights
from lenet.architecture import INPUT_SHAPE
from lenet.backends.base import BatchRange, BuildSpec, Precision, Runner
from lenet.measurement.clocks import ColdStart, Coursework, EventClock, measure
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
            clock, profiler = both(runner, images)
            difference = f"{clock / profiler - 1:+.1%}"
            print(f"| {name} | {batch_size:,} | {1e6 * clock:.1f} | {1e6 * profiler:.1f} | {difference} |", flush=True)
    stream = torch.cuda.Stream(device)
    for mode in Mode:
        empty = measure(lambda: None, mode=mode, stream=stream, protocol=Coursework(rounds=1000))
        print(f"\nAn empty call, {mode}: {1e6 * median(empty.seconds.tolist()):.2f} us by the row's clock.", end="")
    print()


def both(runner: Runner, images: torch.Tensor) -> tuple[float, float]:
    """Median device seconds of the same calls: between the suite's events, and by torch.profiler."""
    assert runner.stream is not None
    hold, clock = ColdStart(runner.stream), EventClock(runner.stream)
    for _ in range(5):
        runner.forward(images)
    runner.synchronize()
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
    return median(seconds), median(_spans(events)) / 1e6


def _spans(events: list[dict[str, Any]]) -> list[float]:
    """Microseconds of each call: of the kernels between the spin that holds the stream and the next cleared cache."""
    on_device = [event for event in events if event.get("cat") in {"kernel", "gpu_memset", "gpu_memcpy"}]
    calls: list[list[dict[str, Any]]] = []
    held = False
    for event in sorted(on_device, key=lambda event: event["ts"]):
        if "spin" in event["name"]:
            calls.append([])
            held = True
        elif "FillFunctor<unsigned char>" in event["name"]:
            held = False  # the cache is being cleared; a library's own memsets are part of its call
        elif held:
            calls[-1].append(event)
    if not any(calls):
        raise SystemExit(f"no call found among {sorted({event['name'] for event in on_device})}")
    return [max(e["ts"] + e["dur"] for e in call) - call[0]["ts"] for call in calls if call]


if __name__ == "__main__":
    main()
