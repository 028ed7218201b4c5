"""Training on a GPU by the whole recipe: five seeds, resumed runs, and ranks of ``torchrun``; prints Markdown.

``LENET_DATA=... python experiments/train_h100.py [--epochs 60] [--seeds 5] > docs/results/train-h100.md``

``train_steps.py`` prints the rest of that file. A part that fails is named, and the others still run. The exit status
is then 1.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from common import failures, heading, row, told
from lenet import devices, weights
from lenet.data import cifar10
from lenet.data.cifar10 import Split
from lenet.provenance import source_commit, versions
from lenet.training import loop
from lenet.training.recipe import Recipe
from lenet.training.run import EpochRecord

CPU = ((0.7997, 0.7223), (0.7843, 0.7297), (0.7766, 0.7309), (0.7758, 0.7299), (0.7818, 0.7304))
"""Loss and accuracy of seeds 0 to 4 on a CPU, from the README."""

RECIPE = Recipe()


def decimals(numbers: Sequence[float]) -> list[str]:
    return [f"{number:.2f}" for number in numbers[:2]] + [f"{number:.4f}" for number in numbers[2:]]


def whole_runs(train: Split, test: Split, device: torch.device, epochs: int, seeds: int) -> None:
    """`wall, s` is all of `loop.train`: data to the GPU, capture, each epoch with its test and its checkpoint."""
    columns = ("wall, s", "epochs without tests, s", "loss", "accuracy", "CPU: loss", "CPU: accuracy")
    heading("The whole recipe", "seed", *columns)
    done = []
    for seed in range(seeds):
        with told(f"seed {seed}"), tempfile.TemporaryDirectory() as folder:
            recipe = Recipe(epochs=epochs, seed=seed)
            began = time.perf_counter()
            run = loop.train(recipe, train, test, out=Path(folder) / "run", device=device)
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

    def stop(record: EpochRecord) -> None:
        if record.epoch == recipe.epochs - 1:
            raise KeyboardInterrupt

    with tempfile.TemporaryDirectory() as folder:
        out = [Path(folder) / str(number) for number in range(3)]
        runs = [loop.train(recipe, train, test, out=path, device=device) for path in out[:2]]
        try:
            loop.train(recipe, train, test, out=out[2], device=device, on_epoch=stop)
        except KeyboardInterrupt:
            runs.append(loop.train(recipe, train, test, out=out[2], device=device, resume=True))
    heading("The same bits?")
    first, *others = ([p.detach().cpu() for p in run.model.parameters()] for run in runs)
    for name, other in zip(("a second run", "a resumed run"), others, strict=True):
        largest = max(float((a - b).abs().max()) for a, b in zip(first, other, strict=True))
        print(f"- {name} of {recipe.epochs} epochs: a weight differs by at most {largest:.1e}", flush=True)


def command(out: Path, *options: str, ranks: int = 0) -> list[str]:
    """The command of `lenet train` on a GPU, in one process, or in some that torchrun starts."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks else []
    return [sys.executable, *torchrun, "-m", "lenet", "train", "--device", "cuda", "--out", str(out), *options]


def run_command(name: str, parts: list[str]) -> None:
    """Run a command to its end, and print a row about it."""
    began = time.perf_counter()
    done = subprocess.run(parts, capture_output=True, text=True, timeout=300, check=False)  # noqa: S603
    wall = time.perf_counter() - began
    row(name, f"{wall:.2f}", done.returncode, (done.stdout.strip() or done.stderr[-500:]).replace("\n", " "))


def largest_difference(*runs: Path) -> float:
    """The largest difference of a weight between two runs."""
    one, other = (weights.load(path / "weights.safetensors").arrays for path in runs)
    return float(max(abs(one[name] - other[name]).max() for name in one))


COMMAND_COLUMNS = ("started by", "wall, s", "exit code", "said at the end")


def commands(epochs: int) -> None:
    """Time `lenet train` from a process's start to its end: alone, and with a rank of torchrun for each GPU (NCCL).

    At the recipe's learning rate, rounding grows until the weights differ. At a very small rate no value crosses the
    edge of a ReLU or of a pool, and weights differ by rounding alone. `tests/training/test_ranks.py` derives the bound.
    """
    count = torch.cuda.device_count()
    heading(f"As a command, {epochs} epochs", *COMMAND_COLUMNS)
    slowly, steps = ("--epochs", "1", "--learning-rate", "0.00005"), 250
    with tempfile.TemporaryDirectory() as folder:
        alone, ranks, slow_alone, slow_ranks = (Path(folder) / str(number) for number in range(4))
        run_command("python", command(alone, "--epochs", str(epochs)))
        run_command(f"torchrun, ranks: {count}", command(ranks, "--epochs", str(epochs), ranks=count))
        run_command("python, 1 epoch at 0.00005", command(slow_alone, *slowly))
        run_command(f"torchrun, ranks: {count}, the same", command(slow_ranks, *slowly, ranks=count))
        print(f"\nA weight of the first two differs by at most {largest_difference(alone, ranks):.1e}.")
        found, allowed = largest_difference(slow_alone, slow_ranks), steps * 2.0**-24 * 0.25 * (1 + 0.0005 * 199)
        print(f"Of the last two by {found:.1e}; {allowed:.1e} is allowed.", flush=True)
        if count > 1:
            kill_a_rank(Path(folder) / "killed", epochs, count, ranks)
    if not found <= allowed:
        raise AssertionError(f"ranks give other weights: {found:.1e}")


def kill_a_rank(out: Path, epochs: int, count: int, whole: Path) -> None:
    """Kill the last rank after some epochs, and resume; `whole` is an undisturbed run."""
    options = ("--epochs", str(epochs))
    with subprocess.Popen(command(out, *options, ranks=count), stderr=subprocess.PIPE, text=True) as process:  # noqa: S603
        started: dict[str, psutil.Process] = {}
        history = out / "history.csv"
        while not history.exists() or len(history.read_text(encoding="utf-8").splitlines()) < 5:  # noqa: PLR2004
            if process.poll() is not None:
                raise AssertionError(f"it ended before a rank was killed: {process.communicate()[1][-2000:]}")
            with suppress(psutil.Error):  # of a child that has just ended
                started |= {child.environ().get("RANK", ""): child for child in psutil.Process(process.pid).children()}
            time.sleep(0.01)
        started[str(count - 1)].kill()
        killed = time.perf_counter()
        _, said = process.communicate(timeout=180)
        seconds = time.perf_counter() - killed
    heading("A rank is killed, and the run resumed", *COMMAND_COLUMNS)
    survivor = said[said.find("lenet (rank") :].splitlines()[:4] if "lenet (rank" in said else said[-1500:].splitlines()
    row("kill -9, until torchrun ended", f"{seconds:.2f}", process.returncode, " ".join(survivor).replace("|", " "))
    run_command("torchrun, --resume", command(out, *options, "--resume", ranks=count))
    found = largest_difference(whole, out)
    print(f"\nA weight differs from the run's that none killed by at most {found:.1e}.", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs)
    parser.add_argument("--seeds", type=int, default=len(CPU), choices=range(1, len(CPU) + 1))
    option = parser.parse_args(arguments)
    device = devices.resolve("cuda")
    directory = cifar10.default_directory(None)
    train, test = cifar10.load("train", directory), cifar10.load("test", directory)
    packages = ", ".join(f"{name} {version}" for name, version in versions(("torch", "numpy")).items())
    packages += f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    print(f"# Training on {devices.describe(device)}\n")
    print(f"{len(train):,} training images, batch {RECIPE.batch_size}, fp32, TF32 off; {packages}; commit")
    print(f"{source_commit()}. Made by `train_h100.py` and `train_steps.py` in `experiments/`, which say what each")
    print("column is.", flush=True)
    with told("the whole recipe"):
        whole_runs(train, test, device, option.epochs, option.seeds)
    with told("repeating"):
        repeatable(train, test, device)
    with told("the commands"):
        commands(option.epochs)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
