"""What moves a row's device time on a GPU: time, the images' place, the build, or the process? Prints Markdown.

``python experiments/placement.py > docs/results/placement-h100.md``

The suite's clock times, in several processes one after the other:

- one runner several times;
- the same runner on images at other addresses;
- other builds of the same weights, with parameters and logits at other addresses, each on a stream of its own;
- other builds, all on one stream.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

import torch

from lenet import backends, devices, weights
from lenet.architecture import INPUT_SHAPE
from lenet.backends.base import BatchRange, BuildSpec, Runner
from lenet.measurement.protocol import Coursework
from lenet.measurement.rounds import measure
from lenet.provenance import source_commit
from lenet.vocabulary import Mode, Precision

ROWS = (
    ("pytorch", "fp32", 1),
    ("pytorch", "fp16", 10),
    ("pytorch-cudagraph", "fp32", 1),
    ("fused", "fp32", 100),
    ("fused", "fp32", 1000),
)
PROCESSES = 3
TIMES = 5
ROUNDS = 50
APART = 3 << 20
"""Number of floats allocated between two places, so that their addresses differ."""


def microseconds(runner: Runner, images: torch.Tensor) -> float:
    """Median device time of a forward pass."""
    with torch.inference_mode(), runner.on_stream():
        samples = measure(
            lambda: runner.forward(images), mode=Mode.FORWARD, stream=runner.stream, protocol=Coursework(rounds=ROUNDS)
        )
    return 1e6 * float(median(samples.seconds.tolist()))


def row(name: str, precision: str, batch_size: int) -> dict[str, list[float]]:
    """Times of one row in this process."""
    device = devices.resolve("cuda")
    spec = BuildSpec(device, Precision(precision), BatchRange.exactly(batch_size))
    kept: list[torch.Tensor | Runner] = []

    def images() -> torch.Tensor:
        kept.append(torch.empty(APART, device=device))
        drawn = torch.randn(batch_size, *INPUT_SHAPE, device=device)
        torch.cuda.synchronize()
        return drawn

    def build(stream: torch.cuda.Stream | None = None) -> Runner:
        runner = backends.load(name).build(weights.load().arrays, spec)
        runner.stream = stream or runner.stream  # before its first pass
        return runners.enter_context(runner)

    with ExitStack() as runners:
        runner, first = build(), images()
        return {
            "again": [microseconds(runner, first) for _ in range(TIMES)],
            "images": [microseconds(runner, images()) for _ in range(TIMES)],
            "build": [microseconds(build(), first) for _ in range(TIMES)],
            "stream": [microseconds(build(runner.stream), first) for _ in range(TIMES)],
        }


def one_process() -> None:
    """Every row's times, one JSON object a line."""
    for case in ROWS:
        print(json.dumps(row(*case)), flush=True)
        torch.cuda.empty_cache()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--one-process", action="store_true", help="the rows' times in this process alone, as JSON")
    if parser.parse_args(arguments).one_process:
        one_process()
        return
    command = [sys.executable, __file__, "--one-process"]
    outputs = [  # the traceback of one that fails is shown
        subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout  # noqa: S603
        for _ in range(PROCESSES)
    ]
    print(f"# What moves a device time on {devices.describe(devices.resolve('cuda'))}\n")
    print(f"torch {torch.__version__}, commit {source_commit()}; made by `experiments/placement.py`.\n")
    print(f"Forward passes by the suite's clock, each time the median of {ROUNDS} rounds, in microseconds: the lowest")
    print(f"and the highest of {TIMES}. A line is a process.\n")
    print("| row | one runner, the same images | other images | other builds | other builds, one stream |")
    print("|---|---:|---:|---:|---:|")
    for number, case in enumerate(ROWS):
        for output in outputs:
            times = json.loads(output.splitlines()[number])
            cells = (
                f"{min(times[kind]):.2f} - {max(times[kind]):.2f}" for kind in ("again", "images", "build", "stream")
            )
            print(f"| {' '.join(map(str, case))} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
