"""Where the time of training on a GPU goes: variants of a step, its kernels, and a run's other work; prints Markdown.

``LENET_DATA=... python experiments/train_steps.py >> docs/results/train-h100.md``

``--synthetic`` needs no data. A part that fails is named, and the others still run. The exit status is then 1.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.profiler
from torch.nn.functional import max_pool2d, relu

from common import add_synthetic_option, failures, head, heading, row, told, train_and_test
from lenet import devices
from lenet.data.cifar10 import Split
from lenet.files import write_atomically
from lenet.models.pytorch_lenet import LeNet
from lenet.training import gpu_forward, loop
from lenet.training.batches import draw_epoch, epoch_batches
from lenet.training.checkpoint import to_checkpoint
from lenet.training.evaluation import evaluate
from lenet.training.ranks import Ranks
from lenet.training.recipe import Recipe
from lenet.training.run import Run, new_run
from lenet.training.steps import GraphStep, Step, exact_float32, step_for

RECIPE = Recipe()


def profile(train: Split, device: torch.device) -> None:
    """One epoch through torch.profiler, kernel by kernel."""
    steps = -(-len(train) // RECIPE.batch_size)
    data = train.to(device)
    with exact_float32():
        run = new_run(RECIPE, train, device)
        step = step_for(run.model, run.optimizer, RECIPE.batch_size, Ranks())
        draws = [draw_epoch(len(train), RECIPE, number) for number in (1, 2)]
        loop.train_epoch(step, data.images, data.labels, RECIPE, 1, draws[0])
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as trace:
            began = time.perf_counter()
            loop.train_epoch(step, data.images, data.labels, RECIPE, 2, draws[1])
            wall = time.perf_counter() - began
    kernels = [kernel for kernel in trace.key_averages() if kernel.self_device_time_total > 0]
    kernels.sort(key=lambda kernel: -kernel.self_device_time_total)
    busy = sum(kernel.self_device_time_total for kernel in kernels) / steps
    count = sum(kernel.count for kernel in kernels) / steps
    heading("One epoch, profiled")
    print(f"A step has {count:.1f} kernels and copies, which keep the GPU busy for {busy:.0f} us; with the profiler on")
    print(f"it takes {wall / steps * 1e6:.0f} us.")
    head("us a step", "launches a step", "kernel")
    for kernel in kernels[:50]:
        name = kernel.key[:110].replace("|", " ")
        row(f"{kernel.self_device_time_total / steps:.2f}", f"{kernel.count / steps:.2f}", f"`{name}`")


def besides(train: Split, test: Split, device: torch.device) -> None:
    """Time a run's work besides its steps."""
    run = new_run(RECIPE, train, device)
    data, test_data = train.to(device), test.to(device)
    forward = partial(gpu_forward.forward, run.model)

    def augment() -> None:
        drawn = draw_epoch(len(train), RECIPE, 1)
        for _ in epoch_batches(data.images, data.labels, RECIPE, drawn):
            pass
        data.labels.sum().item()

    def draw() -> None:
        draw_epoch(len(train), RECIPE, 1)

    def write() -> None:
        with tempfile.TemporaryDirectory() as folder:
            write_atomically(Path(folder) / "checkpoint", to_checkpoint(run))

    jobs: dict[str, Callable[[], object]] = {
        "draw an epoch's order, crops and flips on the CPU": draw,
        "that, and augment and normalise the epoch": augment,
        "test on 10,000 images": lambda: evaluate(forward, test_data, device, loop._GPU_EVALUATION_BATCH),  # noqa: SLF001
        "write a checkpoint": write,
        "make the step ready": lambda: step_for(run.model, run.optimizer, RECIPE.batch_size, Ranks()),
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


def conv1_by_cudnn(model: LeNet, images: torch.Tensor) -> torch.Tensor:
    return then_windows(model, relu(max_pool2d(model.conv1(images), 2)))


def then_windows(model: LeNet, x: torch.Tensor) -> torch.Tensor:
    x = gpu_forward._convolve_pool_activate(x, model.conv2)  # noqa: SLF001
    x = relu(gpu_forward._multiply(x.flatten(1), model.fc1))  # noqa: SLF001
    x = relu(gpu_forward._multiply(x, model.fc2))  # noqa: SLF001
    return gpu_forward._multiply(x, model.fc3)  # noqa: SLF001


def plain_products(model: LeNet, images: torch.Tensor) -> torch.Tensor:
    x = gpu_forward._convolve_pool_activate(images, model.conv1)  # noqa: SLF001
    x = gpu_forward._convolve_pool_activate(x, model.conv2)  # noqa: SLF001
    x = relu(model.fc2(relu(model.fc1(x.flatten(1)))))
    logits: torch.Tensor = model.fc3(x)
    return logits


def by_the_module(model: LeNet, images: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(images)
    return logits


@dataclass(frozen=True)
class Variant:
    """An alternative to the step of `lenet.training.steps.step_for`."""

    name: str
    forward: Callable[[LeNet, torch.Tensor], torch.Tensor]
    deterministic: bool = True
    cublaslt: bool = False
    graph: bool = True
    dtype: torch.dtype = torch.float32

    @contextmanager
    def begun(self, train: Split, device: torch.device) -> Iterator[tuple[Run, Step]]:
        """A new run and its step, under the variant's flags."""
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=self.deterministic, allow_tf32=False
        ):
            before = torch.backends.cuda.preferred_blas_library()
            torch.backends.cuda.preferred_blas_library("cublaslt" if self.cublaslt else before)
            try:
                run = new_run(RECIPE, train, device)
                run.model.to(self.dtype)
                forward = partial(lambda model, images: self.forward(model, images.to(self.dtype)), run.model)
                if self.graph:
                    step: Step = GraphStep(run.model, run.optimizer, Ranks(), RECIPE.batch_size, forward)
                else:
                    step = Step(run.model, run.optimizer, Ranks(), forward)
                yield run, step
            finally:
                torch.backends.cuda.preferred_blas_library(before)


CHOSEN = Variant("windows (`step_for`'s without our own kernels)", gpu_forward.forward)
REFERENCE = Variant("reference: float64, the module, launched", by_the_module, graph=False, dtype=torch.float64)
VARIANTS = (
    CHOSEN,
    Variant("windows, cuBLASLt preferred", gpu_forward.forward, cublaslt=True),
    Variant("windows, weight gradients of fc in one product", plain_products),
    Variant("the same, cuBLASLt preferred", plain_products, cublaslt=True),
    Variant("conv1 by cuDNN, conv2 by windows", conv1_by_cudnn),
    Variant("the same, not deterministic", conv1_by_cudnn, deterministic=False),
    Variant("the module, graph", by_the_module),
    Variant("the module, graph, not deterministic", by_the_module, deterministic=False),
    CHOSEN,
)


def variants(train: Split, device: torch.device) -> None:
    """Run each variant on the same steps as a float64 run, then time whole epochs, drawn in advance."""
    few = train.head(min(len(train), 10_000)).to(device)
    data = train.to(device)
    steps = -(-len(train) // RECIPE.batch_size)

    def differs(variant: Variant) -> tuple[float, list[torch.Tensor], float]:
        began = time.perf_counter()
        with variant.begun(few, device) as (run, step):
            loss, _ = loop.train_epoch(step, few.images, few.labels, RECIPE, 1)
            return loss, [p.detach().double() for p in run.model.parameters()], time.perf_counter() - began

    wanted_loss, wanted, reference = differs(REFERENCE)
    count = len(few) // RECIPE.batch_size
    columns = ("ms an epoch", "us a step", f"capture and {count} steps, s", "their loss less float64's")
    heading("Variants, median of 4 epochs", "step", *columns, "a weight, at most", "the same bits again")
    row(REFERENCE.name, "", "", f"{reference:.2f}", "", "", "")
    for variant in VARIANTS:
        with told(variant.name):
            loss, found, first = differs(variant)
            _, again, _ = differs(variant)
            same = all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
            largest = max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))
            times = []
            with variant.begun(few, device) as (_, step):
                for number in range(1, 6):
                    draw = draw_epoch(len(train), RECIPE, number)
                    began = time.perf_counter()
                    loop.train_epoch(step, data.images, data.labels, RECIPE, number, draw)
                    times.append(time.perf_counter() - began)
            epoch = statistics.median(times[1:])
            numbers = f"{epoch * 1e3:.1f}", f"{epoch / steps * 1e6:.0f}", f"{first:.2f}"
            row(variant.name, *numbers, f"{loss - wanted_loss:.1e}", f"{largest:.1e}", same)


BEGINNING = """
import time; began = time.perf_counter()
def lap(what):
    global began
    torch.cuda.synchronize(); now = time.perf_counter(); print(f"{what} {now - began:.2f}", end="; "); began = now
import torch, tempfile
from pathlib import Path
from lenet.training.batches import draw_epoch, epoch_batches
from lenet.training.checkpoint import to_checkpoint
from lenet.training.recipe import Recipe
from lenet.training.run import EpochRecord, Run, new_run
from lenet.training import loop
from lenet.data.synthetic import synthetic
from lenet.training.steps import exact_float32
print(f"import {time.perf_counter() - began:.2f}", end="; ")
train, test = synthetic(50_000), synthetic(10_000)
began = time.perf_counter()
a = torch.zeros(8, 8, device="cuda"); lap("CUDA's context")
a @ a; lap("cuBLAS")
from lenet.training.steps import step_for
from lenet.training.ranks import Ranks
run = new_run(Recipe(), train, a.device); lap("a new run")
with exact_float32():
    step = step_for(run.model, run.optimizer, 200, Ranks()); lap("capture")
for _ in range(2):
    with tempfile.TemporaryDirectory() as folder:
        loop.train(Recipe(epochs=2), train, test, out=Path(folder) / "run", device=a.device)
    lap("2 epochs")
with exact_float32():
    run.model(torch.zeros(200, 3, 32, 32, device="cuda")).sum().backward(); lap("cuDNN, which is not used")
"""


def beginning() -> None:
    """Time a process's start, stage by stage, with the libraries' files already in the page cache."""
    heading("From a process's start, seconds")
    command = [sys.executable, "-c", BEGINNING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    print(done.stdout, done.stderr[-500:], flush=True)
    done.check_returncode()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_synthetic_option(parser)
    option = parser.parse_args(arguments)
    device = devices.resolve("cuda")
    train, test = train_and_test(option)
    with told("the variants"):
        variants(train, device)
    with told("the profile"):
        profile(train, device)
    with told("what is besides the steps"):
        besides(train, test, device)
    with told("the beginning"):
        beginning()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
