"""A training run between two epochs, and the files with its results."""

from __future__ import annotations

import csv
import dataclasses
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from lenet import weights
from lenet.data.cifar10 import Split
from lenet.documents import to_json
from lenet.files import write_atomically
from lenet.models.pytorch_lenet import LeNet, to_arrays
from lenet.training.recipe import Recipe

__all__ = ["EpochRecord", "Run", "new_run"]


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One line of ``history.csv``.

    Attributes:
        epoch: From 1.
        learning_rate: In this epoch.
        train_loss: Mean cross-entropy in nats over the augmented training images, each before its step.
        train_accuracy: Over the same images, 0-1.
        test_loss: Mean cross-entropy in nats over the test images after the epoch.
        test_accuracy: Over the same images, 0-1.
        seconds: Wall time of the epoch's training, without the test.
        images_per_second: Training images divided by ``seconds``.
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
        recipe: The recipe.
        images: Training images an epoch.
        data_sha256: Digests of the training and the test split (`Split.sha256`), by name.
        model: The network, on the training device.
        optimizer: The optimizer of the model's parameters.
        started: When the first epoch began, ISO 8601 in UTC.
        history: The finished epochs.
        sessions: Versions, device and commit, with the first epoch that they hold for.
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


def new_run(recipe: Recipe, train_split: Split, device: torch.device, test_split: Split | None = None) -> Run:
    """A run before its first epoch, with PyTorch's default initialisation, seeded by the recipe."""
    hasher = ThreadPoolExecutor(2)  # hashing takes 0.1 s, while a GPU is set up
    splits = {"train": train_split} | ({"test": test_split} if test_split else {})
    digests = {name: hasher.submit(split.sha256) for name, split in splits.items()}
    torch.manual_seed(recipe.seed)
    model = LeNet().to(memory_format=memory_layout(device)).to(device)
    optimizer = torch.optim.SGD(
        model.parameters(),
        # A CUDA graph reads a tensor anew at each replay. A number would keep its value from the capture.
        lr=recipe.learning_rate if device.type == "cpu" else torch.tensor(recipe.learning_rate, device=device),
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    started = datetime.now(UTC).isoformat(timespec="seconds")
    hasher.shutdown()
    data_sha256 = {name: digest.result() for name, digest in digests.items()}
    return Run(recipe, len(train_split), data_sha256, model, optimizer, started)


def memory_layout(device: torch.device) -> torch.memory_format:
    """The layout of images and convolution weights. On a CPU oneDNN is about a third faster with channels last."""
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format


def write_results(run: Run, data: dict[str, str], out: Path) -> None:
    """Write ``history.csv``, ``weights.safetensors`` and ``run.json`` of a finished run.

    Args:
        run: The run, with all its epochs.
        data: Where the images of each split come from, by its name.
        out: The run directory.

    Raises:
        OutputError: A file cannot be written.
    """
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
    # Write it again: a kill or a full disk may have come between the last checkpoint and its history.
    write_atomically(out / "history.csv", history_csv(run.history))
    weights.save(out / "weights.safetensors", to_arrays(run.model), made_by)
    times = {
        "started": run.started,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "training_seconds": sum(record.seconds for record in run.history),
        "images_an_epoch": run.images,
    }
    document = to_json(made_by | {"times": times}, indent=2)
    write_atomically(out / "run.json", document.encode() + b"\n")


def history_csv(history: list[EpochRecord]) -> bytes:
    """The content of ``history.csv``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(f.name for f in dataclasses.fields(EpochRecord))
    writer.writerows(dataclasses.astuple(record) for record in history)
    return text.getvalue().encode()
