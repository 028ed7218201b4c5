"""Train LeNet by the coursework's recipe, with checkpoints that survive a kill.

The whole training set lies on the device as uint8; an epoch's order, crops and flips are a function of the seed and
the epoch's number alone, drawn on the CPU. So every device and every rank sees the same batches, and a run that is
resumed from a checkpoint goes on exactly as it would have. On a GPU the steps are replays of one CUDA graph, and the
CPU waits for it at the end of an epoch alone.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from lenet import weights
from lenet.architecture import INPUT_SHAPE
from lenet.data import augmentation
from lenet.data.cifar10 import Split
from lenet.devices import describe
from lenet.documents import parse, to_json
from lenet.errors import CheckpointError, RecipeError, WeightsError
from lenet.evaluation import evaluate
from lenet.files import make_directory, only_writer, write_atomically
from lenet.models.pytorch_lenet import LeNet
from lenet.provenance import source_commit, versions
from lenet.ranks import Ranks
from lenet.steps import Step, exact_float32, step_for

__all__ = ["CHECKPOINT", "EpochRecord", "Recipe", "Run", "train"]

CHECKPOINT: Final = "checkpoint.safetensors"
_CHECKPOINT_SCHEMA: Final = 2
"""Since 2 a checkpoint names the test images and the sessions as well."""
_EVALUATION_BATCH: Final = 1000
_GPU_EVALUATION_BATCH: Final = 5000
"""Few launches, in about 0.7 GB of a GPU's memory."""
_GPU_IMAGES_AT_ONCE: Final = 10_000
"""Images that a GPU augments together, in whole batches: few launches, in about 0.5 GB of its memory."""
_STEPS_A_LOOK: Final = 25
"""Steps after which a rank makes sure that the others go on. It queues twice as many on a GPU, far fewer than fill the
GPU's queue: behind a full one the call that queues would wait for the others for ever, and hear no signal."""
_MOMENTUM: Final = "momentum."


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the trained weights, given the data and the machine's arithmetic.

    The defaults are the coursework's (sheet 3).

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images a step; the last step of an epoch may have fewer.
        learning_rate: SGD's, before any decay.
        momentum: SGD's.
        weight_decay: SGD's, on every parameter.
        milestones: Epochs after which the learning rate is multiplied by ``decay``.
        decay: That factor.
        padding: Black pixels around an image before it is cropped; 0 crops nothing.
        seed: Of the initial weights and of every epoch's order, crops and flips.
        train_images: Use the first so many training images; 0 uses all.
        test_images: Likewise for the test images.
    """

    epochs: int = 60
    batch_size: int = 200
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    milestones: tuple[int, ...] = (30, 45)
    decay: float = 0.1
    padding: int = augmentation.PADDING
    seed: int = 0
    train_images: int = 0
    test_images: int = 0

    def check(self, available: int, ranks: int = 1) -> None:
        """Make sure that the recipe can be followed.

        Args:
            available: Number of training images that it will be followed on.
            ranks: Number of processes that share each batch equally.

        Raises:
            RecipeError: A value is out of range; the first such is named.
        """
        side = INPUT_SHAPE[1]
        rest = available % self.batch_size if self.batch_size else 0
        shared = self.batch_size % ranks == rest % ranks == 0
        parts = f"a multiple of {ranks}, the ranks, that leaves such a multiple of {available:,} images"
        rules = (
            ("--batch-size", self.batch_size, 1 <= self.batch_size <= available, f"1 to {available:,}, the images"),
            ("--batch-size", self.batch_size, shared, parts),
            ("--epochs", self.epochs, self.epochs >= 1, "at least 1"),
            ("--learning-rate", self.learning_rate, 0 < self.learning_rate < math.inf, "finite, more than 0"),
            ("--momentum", self.momentum, 0 <= self.momentum < 1, "at least 0 and less than 1"),
            ("--weight-decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "finite, at least 0"),
            ("--decay", self.decay, 0 < self.decay <= 1, "more than 0, at most 1"),
            ("--padding", self.padding, 0 <= self.padding <= side, f"0 to {side} pixels, the side of an image"),
            ("--seed", self.seed, 0 <= self.seed < 2**63, "0 to 2^63 - 1"),
            ("--milestone", self.milestones, all(epoch >= 1 for epoch in self.milestones), "epochs from 1"),
        )
        for option, found, holds, wanted in rules:
            if not holds:
                raise RecipeError(
                    f"{option} cannot be used", found=str(found), wanted=wanted, hint=f"choose another {option}"
                )

    def learning_rate_of(self, epoch: int) -> float:
        """The learning rate in an epoch, which are counted from 1."""
        return self.learning_rate * self.decay ** sum(epoch > milestone for milestone in self.milestones)


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One line of ``history.csv``.

    Attributes:
        epoch: From 1.
        learning_rate: In this epoch.
        train_loss: Mean cross-entropy in nats over the augmented training images, each before its step.
        train_accuracy: Over the same, 0-1.
        test_loss: Mean cross-entropy in nats over the test images after the epoch.
        test_accuracy: Over the same, 0-1.
        seconds: Wall time of the epoch's training, without the test.
        images_per_second: Training images over ``seconds``.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    seconds: float
    images_per_second: float


@dataclass(slots=True)
class Run:
    """A training run between two epochs: what a checkpoint holds.

    Attributes:
        recipe: What is followed.
        images: Training images an epoch.
        data_sha256: Of the training and of the test split (`Split.sha256`), by name.
        model: On the training device.
        optimizer: Of the model's parameters.
        started: When the first epoch began, ISO 8601 in UTC.
        history: The epochs that are done.
        sessions: On what they were done: a line for each time that the run began or was resumed on something else.
    """

    recipe: Recipe
    images: int
    data_sha256: dict[str, str]
    model: LeNet
    optimizer: torch.optim.SGD
    started: str
    history: list[EpochRecord] = field(default_factory=list)
    sessions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every epoch is done."""
        return len(self.history) >= self.recipe.epochs


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
    """Train, writing a checkpoint after every epoch, and the results into the run directory at the end.

    Args:
        recipe: What to do.
        train_split: The training images; those that the recipe uses are moved to ``device`` once.
        test_split: The test images, likewise.
        out: The run directory: ``checkpoint.safetensors`` and ``history.csv`` each epoch, then
            ``weights.safetensors`` and ``run.json``. ``.lock`` keeps a second training out of it.
        device: Where to train.
        resume: Go on from the checkpoint in ``out``, or begin where there is none yet.
        ranks: The processes that train together; each calls this function, and the first writes the files.
        on_start: Called once, with the run as it is before the first step.
        on_step: Called after each step (on a GPU, when it is queued) with the number of images in it.
        on_epoch: Called after each epoch. On a CPU its checkpoint is then written; on a GPU the one before is, and
            this one is being written while the next epoch runs.

    Returns:
        The finished run.

    Raises:
        RecipeError: The recipe cannot be followed on these images, or the training diverges; the checkpoint is then of
            the last epoch that did not.
        CheckpointError: ``out`` already holds a run and ``resume`` is false; or the checkpoint is damaged, of an
            earlier version, or of another recipe or other training or test images.
        OutputError: Another process trains into ``out``, or a file cannot be written; the previous checkpoint is
            then still whole.
        RankError: Another rank has ended, or is about to do something else.
    """
    train_split = _limit(train_split, recipe.train_images, "--train-images")
    test_split = _limit(test_split, recipe.test_images, "--test-images")
    recipe.check(len(train_split), ranks.size)
    if ranks.rank == 0:
        make_directory(out)
    alone = only_writer(out) if ranks.rank == 0 else nullcontext()
    with alone, exact_float32(), ThreadPoolExecutor(1) as writer, ThreadPoolExecutor(1) as drawer:
        begun = new_run(recipe, train_split, device, test_split)
        run = _begin_or_resume(begun, out / CHECKPOINT, resume=resume)
        _note_session(run, device, ranks)
        data = ", ".join(f"{name} images {digest[:12]}" for name, digest in run.data_sha256.items())
        ranks.agree(f"{recipe}, {data}, {len(run.history)} epochs done")
        on_start(run)
        step = step_for(run.model, run.optimizer, recipe.batch_size, ranks)
        train_split, test_split = train_split.to(device), test_split.to(device)
        written: Future[None] | None = None
        drawn = drawer.submit(draw_epoch, len(train_split), recipe, len(run.history) + 1, ranks)
        while not run.complete:
            draw = drawn.result()
            drawn = drawer.submit(draw_epoch, len(train_split), recipe, len(run.history) + 2, ranks)
            record = _epoch(run, step, train_split, test_split, draw, on_step)
            _refuse_divergence(record)
            run.history.append(record)
            if written:
                written.result()
            if ranks.rank == 0:
                written = writer.submit(_write_epoch, out, _to_checkpoint(run), _to_csv(run.history))
            if written and device.type == "cpu":
                written.result()
            on_epoch(record)
        if written:
            written.result()
        if ranks.rank == 0:
            _write_results(run, {"train": train_split.content, "test": test_split.content}, out)
    return run


def _note_session(run: Run, device: torch.device, ranks: Ranks) -> None:
    """Note what the epochs from here on are done on, where it is not what those before were done on."""
    on = {
        "versions": versions(("torch", "torchvision", "numpy", "safetensors")),
        "device": describe(device) if ranks.size == 1 else f"{ranks.size} ranks, each on {describe(device)}",
        "commit": source_commit(),
    }
    if run.complete or (run.sessions and {**run.sessions[-1], "first_epoch": None} == {**on, "first_epoch": None}):
        return
    run.sessions.append({"first_epoch": len(run.history) + 1, **on})


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
    """Before a checkpoint of it would take the place of one that can be resumed."""
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
        step: What to do with each batch (`lenet.steps.step_for`).
        images: uint8 (N, 3, 32, 32), on the model's device.
        labels: int64 (N,), likewise.
        recipe: Batch size, seed, padding and schedule.
        number: The epoch, from 1.
        draw: What `draw_epoch` gave for it, where that was done before.
        on_step: Called after each step with the number of images in it, of all ranks.

    Returns:
        The mean loss in nats and the accuracy over the epoch's augmented images, each taken before its step.
    """
    step.begin_epoch(recipe.learning_rate_of(number))
    draw = draw or draw_epoch(len(labels), recipe, number, step.ranks)
    for steps, (batch, batch_labels) in enumerate(_batches(images, labels, recipe, draw, step.ranks), 1):
        step(batch, batch_labels)
        on_step(len(batch_labels) * step.ranks.size)
        if steps % _STEPS_A_LOOK == 0:
            step.look()
    loss_sum, hits = step.end_epoch()
    return loss_sum / len(labels), hits / len(labels)


@dataclass(frozen=True, slots=True)
class Draw:
    """What chance decides in an epoch, of this rank's images, on the CPU.

    Attributes:
        order: int64 (n,), which training images, one batch after the other.
        crops: Of each.
    """

    order: torch.Tensor
    crops: augmentation.Crop


def draw_epoch(
    images: int,
    recipe: Recipe,
    number: int,
    ranks: Ranks = Ranks(),  # noqa: B008 - it is frozen
) -> Draw:
    """Draw an epoch's order, crops and flips: a function of the seed and the epoch's number alone.

    Args:
        images: Training images.
        recipe: Batch size, seed and padding.
        number: The epoch, from 1.
        ranks: Each gets its part of every batch.
    """
    generator = _generator(recipe.seed, number)
    order = torch.randperm(images, generator=generator)
    crops = augmentation.draw_crop(images, generator, recipe.padding)
    mine = ranks.rows(images, recipe.batch_size)
    return Draw(order[mine], crops[mine])


def _batches(
    images: torch.Tensor,
    labels: torch.Tensor,
    recipe: Recipe,
    draw: Draw,
    ranks: Ranks = Ranks(),  # noqa: B008 - it is frozen
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The epoch's shuffled, augmented and normalised batches: of each, the part that is this rank's."""
    order, crops = draw.order.to(images.device), draw.crops.to(images.device)
    # At once: a step keeps its labels, and so many small tensors between its large ones would take the heap apart.
    labels = labels[order]
    size = recipe.batch_size // ranks.size
    at_once = size if images.device.type == "cpu" else size * max(1, _GPU_IMAGES_AT_ONCE // size)
    for start in range(0, len(order), at_once):
        rows = slice(start, start + at_once)
        # `index_select` copies whole images, and is many times faster on a CPU than an index in brackets.
        batches = augmentation.crop_and_flip(images.index_select(0, order[rows]), crops[rows], recipe.padding)
        batches = augmentation.normalize(batches).contiguous(memory_format=_layout(images.device))
        yield from zip(batches.split(size), labels[rows].split(size), strict=True)


def _generator(seed: int, epoch: int) -> torch.Generator:
    """The epoch's own random stream; NumPy's SeedSequence keeps the streams of near seeds apart."""
    state = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state)


def _layout(device: torch.device) -> torch.memory_format:
    """Of images and of the convolutions' weights: on a CPU oneDNN is about a third faster with the channels last."""
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format


def new_run(recipe: Recipe, train_split: Split, device: torch.device, test_split: Split | None = None) -> Run:
    """A run before its first epoch: PyTorch's default initialisation, seeded by the recipe."""
    hasher = ThreadPoolExecutor(2)  # a tenth of a second, while a GPU is set up
    splits = {"train": train_split} | ({"test": test_split} if test_split else {})
    digests = {name: hasher.submit(split.sha256) for name, split in splits.items()}
    torch.manual_seed(recipe.seed)
    model = LeNet(pool_first=True).to(memory_format=_layout(device)).to(device)
    optimizer = torch.optim.SGD(
        model.parameters(),
        # A CUDA graph reads it from a tensor at each replay; a number would be captured for good.
        lr=recipe.learning_rate if device.type == "cpu" else torch.tensor(recipe.learning_rate, device=device),
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    started = datetime.now(UTC).isoformat(timespec="seconds")
    hasher.shutdown()
    data_sha256 = {name: digest.result() for name, digest in digests.items()}
    return Run(recipe, len(train_split), data_sha256, model, optimizer, started)


def _begin_or_resume(run: Run, checkpoint: Path, *, resume: bool) -> Run:
    if not checkpoint.exists():
        return run
    if not resume:
        raise CheckpointError(
            f"{checkpoint.parent} already holds a run",
            found=str(checkpoint),
            wanted="an empty run directory, or --resume",
            hint="go on with --resume, or choose another directory with --out",
        )
    _restore(run, checkpoint)
    return run


def _to_checkpoint(run: Run) -> bytes:
    tensors = _arrays(run.model)
    for name, parameter in run.model.named_parameters():
        buffer = run.optimizer.state[parameter].get("momentum_buffer")
        if buffer is not None:
            tensors[_MOMENTUM + name] = buffer.detach().cpu().contiguous().numpy()
    metadata = {
        "schema": _CHECKPOINT_SCHEMA,
        "recipe": dataclasses.asdict(run.recipe),
        "data_sha256": run.data_sha256,
        "started": run.started,
        "history": [dataclasses.asdict(record) for record in run.history],
        "sessions": run.sessions,
    }
    return weights.to_safetensors(tensors, {"checkpoint": to_json(metadata)})


def _restore(run: Run, path: Path) -> None:
    """Put a checkpoint into a run, once it is known to be of the same recipe and data."""
    try:
        arrays, texts = weights.read_safetensors(path)
        found = parse(texts["checkpoint"])
        _refuse_another_schema(found["schema"], path)
        history = _history(found["history"], run.recipe)
        sessions = [_session(session) for session in found["sessions"]]
        if not sessions:
            raise ValueError("no session")
        momentum = {k.removeprefix(_MOMENTUM): v for k, v in arrays.items() if k.startswith(_MOMENTUM)}
        parameters = {name: array for name, array in arrays.items() if not name.startswith(_MOMENTUM)}
        weights.check(parameters, path)
        if momentum:
            weights.check(momentum, path)
        _refuse_another_run(run, found, path)
        started = datetime.fromisoformat(found["started"]).isoformat()
    except (WeightsError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be used",
            found=error.found if isinstance(error, WeightsError) else str(error),
            wanted="a whole checkpoint of this version of `lenet train`",
            hint="delete it to begin again",
        ) from error
    with torch.no_grad():
        for name, parameter in run.model.named_parameters():
            parameter.copy_(torch.from_numpy(parameters[name]))
            if momentum:
                # `empty_like` keeps the parameter's memory layout, and with it the order of the optimizer's sums.
                buffer = torch.empty_like(parameter).copy_(torch.from_numpy(momentum[name]))
                run.optimizer.state[parameter]["momentum_buffer"] = buffer
    run.started = started
    run.history = history
    run.sessions = sessions


def _refuse_another_schema(found: object, path: Path) -> None:
    if found != _CHECKPOINT_SCHEMA:
        raise CheckpointError(
            f"{path} is of another version of `lenet train`",
            found=f"checkpoint schema {found}, which does not say which test images its history is of"
            if found == 1
            else f"checkpoint schema {found}",
            wanted=f"checkpoint schema {_CHECKPOINT_SCHEMA}",
            hint="go on with the version that began it, or begin again with another --out",
        )


def _history(records: list[dict[str, Any]], recipe: Recipe) -> list[EpochRecord]:
    """The epochs of a checkpoint.

    Raises:
        KeyError, TypeError, ValueError: They are not those that a training writes.
    """
    found = [
        EpochRecord(
            epoch=_whole(record["epoch"]),
            **{f.name: _number(record[f.name]) for f in dataclasses.fields(EpochRecord) if f.name != "epoch"},
        )
        for record in records
    ]
    if [record.epoch for record in found] != list(range(1, len(found) + 1)) or len(found) > recipe.epochs:
        raise ValueError(f"the history's epochs are not 1 to at most {recipe.epochs}")
    return found


def _session(found: dict[str, Any]) -> dict[str, Any]:
    _whole(found["first_epoch"])
    return {name: found[name] for name in ("first_epoch", "versions", "device", "commit")}


def _whole(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} in the place of a whole number")
    return value


def _number(value: object) -> float:
    if type(value) not in {int, float}:
        raise TypeError(f"{value!r} in the place of a number")
    return float(value)  # type: ignore[arg-type]  # as was just seen


def _refuse_another_run(run: Run, found: dict[str, Any], path: Path) -> None:
    wanted = parse(to_json(dataclasses.asdict(run.recipe)))
    differing = sorted(k for k in wanted.keys() | found["recipe"].keys() if wanted.get(k) != found["recipe"].get(k))
    if differing:
        raise CheckpointError(
            f"{path} is of another recipe",
            found=", ".join(f"{key} {found['recipe'].get(key)}" for key in differing),
            wanted=", ".join(f"{key} {wanted.get(key)}" for key in differing),
            hint="resume with the recipe it was begun with, or choose another --out",
        )
    for name, kind in (("train", "training"), ("test", "test")):
        if found["data_sha256"][name] != run.data_sha256[name]:
            raise CheckpointError(
                f"{path} is of other {kind} images",
                found=f"SHA-256 {found['data_sha256'][name]}",
                wanted=f"SHA-256 {run.data_sha256[name]}, the data given now",
                hint="resume with the data it was begun with, or choose another --out",
            )


def _write_results(run: Run, data: dict[str, str], out: Path) -> None:
    last = run.history[-1]
    metrics = {
        "train_loss": last.train_loss,
        "train_accuracy": last.train_accuracy,
        "test_loss": last.test_loss,
        "test_accuracy": last.test_accuracy,
    }
    made_by = {
        "recipe": dataclasses.asdict(run.recipe),
        "metrics": metrics,
        "data": data,
        "data_sha256": run.data_sha256,
        **{key: value for key, value in run.sessions[-1].items() if key != "first_epoch"},
        "sessions": run.sessions,
    }
    # Again: a kill or a full disk may have come between the last checkpoint and its history.
    write_atomically(out / "history.csv", _to_csv(run.history))
    weights.save(out / "weights.safetensors", _arrays(run.model), made_by)
    times = {
        "started": run.started,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "training_seconds": sum(record.seconds for record in run.history),
        "images_an_epoch": run.images,
    }
    document = to_json(made_by | {"times": times}, indent=2)
    write_atomically(out / "run.json", document.encode() + b"\n")


def _arrays(model: LeNet) -> weights.Arrays:
    return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in model.named_parameters()}


def _to_csv(history: list[EpochRecord]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(f.name for f in dataclasses.fields(EpochRecord))
    writer.writerows(dataclasses.astuple(record) for record in history)
    return text.getvalue().encode()
