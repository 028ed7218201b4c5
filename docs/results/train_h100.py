"""Training on a GPU: five seeds by the whole recipe, and where the time goes; prints Markdown.

LENET_DATA=... python docs/results/train_h100.py [--epochs 60] [--seeds 5] > docs/results/train-h100.md

What fails is told, and the rest goes on; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import torch
import torch.profiler

from lenet import devices, training, weights
from lenet.data import augmentation, cifar10
from lenet.data.cifar10 import Split
from lenet.evaluation import evaluate
from lenet.provenance import source_commit, versions
from lenet.ranks import Ranks
from lenet.steps import Step, exact_float32, step_for
from lenet.training import Recipe

CPU = ((0.7997, 0.7223), (0.7843, 0.7297), (0.7766, 0.7309), (0.7758, 0.7299), (0.7818, 0.7304))
"""Loss and accuracy of seeds 0 to 4 on a CPU, from the README."""

RECIPE = Recipe()
failures: list[str] = []


@contextmanager
def told(what: str) -> Iterator[None]:
    """Tell of what fails inside, and go on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is
        failures.append(what)
        traceback.print_exc()
        print(f"\n**{what} failed:** {type(error).__name__}: {str(error).splitlines()[:1]}\n", flush=True)


def row(*cells: object) -> None:
    print(f"| {' | '.join(str(cell) for cell in cells)} |", flush=True)


def heading(title: str, *columns: str) -> None:
    print(f"\n## {title}\n")
    if columns:
        row(*columns)
        row(*["---"] * len(columns))


def decimals(numbers: Sequence[float]) -> list[str]:
    return [f"{number:.2f}" for number in numbers[:2]] + [f"{number:.4f}" for number in numbers[2:]]


def whole_runs(train: Split, test: Split, device: torch.device, epochs: int, seeds: int) -> None:
    """`wall, s` is all of `training.train`: data to the GPU, capture, each epoch with its test and its checkpoint."""
    columns = ("wall, s", "epochs without tests, s", "loss", "accuracy", "CPU: loss", "CPU: accuracy")
    heading("The whole recipe", "seed", *columns)
    done = []
    for seed in range(seeds):
        with told(f"seed {seed}"), tempfile.TemporaryDirectory() as folder:
            recipe = Recipe(epochs=epochs, seed=seed)
            began = time.perf_counter()
            run = training.train(recipe, train, test, out=Path(folder) / "run", device=device)
            wall = time.perf_counter() - began
            last = run.history[-1]
            alone = sum(record.seconds for record in run.history)
            done.append((wall, alone, last.test_loss, last.test_accuracy, *CPU[seed]))
            row(seed, *decimals(done[-1]))
    if len(done) > 1:
        row("mean", *decimals([statistics.mean(column) for column in zip(*done, strict=True)]))
        row("standard deviation", *decimals([statistics.stdev(column) for column in zip(*done, strict=True)]))


def repeatable(train: Split, test: Split, device: torch.device) -> None:
    """Whether the same command gives the same bits, and whether a resumed run does."""
    recipe = Recipe(epochs=3)

    def stop(record: training.EpochRecord) -> None:
        if record.epoch == recipe.epochs - 1:
            raise KeyboardInterrupt

    with tempfile.TemporaryDirectory() as folder:
        out = [Path(folder) / str(number) for number in range(3)]
        runs = [training.train(recipe, train, test, out=path, device=device) for path in out[:2]]
        try:
            training.train(recipe, train, test, out=out[2], device=device, on_epoch=stop)
        except KeyboardInterrupt:
            runs.append(training.train(recipe, train, test, out=out[2], device=device, resume=True))
    heading("The same bits?")
    first, *others = ([p.detach().cpu() for p in run.model.parameters()] for run in runs)
    for name, other in zip(("a second run", "a resumed run"), others, strict=True):
        largest = max(float((a - b).abs().max()) for a, b in zip(first, other, strict=True))
        print(f"- {name} of {recipe.epochs} epochs: a weight differs by at most {largest:.1e}", flush=True)


def commands(device: torch.device, epochs: int) -> None:
    """`lenet train` as a process of its own, from its start to its end, alone and as one rank of torchrun's (NCCL)."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    heading(f"As a command, {epochs} epochs", "started by", "wall, s", "exit code", "said at the end")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "alone", Path(folder) / "ranks"
        for name, launcher, path in (("python", [], out[0]), ("torchrun", torchrun, out[1])):
            command = [sys.executable, *launcher, "-m", "lenet", "train", "--device", device.type]
            command += ["--epochs", str(epochs), "--out", str(path)]
            began = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)  # noqa: S603
            wall = time.perf_counter() - began
            row(name, f"{wall:.2f}", done.returncode, (done.stdout.strip() or done.stderr[-500:]).replace("\n", " "))
        alone, ranks = (weights.load(path / "weights.safetensors").arrays for path in out)
    largest = max(abs(alone[name] - ranks[name]).max() for name in alone)
    print(f"\nA weight of the two differs by at most {largest:.1e}.", flush=True)


def profile(train: Split, device: torch.device) -> None:
    """One epoch through torch.profiler, kernel by kernel."""
    steps = -(-len(train) // RECIPE.batch_size)
    data = train.to(device)
    with exact_float32():
        run = training.new_run(RECIPE, train, device)
        step = step_for(run.model, run.optimizer, RECIPE.batch_size, Ranks())
        training.train_epoch(step, data.images, data.labels, RECIPE, 1)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as trace:
            began = time.perf_counter()
            training.train_epoch(step, data.images, data.labels, RECIPE, 2)
            wall = time.perf_counter() - began
    kernels = [kernel for kernel in trace.key_averages() if kernel.self_device_time_total > 0]
    kernels.sort(key=lambda kernel: -kernel.self_device_time_total)
    busy = sum(kernel.self_device_time_total for kernel in kernels) / steps
    count = sum(kernel.count for kernel in kernels) / steps
    heading("One epoch, profiled")
    print(f"A step has {count:.1f} kernels and copies, which keep the GPU busy for {busy:.0f} us; with the profiler on")
    print(f"it takes {wall / steps * 1e6:.0f} us.\n")
    row("us a step", "launches a step", "kernel")
    row(*["---"] * 3)
    for kernel in kernels[:50]:
        name = kernel.key[:110].replace("|", " ")
        row(f"{kernel.self_device_time_total / steps:.2f}", f"{kernel.count / steps:.2f}", f"`{name}`")


def besides(train: Split, test: Split, device: torch.device) -> None:
    """What a run does besides its steps."""
    run = training.new_run(RECIPE, train, device)
    data, test_data = train.to(device), test.to(device)

    def augment() -> None:
        for _ in training._batches(data.images, data.labels, RECIPE, 1):  # noqa: SLF001
            pass
        data.labels.sum().item()

    def draw() -> None:
        generator = torch.Generator().manual_seed(0)
        torch.randperm(len(train), generator=generator)
        augmentation.draw_crop(len(train), generator)

    def write() -> None:
        with tempfile.TemporaryDirectory() as folder:
            training.write_atomically(Path(folder) / "checkpoint", training._to_checkpoint(run))  # noqa: SLF001

    jobs: dict[str, Callable[[], object]] = {
        "draw an epoch's order, crops and flips on the CPU": draw,
        "that, and augment and normalise the epoch": augment,
        "test on 10,000 images": lambda: evaluate(run.model, test_data, device, 1000),
        "write a checkpoint": write,
        "capture the graph": lambda: step_for(run.model, run.optimizer, RECIPE.batch_size, Ranks()),
        "SHA-256 of the training images": train.sha256,
    }
    heading("Besides the steps", "what", "median of 5, ms", "first, ms")
    for name, job in jobs.items():
        times = []
        with told(name), exact_float32():
            for _ in range(6):
                began = time.perf_counter()
                job()
                times.append((time.perf_counter() - began) * 1e3)
            row(name, f"{statistics.median(times[1:]):.1f}", f"{times[0]:.1f}")


def alternatives(train: Split, device: torch.device) -> None:
    """Other choices of kernels than `exact_float32`'s, the other layout, and no graph."""
    columns = ("ms an epoch", "us a step", "first epoch with capture, s", "loss in epoch 6")
    heading("Other choices, median of epochs 2 to 5", "step", "layout", "benchmark", "deterministic", "TF32", *columns)
    cases = [
        # graph, channels_last, benchmark, deterministic, TF32
        (True, False, False, True, False),
        (True, False, False, False, False),
        (True, False, True, True, False),
        (True, False, True, False, False),
        (True, False, True, False, True),
        (True, True, False, True, False),
        (True, True, True, False, False),
        (False, False, False, True, False),
    ]
    data = train.to(device)
    for graph, channels_last, benchmark, deterministic, tf32 in cases:
        name = ("graph" if graph else "launched", "NHWC" if channels_last else "NCHW", benchmark, deterministic, tf32)
        flags = torch.backends.cudnn.flags(
            enabled=True, benchmark=benchmark, deterministic=deterministic, allow_tf32=tf32
        )
        with told(str(name)), flags:
            times = [time.perf_counter()]
            run = training.new_run(RECIPE, train, device)
            if channels_last:
                run.model.to(memory_format=torch.channels_last)
            make = step_for if graph else _launched
            step = make(run.model, run.optimizer, RECIPE.batch_size, Ranks())
            for number in range(1, 7):
                loss, _ = training.train_epoch(step, data.images, data.labels, RECIPE, number)
                times.append(time.perf_counter())
            first, *seconds = (after - before for before, after in pairwise(times))
            epoch = statistics.median(seconds[:4])
            steps = -(-len(train) // RECIPE.batch_size)
            row(*name, f"{epoch * 1e3:.1f}", f"{epoch / steps * 1e6:.0f}", f"{first:.2f}", f"{loss:.4f}")


def _launched(model: training.LeNet, optimizer: torch.optim.SGD, _batch_size: int, ranks: Ranks) -> Step:
    return Step(model, optimizer, ranks)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs)
    parser.add_argument("--seeds", type=int, default=len(CPU), choices=range(1, len(CPU) + 1))
    arguments = parser.parse_args()
    device = devices.resolve("cuda")
    directory = cifar10.default_directory(None)
    train, test = cifar10.load("train", directory), cifar10.load("test", directory)
    packages = ", ".join(f"{name} {version}" for name, version in versions(("torch", "numpy")).items())
    packages += f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    print(f"# Training on {devices.describe(device)}\n")
    print(f"{len(train):,} training images, batch {RECIPE.batch_size}, fp32, TF32 off; {packages}; commit")
    print(f"{source_commit()}. Made by `docs/results/train_h100.py`, which says what each column is.", flush=True)
    with told("the whole recipe"):
        whole_runs(train, test, device, arguments.epochs, arguments.seeds)
    with told("repeating"):
        repeatable(train, test, device)
    with told("the commands"):
        commands(device, arguments.epochs)
    with told("the profile"):
        profile(train, device)
    with told("what is besides the steps"):
        besides(train, test, device)
    with told("other choices"):
        alternatives(train, device)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
