"""The command line. Heavy modules are imported inside the command that needs them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lenet import __version__
from lenet.documents import finite, to_json
from lenet.errors import BackendError, LenetError, ResultsError
from lenet.guard import GuardedGroup
from lenet.terminal import tell

if TYPE_CHECKING:
    import torch

    from lenet.data.cifar10 import Split
    from lenet.results import Measurement
    from lenet.weights import Arrays

__all__ = ["main"]

_data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Directory that holds cifar-10-batches-py or cifar-10-batches-bin.  [default: $LENET_DATA, else ./data]",
)
_unknown_option = click.option(
    "--accept-unknown-data",
    "accept_unknown",
    is_flag=True,
    help="Use a cifar-10-batches-bin whose files are not the official ones; results then say so.",
)
_download_option = click.option("--download", is_flag=True, help="Fetch CIFAR-10 into it first (170 MB).")
_device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where to compute."
)
_threads_option = click.option(
    "--threads", type=click.IntRange(1, 1024), help="CPU threads of PyTorch.  [default: PyTorch's own choice]"
)
_weights_option = click.option(
    "--weights", "path", type=click.Path(path_type=Path), help="A weights file.  [default: the shipped one]"
)


_storage_option = click.option(
    "--storage",
    type=click.Path(path_type=Path),
    default=Path(".benchmarks"),
    show_default=True,
    help="Directory of the saved measurements.",
)


def _precision(*choices: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--precision", type=click.Choice(choices), default="fp32", show_default=True, help="Arithmetic to ask for."
    )


_onnx_precision_option = _precision("fp32", "tf32", "fp16", "bf16")
_precision_option = _precision("fp32", "tf32", "fp16", "bf16", "fp16x2")


@click.group(
    cls=GuardedGroup,
    epilog="Exit codes: 0, done and well; 1, a bad verdict (evaluate, doctor, gate) or a file that could not be read "
    "(report); 2, no result, and the message says why; 3, an inconclusive gate; 70, an unforeseen error, with its "
    "traceback; 130, interrupted.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.version_option(__version__, prog_name="lenet")
def main() -> None:
    """LeNet on CIFAR-10: train it, evaluate it, and see which inference runtimes can run it here."""


@main.command()
@_data_option
@_unknown_option
@_download_option
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/lenet"), show_default=True, help="Run directory."
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in the run directory.")
@_device_option
@_threads_option
@click.option("--epochs", type=int, default=60, show_default=True, help="Passes over the training images.")
@click.option("--batch-size", type=int, default=200, show_default=True, help="Images a step.")
@click.option("--learning-rate", type=float, default=0.05, show_default=True, help="SGD's, before any decay.")
@click.option("--momentum", type=float, default=0.9, show_default=True, help="SGD's.")
@click.option("--weight-decay", type=float, default=5e-4, show_default=True, help="SGD's, on every parameter.")
@click.option(
    "--milestone",
    "milestones",
    type=int,
    multiple=True,
    default=(30, 45),
    show_default=True,
    help="Epoch after which the learning rate decays; repeatable.",
)
@click.option("--decay", type=float, default=0.1, show_default=True, help="Factor of the learning rate at a milestone.")
@click.option("--padding", type=int, default=4, show_default=True, help="Border before the random crop, in pixels.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights, order, crops and flips.")
@click.option("--train-images", type=int, default=0, help="Use the first so many training images.  [default: all]")
@click.option("--test-images", type=int, default=0, help="Use the first so many test images.  [default: all]")
def train(
    *,
    data: Path | None,
    accept_unknown: bool,
    download: bool,
    out: Path,
    resume: bool,
    device: str,
    threads: int | None,
    **recipe: Any,
) -> None:
    """Train LeNet by the coursework's recipe (the defaults).

    The run directory gets weights.safetensors, history.csv, curves.svg, curves.png, run.json and, each epoch, a
    checkpoint from which --resume goes on.

    Under `torchrun --nproc-per-node=N -m lenet train` N processes share each batch.
    """
    from lenet import devices, training
    from lenet.data import cifar10
    from lenet.progress import TrainingDisplay
    from lenet.ranks import join
    from lenet.terminal import Terminal

    target = devices.resolve(device)
    devices.set_threads(threads)
    with join(target) as ranks:
        if download:
            ranks.first(lambda: cifar10.download(cifar10.default_directory(data)))
        train_split = _load("train", data, accept_unknown=accept_unknown)
        test_split = _load("test", data, accept_unknown=accept_unknown)
        with TrainingDisplay(Terminal(stderr=True, quiet=ranks.rank > 0)) as display:
            run = training.train(
                training.Recipe(**recipe),
                train_split,
                test_split,
                out=out,
                device=target,
                resume=resume,
                ranks=ranks,
                on_start=display.start,
                on_step=display.step,
                on_epoch=display.epoch,
            )
    if ranks.rank == 0:
        _draw_curves(out)
        last = run.history[-1]
        figures = f"test loss {last.test_loss:.7f}, accuracy {last.test_accuracy:.4f}"
        tell(f"{figures} ({test_split.content}); written to {out}")


def _draw_curves(out: Path) -> None:
    """Draw a run's curves; whatever fails is said, for the run itself is whole."""
    try:
        from lenet.report import curves

        curves.save(out)
    except Exception as error:  # noqa: BLE001 - of a library for drawing, in any way
        tell(f"lenet: the run is whole, but its curves could not be drawn: {error}", err=True)


@main.command()
@_weights_option
@click.option("--backend", "names", multiple=True, help="Compare this backend with PyTorch; repeatable, or 'all'.")
@_precision_option
@_data_option
@_unknown_option
@_download_option
@_device_option
@_threads_option
@click.option("--batch-size", type=click.IntRange(min=1), default=1000, show_default=True, help="Images a batch.")
@click.option(
    "--input",
    "input_type",
    type=click.Choice(["float32", "uint8"]),
    default="float32",
    show_default=True,
    help="What --backend gets: normalised images, or bytes that it normalises on the device.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(
    *,
    path: Path | None,
    names: tuple[str, ...],
    precision: str,
    data: Path | None,
    accept_unknown: bool,
    download: bool,
    device: str,
    threads: int | None,
    batch_size: int,
    input_type: str,
    as_json: bool,
) -> None:
    """Loss and accuracy on the 10,000 test images.

    With --backend, the coursework's table: each backend's loss, accuracy and largest difference of a logit from a
    float64 reference. Exits with 1 where logits are wrong or not finite, with 2 where none of those named runs here.
    """
    from lenet import devices, evaluation, weights
    from lenet.models.pytorch_lenet import from_weights

    if input_type == "uint8" and not names:
        raise BackendError(
            "without --backend the images are normalised ahead of the network",
            found="--input uint8 and no --backend",
            wanted="--input float32, or a backend that gets the bytes",
            hint="name one with --backend, such as --backend pytorch",
        )
    target = devices.resolve(device)
    devices.set_threads(threads)
    loaded = weights.load(path or weights.SHIPPED)
    split = _load("test", data, download=download, accept_unknown=accept_unknown)
    if names:
        _evaluate_backends(names, precision, input_type, loaded.arrays, split, target, batch_size, as_json=as_json)
        return
    result = evaluation.evaluate(from_weights(loaded.arrays).to(target), split, target, batch_size)
    if as_json:
        document = {
            "weights": str(loaded.path),
            "data": split.source,
            "device": devices.describe(target),
            "images": result.images,
            "loss": result.loss,
            "accuracy": result.accuracy,
            "reason": result.problem,
        }
        tell(to_json(finite(document), indent=2))
    else:
        tell(f"{result.images:,} test images of {split.source}, weights {loaded.path}, {devices.describe(target)}")
        loss = f"not finite: {result.problem}" if result.problem else f"{result.loss:.7f}"
        tell(f"loss      {loss}\naccuracy  {result.accuracy:.7f}")
    if result.problem:
        raise click.exceptions.Exit(1)


def _evaluate_backends(
    names: tuple[str, ...],
    precision: str,
    input_type: str,
    arrays: Arrays,
    split: Split,
    target: torch.device,
    batch_size: int,
    *,
    as_json: bool,
) -> None:
    from lenet import backends as table
    from lenet.backends.base import InputType, Precision
    from lenet.comparison import compare_backends
    from lenet.report.tables import parity_table, print_whole

    wanted = table.names() if "all" in names else tuple(table.entry(name).name for name in names)
    done, missing = compare_backends(
        wanted,
        arrays,
        split,
        device=target,
        precision=Precision(precision),
        batch_size=batch_size,
        input_type=InputType(input_type),
    )
    lines = [agreement.to_json() for agreement in done]
    not_run = {line.backend: line.reason for line in missing}
    if as_json:
        document = {"images": len(split), "data": split.content, "input": input_type}
        tell(to_json(document | {"backends": lines, "not_run": not_run}, indent=2))
    else:
        print_whole(parity_table(lines, not_run, split.content))
    if not done:
        raise click.exceptions.Exit(LenetError.exit_code)
    if not all(agreement.right for agreement in done):
        raise click.exceptions.Exit(1)


@main.command()
@click.option("--onnx", "out", type=click.Path(path_type=Path), required=True, help="The file to write.")
@_weights_option
@_onnx_precision_option
def export(*, out: Path, path: Path | None, precision: str) -> None:
    """Write LeNet as an ONNX model with a dynamic batch; its input and output are float32 at every precision."""
    from lenet import weights
    from lenet.backends.base import Precision
    from lenet.backends.precision import DTYPES
    from lenet.export import to_onnx

    arrays = weights.load(path or weights.SHIPPED).arrays
    started = time.perf_counter()
    model = to_onnx(arrays, DTYPES[Precision(precision)])
    _write(out, model, f"exported in {time.perf_counter() - started:.2f} s")


@main.command()
@click.option(
    "--backend",
    type=click.Choice(["tensorrt-rtx"]),
    required=True,
    help="Whose engine; TensorRT for RTX alone builds for a GPU that is not here.",
)
@click.option("--target", required=True, help="Compute capability to build for, such as sm89 for an RTX 4060 Ti.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write.")
@_weights_option
@_onnx_precision_option
@click.option("--min-batch", type=int, default=1, show_default=True, help="The smallest batch.")
@click.option("--opt-batch", type=int, default=200, show_default=True, help="The batch to tune for.")
@click.option("--max-batch", type=int, default=10_000, show_default=True, help="The largest batch.")
def build(
    *,
    backend: str,
    target: str,
    out: Path,
    path: Path | None,
    precision: str,
    min_batch: int,
    opt_batch: int,
    max_batch: int,
) -> None:
    """Build an engine ahead of time; this needs no GPU."""
    from lenet import weights
    from lenet.backends import load
    from lenet.backends.base import BatchRange, Precision
    from lenet.backends.precision import DTYPES
    from lenet.backends.tensorrt import TensorRTRTX
    from lenet.export import to_onnx

    builder = load(backend)
    assert isinstance(builder, TensorRTRTX)
    builder.target(target)  # fails at once where it must, and not after the export, which takes seconds
    asked = Precision(precision)
    batches = BatchRange(min_batch, opt_batch, max_batch)
    arrays = weights.load(path or weights.SHIPPED).arrays
    started = time.perf_counter()
    model = to_onnx(arrays, DTYPES[asked])
    exported = time.perf_counter()
    plan = builder.build_ahead(model, asked, batches, target)
    built = time.perf_counter()
    _write(out, plan, f"exported in {exported - started:.2f} s, built in {built - exported:.2f} s")


def _write(path: Path, content: bytes, times: str) -> None:
    from lenet.files import write_atomically

    write_atomically(path, content)
    tell(f"{path}: {len(content):,} bytes, sha256 {hashlib.sha256(content).hexdigest()}, {times}")


def _load(split: Any, data: Path | None, *, accept_unknown: bool, download: bool = False) -> Split:
    from lenet.data import cifar10

    directory = cifar10.default_directory(data)
    if download:
        cifar10.download(directory)
    return cifar10.load(split, directory, accept_unknown=accept_unknown)


@main.command()
@click.argument("names", nargs=-1)
@_device_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def backends(*, names: tuple[str, ...], device: str, as_json: bool) -> None:
    """List the inference runtimes, or probe those that are named.

    Listing imports no runtime: it says what is installed. Probing imports the named runtimes and says whether they
    can run on the device.
    """
    from lenet import backends as table
    from lenet.report.tables import backends_table, print_whole

    lines = []
    for line in [table.entry(name) for name in names or table.names()]:
        if names:
            version, reason = _probe(line.name, device)
        else:
            version = table.installed_version(line)
            reason = None if version else f"not installed: {line.install}"
        lines.append({"name": line.name, "summary": line.summary, "version": version, "reason": reason})
    if as_json:
        tell(to_json(lines, indent=2))
    else:
        print_whole(backends_table(lines, probed=bool(names)))


def _probe(name: str, device: str) -> tuple[str | None, str | None]:
    from lenet import backends as table
    from lenet import devices

    availability = table.load(name).probe(devices.resolve(device))
    return availability.version, availability.reason


@main.command()
@click.argument("names", nargs=-1)
@_device_option
@_precision_option
@click.option("--here", is_flag=True, help="Examine in this process, so that a debugger sees the library.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the libraries' logs whole.")
def doctor(*, names: tuple[str, ...], device: str, precision: str, here: bool, as_json: bool) -> None:
    """Import, build, run and compare each backend (or those named) on 32 images, and say what to do next.

    Exits with 1 where a backend that is installed does not work.
    """
    from lenet import backends as table
    from lenet import devices, weights
    from lenet import doctor as clinic
    from lenet.backends.base import Precision
    from lenet.report.tables import doctor_table, print_whole

    target = devices.resolve(device)
    wanted = list(dict.fromkeys(table.entry(name).name for name in names or table.names()))
    asked = Precision(precision)
    if here:
        arrays = weights.load().arrays
        found = [clinic.examine(name, arrays, target, asked) for name in wanted]
    else:
        found = clinic.examine_in_processes(wanted, device, asked)
    machine = clinic.machine(target)
    lines = [examination.to_json() for examination in found]
    if as_json:
        tell(to_json({"machine": machine, "backends": lines}, indent=2))
    else:
        print_whole(doctor_table(machine, lines))
    if any(examination.broken for examination in found):
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@_storage_option
@click.option("--csv", "as_csv", is_flag=True, help="Print every row as CSV.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
def results(*, files: tuple[Path, ...], storage: Path, as_csv: bool, as_markdown: bool) -> None:
    """The coursework's sheet 5 from saved measurements, beside the published figures.

    Several FILES of one machine and commit are put together. Without FILES, the saved run that ended last is taken.
    """
    if as_csv and as_markdown:
        raise click.UsageError("--csv and --markdown are two forms: name one")

    from lenet import results as saved
    from lenet.report.tables import limits_line, print_whole, remarks, results_markdown, rows_sheets, sheet_5, to_rich

    measurements = [saved.load(path) for path in files] if files else [_latest(storage)]
    rows = saved.merge(measurements)
    if as_csv:
        tell(saved.to_csv(measurements), end="")
    elif as_markdown:
        tell(results_markdown(measurements, rows))
    else:
        for measurement in measurements:
            tell(measurement.describe())
            if measurement.limits:
                tell(limits_line(measurement.limits))
        for sheet in rows_sheets(rows):
            print_whole(to_rich(sheet))
        for remark in remarks(rows):
            tell(f"! {remark}")
        print_whole(sheet_5(rows, saved.not_run(measurements)))


def _latest(storage: Path) -> Measurement:
    from lenet import results as saved

    found, problems = saved.latest(storage)
    if found is None:
        raise ResultsError(
            f"there is nothing saved in {storage}",
            found="; ".join(f"{one.summary}: {one.found}" for one in problems) or "no file of measurements",
            wanted="one that `pytest benchmarks --benchmark-autosave` wrote",
            hint="measure first, or name a file",
        )
    for problem in problems:
        tell(f"lenet: {problem}", err=True)
    return found


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@_storage_option
def promote(*, file: Path, storage: Path) -> None:
    """Make a saved measurement a baseline, that later runs on the same machine are compared with."""
    from lenet import results as saved

    tell(f"baseline {saved.promote(file, storage)}")


@main.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True, help="The page."
)
@click.option("--run", type=click.Path(path_type=Path), help="Run directory of `lenet train`.")
@click.option("--parity", type=click.Path(path_type=Path), help="What `lenet evaluate --backend all --json` printed.")
@click.option("--gate", type=click.Path(path_type=Path), help="The gate.json of `nox -s gate`.")
@click.option("--lang", type=click.Choice(["en", "ru"]), default="en", show_default=True, help="Of the page.")
@_storage_option
def report(
    *,
    files: tuple[Path, ...],
    out: Path,
    run: Path | None,
    parity: Path | None,
    gate: Path | None,
    lang: str,
    storage: Path,
) -> None:
    """The coursework's five sheets from one's own measurements, and more, as one HTML page.

    FILES are saved measurements, of any machines and commits; without any, all that are saved are taken. A file that
    cannot be read is named on the page and here, and the rest is reported; the exit code is then 1.
    """
    from lenet import results as saved
    from lenet.files import write_atomically
    from lenet.report import page, sources
    from lenet.report.language import find_language

    language = find_language(lang)
    read = partial(sources.read, files or saved.stored_files(storage), run=run, parity=parity, gate=gate)
    found = read()
    try:
        text = page.render(found, language)
    except Exception:  # noqa: BLE001 - a file is at fault: it is looked for and named, and the rest is reported
        found = read(show=lambda alone: page.render(alone, language))
        text = page.render(found, language)
    content = text.encode()
    write_atomically(out, content)
    tell(f"{out}: {len(content):,} bytes")
    for problem in found.problems:
        tell(f"lenet: {problem}", err=True)
    if found.problems:
        raise click.exceptions.Exit(1)


@main.command(context_settings={"ignore_unknown_options": True})
@click.option("--base", "reference", required=True, help="Compare with the last common ancestor of HEAD and this.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("gate"), show_default=True, help="For the report.")
@click.option("--tolerance", type=float, default=0.01, show_default=True, help="A slow-down that is none, as a share.")
@click.option("--harm", type=float, default=0.05, show_default=True, help="The largest slow-down of a row that passes.")
@click.option("--worker-timeout", type=float, default=900.0, show_default=True, help="Seconds a pair of processes has.")
@click.option("--seed", type=int, help="Of the order in each pair.  [default: drawn]")
@click.argument("suite", nargs=-1, type=click.UNPROCESSED)
def gate(
    *, reference: str, out: Path, tolerance: float, harm: float, worker_timeout: float, seed: int | None, **more: Any
) -> None:
    """Measure HEAD and BASE side by side, and say whether a row became slower.

    Other options choose the rows, as in `pytest benchmarks`: --backend=pytorch --batch-size=1. Writes gate.json and
    gate.md. Exits with 0 for PASS, 1 for FAIL, 3 for INCONCLUSIVE, and with 2 where nothing could be judged.
    """
    from lenet.gate import command

    code = command.run(
        reference, tuple(more["suite"]), out=out, tolerance=tolerance, harm=harm, timeout=worker_timeout, seed=seed
    )
    raise click.exceptions.Exit(code)
