"""Train LeNet by the coursework's recipe, with checkpoints that survive a kill.

The whole training set lies on the device as uint8. The seed and the epoch's number alone decide an epoch's order, crops
and flips, which are drawn on the CPU. So every device and rank sees the same batches. A run that resumes from a
checkpoint continues as if it had never stopped.

A process that trains alone on a GPU waits for it only at the end of an epoch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final

import torch

from lenet.data.cifar10 import Split
from lenet.devices import describe
from lenet.errors import RecipeError
from lenet.files import make_directory, only_writer, write_atomically
from lenet.provenance import source_commit, versions
from lenet.training.batches import Draw, draw_epoch, epoch_batches
from lenet.training.checkpoint import CHECKPOINT, begin_or_resume, to_checkpoint
from lenet.training.evaluation import evaluate
from lenet.training.ranks import Ranks
from lenet.training.recipe import Recipe
from lenet.training.run import EpochRecord, Run, history_csv, new_run, write_results
from lenet.training.steps import Step, exact_float32, step_for

__all__ = ["train", "train_epoch"]


_EVALUATION_BATCH: Final = 1000


_GPU_EVALUATION_BATCH: Final = 5000
"""It takes few launches and about 0.7 GB of GPU memory."""


_STEPS_A_LOOK: Final = 25
"""Steps between two checks that the other ranks go on.

A GPU has at most twice as many steps queued, which is far fewer than its queue holds. With a full queue and a dead rank
the next launch would never return, and hear no signal.
"""


def train(
    recipe: Recipe,
    train_split: Split,
    test_split: Split,
    *,
    out: Path,
    device: torch.device,
    resume: bool = False,
    ranks: Ranks = Ranks(),  # noqa: B008 - it is frozen
    on_start: Callable[[Run], None] = lambda _run: None,
    on_step: Callable[[int], None] = lambda _images: None,
    on_epoch: Callable[[EpochRecord], None] = lambda _record: None,
) -> Run:
    """Train, with a checkpoint after every epoch and the results at the end.

    Args:
        recipe: How to train.
        train_split: The training images. Those that the recipe uses are moved to ``device`` once.
        test_split: The test images, moved in the same way.
        out: The run directory, which gets all files. Its ``.lock`` keeps a second training out.
        device: Where to train.
        resume: Go on from the checkpoint in ``out``, or begin if there is none.
        ranks: The processes that train together. Each calls this function; rank 0 writes the files.
        on_start: Called with the run before its first step.
        on_step: Called after each step, on a GPU when it is queued, with the number of images in it.
        on_epoch: Called after each epoch. On a CPU its checkpoint is written by then. On a GPU the previous one is.

    Returns:
        The finished run.

    Raises:
        RecipeError: The recipe does not fit the images, or the training diverges. The last good checkpoint stays.
        CheckpointError: ``out`` holds a run and ``resume`` is false, or the run cannot resume from its checkpoint.
        OutputError: Another process trains into ``out``, or a file cannot be written. The last checkpoint stays whole.
        RankError: Another rank has ended, or is about to do something else.
    """
    train_split = _limit(train_split, recipe.train_images, "--train-images")
    test_split = _limit(test_split, recipe.test_images, "--test-images")
    recipe.check(len(train_split), ranks.size)
    with _only_training(out, ranks), exact_float32():
        run = begin_or_resume(new_run(recipe, train_split, device, test_split), out / CHECKPOINT, resume=resume)
        _note_session(run, device, ranks)
        _agree(run, ranks)
        on_start(run)
        step = step_for(run.model, run.optimizer, recipe.batch_size, ranks)
        _train_epochs(run, step, train_split.to(device), test_split.to(device), out, on_step, on_epoch)
        if ranks.rank == 0:
            write_results(run, {"train": train_split.content, "test": test_split.content}, out)
    return run


def _only_training(out: Path, ranks: Ranks) -> AbstractContextManager[None]:
    """Make the run directory and keep other trainings out of it. Rank 0 does this for all."""
    if ranks.rank > 0:
        return nullcontext()
    make_directory(out)
    return only_writer(out)


def _agree(run: Run, ranks: Ranks) -> None:
    """Check that all ranks go on with the same run."""
    data = ", ".join(f"{name} images {digest[:12]}" for name, digest in run.data_sha256.items())
    ranks.agree(f"{run.recipe}, {data}, {len(run.history)} epochs done")


def _train_epochs(
    run: Run,
    step: Step,
    train_split: Split,
    test_split: Split,
    out: Path,
    on_step: Callable[[int], None],
    on_epoch: Callable[[EpochRecord], None],
) -> None:
    """Train the epochs that are left. Draw the next and write the last one's checkpoint beside each."""
    ranks = step.ranks
    with ThreadPoolExecutor(1) as writer, ThreadPoolExecutor(1) as drawer:
        written: Future[None] | None = None
        drawn = drawer.submit(_draw, len(train_split), run, len(run.history) + 1, step)
        while not run.complete:
            draw = drawn.result()
            drawn = drawer.submit(_draw, len(train_split), run, len(run.history) + 2, step)
            record = _epoch(run, step, train_split, test_split, draw, on_step)
            _refuse_divergence(record)
            run.history.append(record)
            if written:
                written.result()
            if ranks.rank == 0:
                written = writer.submit(_write_epoch, out, to_checkpoint(run), history_csv(run.history))
            if written and step.device.type == "cpu":
                written.result()
            on_epoch(record)
        if written:
            written.result()


def _draw(images: int, run: Run, number: int, step: Step) -> Draw:
    """An epoch's draw, on the training device: the copy waits for the GPU, and so would the next epoch's first step."""
    return draw_epoch(images, run.recipe, number, step.ranks).to(step.device)


def _note_session(run: Run, device: torch.device, ranks: Ranks) -> None:
    """Add a session to the run, unless its last one has the same versions, device and commit."""
    on = {
        "versions": versions(("torch", "torchvision", "numpy", "safetensors", *_of_the_kernels(device))),
        "device": describe(device) if ranks.size == 1 else f"{ranks.size} ranks, each on {describe(device)}",
        "commit": source_commit(),
    }
    if run.complete or (run.sessions and {**run.sessions[-1], "first_epoch": None} == {**on, "first_epoch": None}):
        return
    run.sessions.append({"first_epoch": len(run.history) + 1, **on})


def _of_the_kernels(device: torch.device) -> tuple[str, ...]:
    """What decides whether our own kernels train, or PyTorch's operators, whose sums have another order."""
    return ("cuda-core",) if device.type == "cuda" else ()


def _write_epoch(out: Path, checkpoint: bytes, history: bytes) -> None:
    write_atomically(out / CHECKPOINT, checkpoint)
    write_atomically(out / "history.csv", history)


def _limit(split: Split, count: int, option: str) -> Split:
    if not 0 <= count <= len(split):
        raise RecipeError(
            f"{option} cannot be used",
            found=f"{count:,}",
            wanted=f"1 to {len(split):,}, or 0 for all",
            hint=f"choose another {option}",
        )
    return split.head(count) if count else split


def _refuse_divergence(record: EpochRecord) -> None:
    """Raise where a loss is not finite, before this epoch's checkpoint replaces one that can be resumed."""
    if not math.isfinite(record.train_loss + record.test_loss):
        raise RecipeError(
            f"the training diverged in epoch {record.epoch}",
            found=f"training loss {record.train_loss:.4g}, test loss {record.test_loss:.4g}",
            wanted="finite losses",
            hint="choose a smaller --learning-rate, --momentum or --weight-decay, and another --out",
        )


def _epoch(
    run: Run, step: Step, train_split: Split, test_split: Split, draw: Draw, on_step: Callable[[int], None]
) -> EpochRecord:
    """Train one epoch, then evaluate the test images."""
    number = len(run.history) + 1
    learning_rate = run.recipe.learning_rate_of(number)
    images, labels = train_split.images, train_split.labels
    started = time.perf_counter()
    train_loss, train_accuracy = train_epoch(step, images, labels, run.recipe, number, draw, on_step=on_step)
    seconds = time.perf_counter() - started
    run.model.eval()
    batch = _EVALUATION_BATCH if step.device.type == "cpu" else _GPU_EVALUATION_BATCH
    test = evaluate(step.forward, test_split, step.device, min(batch, len(test_split)))
    return EpochRecord(
        number, learning_rate, train_loss, train_accuracy, test.loss, test.accuracy, seconds, len(labels) / seconds
    )


def train_epoch(
    step: Step,
    images: torch.Tensor,
    labels: torch.Tensor,
    recipe: Recipe,
    number: int,
    draw: Draw | None = None,
    *,
    on_step: Callable[[int], None] = lambda _images: None,
) -> tuple[float, float]:
    """One pass over the training images.

    Args:
        step: Takes each batch (`lenet.training.steps.step_for`).
        images: uint8 (N, 3, 32, 32), on the model's device.
        labels: int64 (N,), on the same device.
        recipe: Its batch size, seed, padding and schedule are used.
        number: The epoch, from 1.
        draw: The epoch's draw, if it is made already.
        on_step: Called after each step with the number of images in it, over all ranks.

    Returns:
        The mean loss in nats and the accuracy over the epoch's augmented images, each before its step.
    """
    step.begin_epoch(recipe.learning_rate_of(number))
    draw = draw or draw_epoch(len(labels), recipe, number, step.ranks)
    batches = epoch_batches(images, labels, recipe, draw, step.ranks, step.augment)
    for steps, (batch, batch_labels) in enumerate(batches, 1):
        step(batch, batch_labels)
        on_step(len(batch_labels) * step.ranks.size)
        if steps % _STEPS_A_LOOK == 0:
            step.look()
    loss_sum, hits = step.end_epoch()
    return loss_sum / len(labels), hits / len(labels)
