"""``lenet train``: train LeNet."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from lenet.cli.options import (
    TypedPath,
    data_option,
    device_option,
    download_option,
    load_split,
    threads_option,
    unknown_option,
)
from lenet.provenance import program
from lenet.report.rounding import accuracy, loss
from lenet.terminal import tell
from lenet.training.recipe import Recipe
from lenet.vocabulary import Precision

if TYPE_CHECKING:
    from lenet.data.cifar10 import Split
    from lenet.training.run import EpochRecord

__all__ = ["command"]

_RECIPE: Final = Recipe()


def _recipe_option(field: str, text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option for a field of the recipe, with that field's default."""
    default = getattr(_RECIPE, field)
    name = f"--{field.replace('_', '-')}"
    return click.option(name, type=type(default), default=default, show_default=True, help=text)


@click.command("train")
@data_option
@unknown_option
@download_option
@click.option("--out", type=TypedPath(), default=Path("runs/lenet"), show_default=True, help="Run directory.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in the run directory.")
@device_option
@threads_option
@_recipe_option("epochs", "Passes over the training images.")
@_recipe_option("batch_size", "Images a step.")
@_recipe_option("learning_rate", "Learning rate of SGD, before any decay.")
@_recipe_option("momentum", "Momentum of SGD.")
@_recipe_option("weight_decay", "Weight decay of SGD, for every parameter.")
@click.option(
    "--milestone",
    "milestones",
    type=int,
    multiple=True,
    default=_RECIPE.milestones,
    show_default=True,
    help="Epoch after which the learning rate decays; repeatable.",
)
@_recipe_option("decay", "Factor of the learning rate at a milestone.")
@_recipe_option("padding", "Border before the random crop, in pixels.")
@_recipe_option("seed", "Seed of weights, order, crops and flips.")
@click.option("--train-images", type=int, default=0, help="Use only this many training images.  [default: all]")
@click.option("--test-images", type=int, default=0, help="Use only this many test images.  [default: all]")
def command(
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

    The run directory gets weights.safetensors, history.csv, curves.svg, curves.png and run.json. Each epoch writes a
    checkpoint, from which --resume goes on.

    Under `torchrun --nproc-per-node=N -m lenet train` N processes share each batch.
    """
    from lenet import devices
    from lenet.backends.precision import check_override
    from lenet.cli.progress import TrainingDisplay
    from lenet.data import cifar10
    from lenet.terminal import Terminal
    from lenet.training import loop
    from lenet.training.ranks import join

    target = devices.resolve(device)
    check_override(Precision.FP32, target)
    devices.set_threads(threads)
    with join(target) as ranks:
        if download:
            ranks.first(lambda: cifar10.download(cifar10.default_directory(data)))
        train, test = (load_split(split, data, accept_unknown=accept_unknown) for split in ("train", "test"))
        with TrainingDisplay(Terminal(stderr=True, quiet=ranks.rank > 0)) as display:
            run = loop.train(
                Recipe(**recipe),
                train,
                test,
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
        _tell_result(run.history[-1], test, out)
        _tell_what_is_next(out, data, accept_unknown=accept_unknown)


def _tell_result(last: EpochRecord, test: Split, out: Path) -> None:
    figures = f"test loss {loss(last.test_loss)}, accuracy {accuracy(last.test_accuracy)}"
    tell(f"{figures} ({test.content}); written to {out}")


def _tell_what_is_next(out: Path, data: Path | None, *, accept_unknown: bool) -> None:
    """Print the commands that use the weights and show the run."""
    images = [*(["--data", str(data)] if data else []), *(["--accept-unknown-data"] if accept_unknown else [])]
    weights = ["evaluate", "--weights", str(out / "weights.safetensors"), *images]
    for before, arguments in (("next:", weights), ("     ", ["report", "--run", str(out)])):
        tell(f"{before} {program('lenet')} {shlex.join(arguments)}")


def _draw_curves(out: Path) -> None:
    """Draw a run's curves. A failure is printed and not raised, since the run itself is whole."""
    try:
        from lenet.report import curves

        curves.save(out)
    except Exception as error:  # noqa: BLE001 - the drawing library may raise anything
        tell(f"lenet: the run is whole, but its curves could not be drawn: {error}", err=True)
