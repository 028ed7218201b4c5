"""Training on a GPU: five seeds by the whole recipe, and where the time goes; prints Markdown.

LENET_DATA=... python experiments/train_h100.py [--epochs 60] [--seeds 5] > docs/results/train-h100.md
python experiments/train_h100.py --quick                               # no data: variants of a step, where time goes

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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import torch
import torch.profiler
from torch.nn.functional import max_pool2d, relu

from lenet import devices, weights
from lenet.data import cifar10
from lenet.data.cifar10 import Split
from lenet.data.synthetic import synthetic
from lenet.files import write_atomically
from lenet.models.pytorch_lenet import LeNet
from lenet.provenance import source_commit, versions
from lenet.training import gpu_forward, loop
from lenet.training.batches import draw_epoch, epoch_batches
from lenet.training.checkpoint import to_checkpoint
from lenet.training.evaluation import evaluate
from lenet.training.ranks import Ranks
from lenet.training.recipe import Recipe
from lenet.training.run import EpochRecord, Run, new_run
from lenet.training.steps import GraphStep, Step, exact_float32, step_for

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
    """`lenet train` on a GPU, as a process of its own, or as so many of torchrun's."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks else []
    return [sys.executable, *torchrun, "-m", "lenet", "train", "--device", "cuda", "--out", str(out), *options]


def run_command(name: str, parts: list[str]) -> None:
    """Run it to its end, and print a row of how that went."""
    began = time.perf_counter()
    done = subprocess.run(parts, capture_output=True, text=True, timeout=300, check=False)  # noqa: S603
    wall = time.perf_counter() - began
    row(name, f"{wall:.2f}", done.returncode, (done.stdout.strip() or done.stderr[-500:]).replace("\n", " "))


def largest_difference(*runs: Path) -> float:
    """The most that a weight of two runs differs by."""
    one, other = (weights.load(path / "weights.safetensors").arrays for path in runs)
    return float(max(abs(one[name] - other[name]).max() for name in one))


COMMAND_COLUMNS = ("started by", "wall, s", "exit code", "said at the end")


def commands(epochs: int) -> None:
    """`lenet train` from a process's start to its end, alone and as a rank for each GPU of torchrun's (NCCL).

    At the recipe's rate rounding grows until weights are others; at one so small that no pixel changes the side of a
    ReLU's or a pool's edge, they differ by rounding alone: `tests/test_ranks.py` derives by how much.
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
    """Kill the last rank after some epochs, and resume; `whole` is the run that none killed."""
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
    print(f"it takes {wall / steps * 1e6:.0f} us.\n")
    row("us a step", "launches a step", "kernel")
    row(*["---"] * 3)
    for kernel in kernels[:50]:
        name = kernel.key[:110].replace("|", " ")
        row(f"{kernel.self_device_time_total / steps:.2f}", f"{kernel.count / steps:.2f}", f"`{name}`")


def besides(train: Split, test: Split, device: torch.device) -> None:
    """What a run does besides its steps."""
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
    """A step that could be `lenet.training.steps.step_for`'s."""

    name: str
    forward: Callable[[LeNet, torch.Tensor], torch.Tensor]
    deterministic: bool = True
    cublaslt: bool = False
    graph: bool = True
    dtype: torch.dtype = torch.float32

    @contextmanager
    def begun(self, train: Split, device: torch.device) -> Iterator[tuple[Run, Step]]:
        """A new run and its step, inside the flags that the variant wants."""
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


CHOSEN = Variant("windows (`step_for`'s)", gpu_forward.forward)
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
    """Each first goes the same steps as a float64 run, then whole epochs, whose draw was done before."""
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
    """What a process pays once, stage by stage, when the libraries' files were read by another before."""
    heading("From a process's start, seconds")
    command = [sys.executable, "-c", BEGINNING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    print(done.stdout, done.stderr[-500:], flush=True)
    done.check_returncode()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs)
    parser.add_argument("--seeds", type=int, default=len(CPU), choices=range(1, len(CPU) + 1))
    parser.add_argument("--quick", action="store_true", help="synthetic images; no whole runs; well under a minute")
    arguments = parser.parse_args()
    device = devices.resolve("cuda")
    if arguments.quick:
        train, test = synthetic(50_000), synthetic(10_000)
    else:
        directory = cifar10.default_directory(None)
        train, test = cifar10.load("train", directory), cifar10.load("test", directory)
    packages = ", ".join(f"{name} {version}" for name, version in versions(("torch", "numpy")).items())
    packages += f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    print(f"# Training on {devices.describe(device)}\n")
    kind = "synthetic" if arguments.quick else "training"
    print(f"{len(train):,} {kind} images, batch {RECIPE.batch_size}, fp32, TF32 off; {packages}; commit")
    print(f"{source_commit()}. Made by `experiments/train_h100.py`, which says what each column is.", flush=True)
    if not arguments.quick:
        with told("the whole recipe"):
            whole_runs(train, test, device, arguments.epochs, arguments.seeds)
        with told("repeating"):
            repeatable(train, test, device)
        with told("the commands"):
            commands(arguments.epochs)
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
