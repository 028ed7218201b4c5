"""Ways to a faster training step on a GPU, side by side, and the accuracy of whole runs; prints Markdown.

``LENET_DATA=... python experiments/train_fast.py [steps] [kernels] [compile] [runs] > docs/results/train-fast-h200.md``

Without a part all are run. ``runs`` trains the whole recipe by our own kernels and by PyTorch's graph, and compares the
two samples of accuracies. ``--record FILE`` keeps them: a sample may come from several runs of this script.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.profiler
from scipy.stats import ks_2samp, mannwhitneyu

from common import add_synthetic_option, failures, head, heading, row, told, train_and_test
from lenet import devices
from lenet.data.cifar10 import Split
from lenet.documents import parse, to_json
from lenet.models.pytorch_lenet import LeNet
from lenet.provenance import source_commit, versions
from lenet.training import gpu_forward, loop, step_kernels
from lenet.training.batches import draw_epoch
from lenet.training.ranks import Ranks
from lenet.training.recipe import Recipe
from lenet.training.run import Run, new_run
from lenet.training.steps import FusedStep, GraphStep, Step, exact_float32, step_for
from train_h100 import repeatable

RECIPE = Recipe()
STEPS = 125  # of a timed pass
PARTS = ("steps", "kernels", "compile", "runs")


class CapturedFusedStep(GraphStep):
    """Our own kernels, replayed as one graph."""

    def __init__(self, run: Run) -> None:
        kernels = step_kernels.load(run.model.fc3.weight.device)
        self._fused = FusedStep(run.model, run.optimizer, run.recipe.batch_size, kernels)
        super().__init__(run.model, run.optimizer, Ranks(), run.recipe.batch_size)
        self.augment = kernels.augment

    def _descend(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self._fused(images, labels)
        logits, _ = self._fused._seen.pop()  # noqa: SLF001
        return logits


class Together(GraphStep):
    """Networks of several seeds on the same batches, each on a stream of its own, replayed as one graph."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._others = [
            Step(run.model, run.optimizer, Ranks(), partial(gpu_forward.forward, run.model)) for run in runs[1:]
        ]
        self._streams = [torch.cuda.Stream() for _ in runs[1:]]
        first = runs[0]
        super().__init__(
            first.model, first.optimizer, Ranks(), first.recipe.batch_size, partial(gpu_forward.forward, first.model)
        )

    def _descend(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        here = torch.cuda.current_stream()
        for step, stream in zip(self._others, self._streams, strict=True):
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                step._descend(images, labels)  # noqa: SLF001
        logits = super()._descend(images, labels)
        for stream in self._streams:
            here.wait_stream(stream)
        return logits


def channels_last(run: Run) -> Step:
    """The module as it is, with the layout and the kernels that cuDNN is fastest with."""
    run.model.to(memory_format=torch.channels_last)

    def forward(images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = run.model(images.contiguous(memory_format=torch.channels_last))
        return logits

    return GraphStep(run.model, run.optimizer, Ranks(), run.recipe.batch_size, forward)


def windows(run: Run) -> Step:
    return GraphStep(run.model, run.optimizer, Ranks(), run.recipe.batch_size, partial(gpu_forward.forward, run.model))


def compiled(forward: Callable[[LeNet, torch.Tensor], torch.Tensor], run: Run) -> Step:
    """Forward, loss and backward by TorchInductor, in the graph."""
    logits = torch.compile(partial(forward, run.model))
    return GraphStep(run.model, run.optimizer, Ranks(), run.recipe.batch_size, logits)


def by_module(model: LeNet, images: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(images)
    return logits


def fused(run: Run) -> Step:
    forward = partial(gpu_forward.forward, run.model)
    return FusedStep(
        run.model, run.optimizer, run.recipe.batch_size, step_kernels.load(run.model.fc3.weight.device), forward
    )


@contextmanager
def fastest_cudnn() -> Iterator[None]:
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=False):
        yield


def microseconds(step: Step, data: Split, passes: int = 4) -> float:
    """Of a step: the median pass of STEPS steps, their images drawn and augmented as in training."""
    few = data.head(STEPS * RECIPE.batch_size)
    times = []
    for number in range(1, passes + 1):
        draw = draw_epoch(len(few), RECIPE, number)
        began = time.perf_counter()
        loop.train_epoch(step, few.images, few.labels, RECIPE, number, draw)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:]) / STEPS * 1e6


def compare(ways: dict[str, Callable[[Run], Step]], train: Split, device: torch.device, title: str) -> None:
    """Time each way, and compare its weights after 25 steps with those of the graph."""
    data = train.to(device)
    few = data.head(25 * RECIPE.batch_size)

    def weights_after(way: Callable[[Run], Step]) -> tuple[torch.Tensor, float, float]:
        run = new_run(RECIPE, train.head(RECIPE.batch_size), device)
        began = time.perf_counter()
        step = way(run)
        loss, _ = loop.train_epoch(step, few.images, few.labels, RECIPE, 1)
        return torch.cat([p.detach().flatten() for p in run.model.parameters()]), time.perf_counter() - began, loss

    heading(
        title, "step", "us a step", "until 25 steps are done, s", "loss of 25 steps", "a weight, at most", "same bits"
    )
    with exact_float32():
        wanted, _, _ = weights_after(windows)
    for name, way in ways.items():
        flags = fastest_cudnn() if way is channels_last else exact_float32()
        with told(name), flags:
            found, first, loss = weights_after(way)
            again, _, _ = weights_after(way)
            largest = float((found - wanted).abs().max())
            step = way(new_run(RECIPE, train.head(RECIPE.batch_size), device))
            us = microseconds(step, data)
            row(name, f"{us:.0f}", f"{first:.2f}", f"{loss:.5f}", f"{largest:.1e}", torch.equal(found, again))


def several(train: Split, device: torch.device, counts: Sequence[int]) -> None:
    """Several seeds as branches of one graph."""
    data = train.to(device)
    heading("Seeds as branches of PyTorch's graph", "seeds", "us a step", "us a step and seed")
    for count in counts:
        with told(f"{count} seeds"), exact_float32():
            runs = [new_run(Recipe(seed=seed), train.head(RECIPE.batch_size), device) for seed in range(count)]
            us = microseconds(Together(runs), data)
            row(count, f"{us:.0f}", f"{us / count:.0f}")


def kernels(train: Split, device: torch.device) -> None:
    """What the GPU does in a pass of our own kernels, kernel by kernel."""
    data = train.head(STEPS * RECIPE.batch_size).to(device)
    with exact_float32():
        step = fused(new_run(RECIPE, train.head(RECIPE.batch_size), device))
        microseconds(step, data, 2)
        draw = draw_epoch(len(data), RECIPE, 3)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as trace:
            loop.train_epoch(step, data.images, data.labels, RECIPE, 3, draw)
    found = [kernel for kernel in trace.key_averages() if kernel.self_device_time_total > 0]
    found.sort(key=lambda kernel: -kernel.self_device_time_total)
    heading("A pass of our own kernels, profiled")
    head("us a step", "launches a step", "kernel")
    for kernel in found[:12]:
        name = kernel.key[:90].replace("|", " ")
        row(f"{kernel.self_device_time_total / STEPS:.2f}", f"{kernel.count / STEPS:.2f}", f"`{name}`")
    with exact_float32():
        step._seen.clear()  # noqa: SLF001
        images = torch.zeros(RECIPE.batch_size, 3, 32, 32, device=device)
        labels = torch.zeros(RECIPE.batch_size, dtype=torch.int64, device=device)
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(200):
            step(images, labels)
        queued = time.perf_counter() - began
        torch.cuda.synchronize()
        done = time.perf_counter() - began
    print(f"\nThe CPU queues a step in {queued / 200 * 1e6:.1f} us; the GPU is done in {done / 200 * 1e6:.1f} us.")


def whole_run(way: str, train: Split, test: Split, device: torch.device, recipe: Recipe) -> dict[str, object]:
    """A run of the recipe: its times, loss and accuracy."""
    load = {"graph": lambda *_: None, "kernels": step_kernels.load}[way]
    with tempfile.TemporaryDirectory() as folder, patch("lenet.training.steps._load_kernels", load):
        began = time.perf_counter()
        run = loop.train(recipe, train, test, out=Path(folder) / "run", device=device)
        wall = time.perf_counter() - began
    return summary(way, recipe, run, wall)


def summary(way: str, recipe: Recipe, run: Run, wall: float | None) -> dict[str, object]:
    last = run.history[-1]
    alone = None if wall is None else sum(record.seconds for record in run.history)
    return {
        "way": way,
        "seed": recipe.seed,
        "epochs": recipe.epochs,
        "wall": wall,
        "alone": alone,
        "loss": last.test_loss,
        "accuracy": last.test_accuracy,
    }


def runs(
    train: Split,
    test: Split,
    device: torch.device,
    recipes: dict[str, list[Recipe]],
    record: Path | None,
    *,
    together: bool = False,
) -> None:
    """Whole runs, each recipe of each way; then whether the two samples of accuracies differ."""
    columns = ("wall, s", "epochs without tests, s", "loss", "accuracy")
    heading("The whole recipe", "way", "seed", *columns)
    done = [parse(line) for line in record.read_text().splitlines()] if record and record.exists() else []

    def keep(found: dict[str, object]) -> None:
        done.append(found)
        if record:
            with record.open("a") as file:
                file.write(to_json(found) + "\n")

    for way, of in recipes.items():
        began = time.perf_counter()
        with told(way):
            if together and way == "graph":
                for found in at_the_same_time(train, test, device, of):
                    keep(found)
            else:
                for recipe in of:
                    keep(whole_run(way, train, test, device, recipe))
        print_runs([run for run in done if run["way"] == way], way)
        row(way, "all of this process", f"{time.perf_counter() - began:.2f}", "", "", "")
    two_samples(done)


def at_the_same_time(
    train: Split, test: Split, device: torch.device, recipes: Sequence[Recipe]
) -> list[dict[str, object]]:
    """Whole runs by PyTorch's graph, each in a thread and on a stream of its own: for their accuracies, without times.

    Seeds are set and graphs captured one after the other: both change what all threads share.
    """
    one_at_a_time, ready = threading.Lock(), threading.Barrier(len(recipes))
    new, choose = new_run, step_for

    def new_run_alone(*arguments: Any) -> Run:
        with one_at_a_time:
            return new(*arguments)

    def step_for_alone(*arguments: Any) -> Step:
        ready.wait()
        with one_at_a_time:
            step = choose(*arguments)
        ready.wait()
        return step

    def train_one(recipe: Recipe) -> dict[str, object]:
        stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        with torch.cuda.stream(stream), tempfile.TemporaryDirectory() as folder:
            run = loop.train(recipe, train, test, out=Path(folder) / "run", device=device)
        return summary("graph", recipe, run, None)

    changed = patch.multiple(loop, new_run=new_run_alone, step_for=step_for_alone)
    no_kernels = patch("lenet.training.steps._load_kernels", lambda _device: None)
    with changed, no_kernels, ThreadPoolExecutor(len(recipes)) as threads:
        return list(threads.map(train_one, recipes))


def print_runs(of: list[dict[str, object]], way: str) -> None:
    columns = {"wall": ".2f", "alone": ".2f", "loss": ".4f", "accuracy": ".4f"}
    for run in sorted(of, key=lambda run: int(str(run["seed"]))):
        row(way, run["seed"], *("" if run[name] is None else format(run[name], form) for name, form in columns.items()))
    for what, of_all in (("mean", statistics.mean), ("standard deviation", statistics.stdev)):
        numbers = [[float(str(run[name])) for run in of if run[name] is not None] for name in columns]
        forms = zip(numbers, columns.values(), strict=True)
        if len(of) > 1:
            row(way, what, *(format(of_all(column), form) if len(column) > 1 else "" for column, form in forms))


def two_samples(done: list[dict[str, object]]) -> None:
    """Whether both ways give accuracies, and losses, of one distribution."""
    heading("The same distribution?", "of", "n", "Mann-Whitney U, p", "Kolmogorov-Smirnov, p")
    for name in ("accuracy", "loss"):
        one, other = ([float(str(run[name])) for run in done if run["way"] == way] for way in ("kernels", "graph"))
        if one and other:
            numbers = f"{mannwhitneyu(one, other).pvalue:.2f}", f"{ks_2samp(one, other).pvalue:.2f}"
            row(name, f"{len(one)} and {len(other)}", *numbers)


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (all)")
    add_synthetic_option(parser)
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs)
    parser.add_argument(
        "--seeds", type=int, nargs=2, default=(0, 10), metavar=("FROM", "TO"), help="of our own kernels"
    )
    parser.add_argument("--graph-seeds", type=int, nargs=2, default=(0, 10), metavar=("FROM", "TO"))
    parser.add_argument("--together", action="store_true", help="train the graph's seeds at the same time")
    parser.add_argument("--record", type=Path, help="JSON lines of whole runs, read and added to")
    option = parser.parse_args(arguments)
    option.parts = option.parts or PARTS
    if not {*option.parts} <= {*PARTS}:
        parser.error(f"parts are {', '.join(PARTS)}")
    return option


def main(arguments: Sequence[str] | None = None) -> int:
    option = parse_options(arguments)
    chosen = option.parts
    device = devices.resolve("cuda")
    train, test = train_and_test(option)
    packages = ", ".join(f"{name} {version}" for name, version in versions(("torch", "numpy", "cuda-core")).items())
    print(f"# A faster training step on {devices.describe(device)}\n")
    print(
        f"Batch {RECIPE.batch_size}, fp32, TF32 off; {packages}, CUDA {torch.version.cuda}; commit {source_commit()}."
    )
    print("Made by `experiments/train_fast.py`, which says what each column is.", flush=True)
    if "steps" in chosen:
        ways: dict[str, Callable[[Run], Step]] = {
            "graph, windows": windows,
            "graph, the module, channels last, cuDNN's fastest": channels_last,
            "our own kernels": fused,
            "our own kernels, graph": CapturedFusedStep,
        }
        with told("steps"):
            compare(ways, train, device, f"Steps, {STEPS} at a time")
        with told("several seeds"):
            several(train, device, (2, 5, 10))
    if "kernels" in chosen:
        with told("kernels"):
            kernels(train, device)
        with told("repeating"):
            repeatable(train, test, device)
    if "compile" in chosen:
        by_inductor: dict[str, Callable[[Run], Step]] = {
            "graph, windows by TorchInductor": partial(compiled, gpu_forward.forward),
            "graph, the module by TorchInductor": partial(compiled, by_module),
        }
        with told("compile"):
            compare(by_inductor, train, device, "By TorchInductor")
    if "runs" in chosen:
        with told("runs"):
            seeds = {"kernels": range(*option.seeds), "graph": range(*option.graph_seeds)}
            recipes = {way: [Recipe(epochs=option.epochs, seed=seed) for seed in of] for way, of in seeds.items()}
            runs(train, test, device, recipes, option.record, together=option.together)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
