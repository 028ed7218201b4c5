"""How far another build moves a row's time, beside another process of the same build; prints Markdown.

``python experiments/gate_builds.py --device cuda pytorch-compile fused > docs/results/gate-builds-h200.md``

A build is an empty set of caches, filled by a process that is not measured. The builds take turns: in each round every
build is measured by a fresh process. The processes of a round start together. When all are ready, they are measured one
after another, in an order that is drawn. The gate's stages have a build each. So what a build shares is what its error
does not count.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
import warm_compile

from common import components, head, row, told
from lenet import backends, devices, weights
from lenet.architecture import INPUT_SHAPE
from lenet.backends.base import BatchRange, BuildSpec, Runner
from lenet.measurement.protocol import Coursework
from lenet.measurement.rounds import measure
from lenet.report.rounding import significant
from lenet.vocabulary import InputType, Mode, Precision

_READY = "ready"


@dataclass(frozen=True)
class Rows:
    """A backend's rows, which a process measures.

    Attributes:
        backend: Its name.
        device: Where it runs.
        batch_sizes: One of each row.
        rounds: Of each turn.
    """

    backend: str
    device: str
    batch_sizes: Sequence[int]
    rounds: int

    @property
    def arguments(self) -> list[str]:
        """This script's, for that process."""
        sizes = map(str, self.batch_sizes)
        return [self.backend, "--device", self.device, "--batch-size", *sizes, "--rounds", str(self.rounds)]


def one_process(rows: Rows) -> None:
    """Build a row for each batch size, say so, and print their seconds once a line comes in.

    A row's seconds are the median over five turns of the median of the rounds of a forward pass.
    """
    with ExitStack() as runners:
        timed = []
        for size in rows.batch_sizes:
            spec = BuildSpec(devices.resolve(rows.device), Precision.FP32, BatchRange.exactly(size))
            images = torch.randn(size, *INPUT_SHAPE, device=spec.device)
            runner = runners.enter_context(backends.load(rows.backend).build(weights.load().arrays, spec))
            timed.append(partial(_seconds, runner, images, Coursework(rounds=rows.rounds)))
        print(_READY, flush=True)
        input()
        print(*(each() for each in timed))


def _seconds(runner: Runner, images: torch.Tensor, protocol: Coursework) -> float:
    def turn() -> float:
        measured = measure(lambda: runner.forward(images), mode=Mode.FORWARD, stream=runner.stream, protocol=protocol)
        return float(median(measured.seconds.tolist()))

    with torch.inference_mode(), runner.on_stream():
        return median(turn() for _ in range(5))


def environment(caches: Path) -> dict[str, str]:
    """The variables of a process that uses this set of caches."""
    directories = {"LENET_CACHE": "lenet", "TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
    return os.environ | {name: str(caches / directory) for name, directory in directories.items()}


def measured(rows: Rows, caches: Sequence[Path]) -> list[list[float]]:
    """Seconds of a forward pass by set of caches and batch size, each set's in a fresh process that uses it."""
    command = [sys.executable, __file__, "--one-process", *rows.arguments]
    with ExitStack() as processes:
        started = []
        for folder in caches:
            # The traceback of one that fails is shown.
            process = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(folder)
            )
            started.append(processes.enter_context(process))
            processes.callback(process.kill)
        for process in started:
            assert process.stdout is not None
            if process.stdout.readline().strip() != _READY:
                raise subprocess.CalledProcessError(process.wait(), command)
        return [[float(one) for one in process.communicate("\n")[0].split()] for process in started]


def fill(rows: Rows, caches: Sequence[Path]) -> None:
    """Build the rows into each set of caches; on a GPU, several that TorchInductor tunes at a time."""
    if rows.device != "cuda" or rows.backend not in warm_compile.BACKENDS:
        for directory in caches:
            measured(rows, [directory])
        return
    with tempfile.NamedTemporaryFile() as lock, ThreadPoolExecutor(warm_compile.AT_ONCE) as pool:
        networks = [
            ((rows.backend, Precision.FP32, str(size), InputType.FLOAT32), lock.name, environment(directory))
            for directory in caches
            for size in rows.batch_sizes
        ]
        if not all(pool.map(warm_compile.build, *zip(*networks, strict=True))):
            raise RuntimeError("a network could not be built")


def log_times(rows: Rows, builds: int, rounds: int, draw: random.Random) -> list[list[list[float]]]:
    """Log seconds by build, round and batch size."""
    with tempfile.TemporaryDirectory() as folder:
        caches = [Path(folder, str(number)) for number in range(builds)]
        for directory in caches:
            (directory / "lenet").mkdir(parents=True, mode=0o700)
        fill(rows, caches)
        found: dict[Path, list[list[float]]] = {directory: [] for directory in caches}
        for _ in range(rounds):
            order = draw.sample(caches, builds)
            for directory, seconds in zip(order, measured(rows, order), strict=True):
                found[directory].append([math.log(one) for one in seconds])
                print(rows.backend, directory.name, *seconds, file=sys.stderr, flush=True)  # for a run that is cut off
        return list(found.values())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("backends", nargs="+", help="names of backends")
    parser.add_argument("--device", default="cpu", help="where they run (%(default)s)")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 1000])
    parser.add_argument("--builds", type=int, default=6, help="sets of caches (%(default)s)")
    parser.add_argument("--processes", type=int, default=4, help="measured processes of each build (%(default)s)")
    parser.add_argument("--rounds", type=int, default=100, help="of each turn (%(default)s)")
    parser.add_argument("--one-process", action="store_true", help="time the first backend here, once told to")
    option = parser.parse_args(arguments)
    if option.one_process:
        one_process(Rows(option.backends[0], option.device, option.batch_size, option.rounds))
        return
    print(f"# Builds and processes on {devices.describe(devices.resolve(option.device))}\n")
    print(f"{option.builds} builds, {option.processes} processes of each, torch {torch.__version__}, fp32, forward; by")
    print("`experiments/gate_builds.py`. In brackets: 95 % intervals. p: of the F test for builds that share nothing.")
    head("row", "ms, median", "between builds, standard deviation", "within a build", "p")
    draw = random.Random(0)  # noqa: S311
    for name in option.backends:
        with told(name):
            rows = Rows(name, option.device, option.batch_size, option.rounds)
            times = log_times(rows, option.builds, option.processes, draw)
            for place, size in enumerate(rows.batch_sizes):
                of_size = [[one[place] for one in build] for build in times]
                middle = 1e3 * math.exp(median(one for build in of_size for one in build))
                row(f"{name} {size}", significant(middle), components(of_size, rounds=True))


if __name__ == "__main__":
    main()
