"""``lenet coursework``: from the training to the coursework's five sheets, in one command."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from lenet.cli.options import TypedPath, data_option, device_option, download_option, load_split, unknown_option
from lenet.errors import CourseworkError, LenetError, how_it_ended
from lenet.provenance import bound_to_this, program
from lenet.settings import Settings
from lenet.terminal import tell

__all__ = ["command"]

_SUITE: Final = Path(__file__).parents[2] / "benchmarks" / "test_inference.py"
_CONDITIONS: Final = ("--batch-size=1000", "--precision=fp32", "--host-memory=pinned", "--input=float32")
_QUICK_EPOCHS: Final = 2
_QUICK_ROUNDS: Final = 10
_VERDICT: Final = 1
"""The exit code of `lenet evaluate` and pytest for a backend that is wrong. The sheets name it."""
_PATIENCE: Final = 30.0
"""Seconds that a step has to end after an interrupt."""


@dataclass(frozen=True, slots=True)
class _Step:
    """A program to run.

    Attributes:
        does: What it does, in a few words.
        takes: About how long.
        module: The program's module.
        arguments: Its arguments.
        made: The file that it must leave.
        captured: Whether its standard output is that file.
        may_judge: Whether exit code 1 is a verdict.
    """

    does: str
    takes: str
    module: str
    arguments: Sequence[str]
    made: Path
    captured: bool = False
    may_judge: bool = False


@dataclass(frozen=True, slots=True)
class _Files:
    """What the folder holds at the end."""

    folder: Path

    @property
    def training(self) -> Path:
        return self.folder / "training"

    @property
    def weights(self) -> Path:
        return self.training / "weights.safetensors"

    @property
    def parity(self) -> Path:
        return self.folder / "parity.json"

    @property
    def measured(self) -> Path:
        return self.folder / "measured.json"

    @property
    def page(self) -> Path:
        return self.folder / "sheets.html"

    @property
    def pdf(self) -> Path:
        return self.folder / "sheets.pdf"


@click.command("coursework")
@click.option(
    "--out",
    type=TypedPath(),
    help="Folder for everything that is made.  [default: coursework, with --quick coursework/quick]",
)
@click.option(
    "--lang", type=click.Choice(["en", "ru"]), default="en", show_default=True, help="Language of the sheets."
)
@click.option("--quick", is_flag=True, help=f"{_QUICK_EPOCHS} epochs and {_QUICK_ROUNDS} rounds. The sheets say so.")
@click.option("--shipped", is_flag=True, help="Measure the shipped weights, and train nothing.")
@data_option
@unknown_option
@download_option
@device_option
@click.pass_obj
def command(
    settings: Settings,
    /,
    *,
    out: Path | None,
    lang: str,
    quick: bool,
    shipped: bool,
    data: Path | None,
    accept_unknown: bool,
    download: bool,
    device: str,
) -> None:
    """Train, evaluate, measure, and write the coursework's five sheets.

    The sheets are one HTML page, and a PDF if Chromium or Chrome is installed. If you interrupt the command, the same
    command goes on with the training. Exits with 1 if a runtime's logits are wrong, which the sheets then say.
    """
    from lenet.files import only_writer
    from lenet.gate.interrupts import interruptible

    # A name that begins with a dash would be an option of the steps.
    folder = out or Path("coursework", *(["quick"] if quick else []))
    files = _Files(folder.absolute() if str(folder).startswith("-") else folder)
    load_split("test", data, accept_unknown=accept_unknown, download=download)  # refuse missing images at once
    _prepare(files)
    images = [*([f"--data={data}"] if data else []), *(["--accept-unknown-data"] if accept_unknown else [])]
    backends = settings.backends or ("all",)
    steps = _steps(files, [*images, f"--device={device}"], backends, lang, quick=quick, trained=not shipped)
    if quick:
        tell(f"A quick run: {_QUICK_EPOCHS} epochs and {_QUICK_ROUNDS} rounds. The coursework has 60 and 100.")
    tell(f"{len(steps) + 1} steps. Everything goes into {files.folder}.")
    with only_writer(files.folder), interruptible():
        judged = _run(steps, files)
    if judged:
        raise click.exceptions.Exit(_VERDICT)


def _prepare(files: _Files) -> None:
    """Refuse before the training what would fail after it."""
    from lenet.files import make_directory, prepare_file

    if not _SUITE.exists():
        raise CourseworkError(
            "the benchmarks are not here",
            found=f"no {_SUITE}",
            wanted="lenet-bench installed from a checkout, as nox does",
            hint="run `nox -s coursework` in a checkout",
        )
    for directory in files.folder, files.training:
        make_directory(directory)
    for path in files.parity, files.measured, files.page, files.pdf:
        prepare_file(path, "--out")


def _steps(
    files: _Files, common: Sequence[str], backends: Sequence[str], lang: str, *, quick: bool, trained: bool
) -> list[_Step]:
    """The steps before the PDF. Their times are of 2 idle CPU cores."""
    weights = [f"--weights={files.weights}"] if trained else []
    named = [f"--backend={one}" for one in backends]
    epochs = [f"--epochs={_QUICK_EPOCHS}"] if quick else []
    rounds = [f"--rounds={_QUICK_ROUNDS}"] if quick else []
    kept = ["--no-save", f"--benchmark-json={files.measured}"]
    run = [f"--run={files.training}"] if trained else []
    train = _Step(
        "train LeNet by the coursework's recipe",
        f"about {'30 s' if quick else '10 minutes'} on 2 CPU cores, less on a GPU",
        "lenet", ["train", f"--out={files.training}", "--resume", *epochs, *common], files.weights,
    )  # fmt: skip
    evaluate = _Step(
        "evaluate every runtime on the 10,000 test images",
        "about 1 minute, more where engines are built",
        "lenet", ["evaluate", "--precision=fp32", "--json", *named, *weights, *common], files.parity,
        captured=True, may_judge=True,
    )  # fmt: skip
    measure = _Step(
        "measure every runtime under the coursework's conditions",
        f"about {'1 minute' if quick else '2 minutes'}, more where engines are built",
        "pytest", [str(_SUITE), "-q", *kept, *_CONDITIONS, *rounds, *weights, *common], files.measured,
        may_judge=True,
    )  # fmt: skip
    write = _Step(
        "write the five sheets", "a few seconds",
        "lenet", ["report", str(files.measured), "--sheets", f"--parity={files.parity}", *run, f"--lang={lang}",
                  f"--out={files.page}"], files.page,
    )  # fmt: skip
    return [*([train] if trained else []), evaluate, measure, write]


def _run(steps: Sequence[_Step], files: _Files) -> bool:
    """Run the steps, print the PDF and name the files.

    Returns:
        Whether a runtime was wrong.
    """
    began = time.monotonic()
    judged = False
    for number, step in enumerate(steps, 1):
        with _told(f"[{number}/{len(steps) + 1}]", step.does, step.takes):
            judged |= _run_step(step)
    with _told(f"[{len(steps) + 1}/{len(steps) + 1}]", "print the sheets as PDF", "a few seconds"):
        printed = _print(files)
    tell(f"\nAll done in {_seconds(time.monotonic() - began)}:")
    tell(f"  {files.page}  the five sheets")
    if printed:
        tell(f"  {files.pdf}   the same, on five pages")
    trained = f"{files.training}, " if files.weights in {step.made for step in steps} else ""
    tell(f"  {trained}{files.parity} and {files.measured} are what they show")
    if judged:
        tell("A runtime is wrong: see the output above and sheet 3.")
    return judged


@contextmanager
def _told(place: str, does: str, takes: str) -> Iterator[None]:
    """Say what a step does, how long it may take and how long it took, and how to go on where it does not end well."""
    again = f"`{program('lenet')} {shlex.join(sys.argv[1:])}`, which goes on with the training"
    tell(f"\n{place} {does} ({takes})")
    began = time.monotonic()
    try:
        yield
    except KeyboardInterrupt:
        tell(f"\n{place} interrupted: {does}. To go on: {again}", err=True)
        raise
    except LenetError as error:
        raise CourseworkError(
            f"{place} failed: {does}",
            found=f"{error.summary}: {error.found}",
            wanted=error.wanted,
            hint=f"{error.hint}. Then type {again}",
        ) from error
    tell(f"{place} took {_seconds(time.monotonic() - began)}")


def _run_step(step: _Step) -> bool:
    """Run a step's program.

    Returns:
        Whether it found a runtime that is wrong.
    """
    from lenet.files import write_atomically

    resumes = step.made.name == "weights.safetensors"
    if not resumes:
        step.made.unlink(missing_ok=True)  # of an earlier run
    output, code = _run_program(bound_to_this(step.module, *step.arguments), captured=step.captured)
    judged = step.may_judge and code == _VERDICT
    if step.captured and output and (judged or not code):
        write_atomically(step.made, output)
        _show_parity(output)
    if not (judged or not code) or not step.made.exists():
        raise CourseworkError(
            f"{step.module} {step.arguments[0]}",
            found=how_it_ended(code),
            wanted=f"exit code 0 and {step.made}",
            hint="mend what its output above names",
        )
    return judged


def _run_program(arguments: Sequence[str], *, captured: bool) -> tuple[bytes, int]:
    """Run a program in a session of its own, so that a terminal's Ctrl-C comes from here and only once.

    Returns:
        Its standard output if it is captured, and its exit code.
    """
    from lenet.gate.interrupts import uninterrupted

    # A process that is killed removes no temporary file.
    with tempfile.TemporaryDirectory(prefix="lenet-coursework-", ignore_cleanup_errors=True) as temporary:
        with uninterrupted():
            process = subprocess.Popen(  # noqa: S603
                arguments,
                stdout=subprocess.PIPE if captured else None,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"TMPDIR": temporary},
                start_new_session=True,
            )
        try:
            output, _ = process.communicate()
        except KeyboardInterrupt:
            with suppress(OSError, ValueError):  # it may have ended
                process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=_PATIENCE)
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)  # and what it started
            process.wait()
            raise
    return output or b"", process.returncode


def _show_parity(output: bytes) -> None:
    """Print the table of what `lenet evaluate` found."""
    from lenet import documents
    from lenet.report.tables import parity_table, print_whole

    found = documents.parse(output.decode())
    print_whole(parity_table(found["backends"], found["not_run"], found["data"]))


def _print(files: _Files) -> bool:
    """Print the page as PDF if there is a browser."""
    from lenet.report import pdf

    files.pdf.unlink(missing_ok=True)  # of an earlier run
    browser = pdf.find_browser()
    if browser is None:
        tell(f"skipped: {pdf.NO_BROWSER}. Any browser prints {files.page}, on A3.")
        return False
    pdf.print_page(browser, files.page, files.pdf)
    return True


def _seconds(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
