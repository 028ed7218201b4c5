from __future__ import annotations

import csv
import dataclasses
import json
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from lenet import weights
from lenet.data import augmentation
from lenet.data.cifar10 import Split
from lenet.data.synthetic import synthetic
from lenet.errors import CheckpointError, OutputError, RecipeError
from lenet.training import cpu_forward, loop
from lenet.training.batches import _generator, draw_epoch, epoch_batches
from lenet.training.checkpoint import CHECKPOINT
from lenet.training.ranks import Ranks
from lenet.training.recipe import Recipe
from lenet.training.run import EpochRecord, Run, new_run
from lenet.training.steps import step_for

CPU = torch.device("cpu")
SMALL = Recipe(epochs=4, batch_size=64, learning_rate=0.02, milestones=(2,))
TRAIN, TEST = synthetic(200, 1), synthetic(50, 2)


def train(out: Path, recipe: Recipe = SMALL, *, resume: bool = False, **arguments: object) -> Run:
    return loop.train(recipe, TRAIN, TEST, out=out, device=CPU, resume=resume, **arguments)  # type: ignore[arg-type]


def test_defaults_are_the_coursework_s() -> None:
    recipe = Recipe()
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate) == (60, 200, 0.05)
    assert (recipe.momentum, recipe.weight_decay, recipe.padding) == (0.9, 5e-4, 4)
    rates = [recipe.learning_rate_of(epoch) for epoch in (1, 30, 31, 45, 46, 60)]
    assert rates == pytest.approx([0.05, 0.05, 0.005, 0.005, 0.0005, 0.0005])


def test_a_run_leaves_everything_that_it_should(tmp_path: Path) -> None:
    run = train(tmp_path)
    assert run.complete
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [".lock", CHECKPOINT, "history.csv", "run.json", "weights.safetensors"]
    )
    loaded = weights.load(tmp_path / "weights.safetensors")
    assert json.loads(loaded.metadata["recipe"]) == json.loads(json.dumps(dataclasses.asdict(SMALL)))
    with (tmp_path / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([0.02, 0.02, 0.002, 0.002])
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["recipe"]["seed"] == 0
    assert facts["data_sha256"] == {"train": TRAIN.sha256(), "test": TEST.sha256()}
    assert facts["versions"]["torch"]
    assert facts["metrics"]["test_loss"] == run.history[-1].test_loss
    assert facts["times"]["training_seconds"] > 0


def test_one_step_is_sgd_with_momentum_and_weight_decay() -> None:
    """Two steps equal the update written out: v = m v + (g + w p), p = p - lr v."""
    recipe = Recipe(batch_size=100, learning_rate=0.1)
    run = new_run(recipe, TRAIN, CPU)
    wanted = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    velocity = {name: torch.zeros_like(p) for name, p in wanted.items()}
    model = new_run(recipe, TRAIN, CPU).model
    for images, labels in epoch_batches(TRAIN.images, TRAIN.labels, recipe, draw_epoch(len(TRAIN), recipe, 1)):
        model.load_state_dict(wanted)
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            gradient = parameter.grad + recipe.weight_decay * wanted[name]
            velocity[name] = recipe.momentum * velocity[name] + gradient
            wanted[name] = wanted[name] - recipe.learning_rate * velocity[name]
    step = step_for(run.model, run.optimizer, recipe.batch_size, Ranks())
    loop.train_epoch(step, TRAIN.images, TRAIN.labels, recipe, 1)
    for name, parameter in run.model.named_parameters():
        torch.testing.assert_close(parameter.detach(), wanted[name], rtol=1e-5, atol=1e-6)


def test_an_epoch_is_the_plain_loop_to_the_bit() -> None:
    """Of the same forward pass: whatever else is faster must not change the weights."""
    plain, run = (new_run(SMALL, TRAIN, CPU) for _ in range(2))
    generator = _generator(SMALL.seed, 1)
    order = torch.randperm(len(TRAIN), generator=generator)
    crops = augmentation.draw_crop(len(TRAIN), generator, SMALL.padding)
    loss_sum, hits = 0.0, 0
    for start in range(0, len(TRAIN), SMALL.batch_size):
        rows = slice(start, start + SMALL.batch_size)
        labels = TRAIN.labels[order[rows]]
        images = augmentation.crop_and_flip(TRAIN.images[order[rows]], crops[rows], SMALL.padding)
        plain.optimizer.zero_grad()
        logits = cpu_forward.forward(plain.model, augmentation.normalize(images))
        loss = torch.nn.functional.cross_entropy(logits, labels)
        loss.backward()
        plain.optimizer.step()
        loss_sum += loss.item() * len(labels)
        hits += int((logits.argmax(1) == labels).sum())
    step = step_for(run.model, run.optimizer, SMALL.batch_size, Ranks())
    measures = loop.train_epoch(step, TRAIN.images, TRAIN.labels, SMALL, 1)
    assert measures == pytest.approx((loss_sum / len(TRAIN), hits / len(TRAIN)), rel=1e-6)
    for one, other in zip(plain.model.parameters(), run.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_each_epoch_sees_every_image_once_in_its_own_order() -> None:
    images = torch.arange(200, dtype=torch.uint8).view(200, 1, 1, 1).expand(200, 3, 32, 32)
    recipe = Recipe(batch_size=64, padding=0)
    orders = []
    for epoch in (1, 2):
        draw = draw_epoch(len(images), recipe, epoch)
        seen = [(batch[:, 0, 0, 0], labels) for batch, labels in epoch_batches(images, TRAIN.labels, recipe, draw)]
        assert [len(labels) for _, labels in seen] == [64, 64, 64, 8]
        red = torch.cat([batch for batch, _ in seen])
        order = ((red * augmentation.STD[0] + augmentation.MEAN[0]) * 255).round().long()
        assert sorted(order.tolist()) == list(range(200))
        assert torch.equal(torch.cat([labels for _, labels in seen]), TRAIN.labels[order])
        orders.append(order)
    assert not torch.equal(*orders)


def test_it_learns(tmp_path: Path) -> None:
    """Images that differ in brightness by class are told apart, which noise is not."""
    labels = torch.arange(1000) % 2
    bright = (labels * 200).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32).contiguous()
    split = Split(bright, labels, "made here")
    recipe = Recipe(epochs=2, batch_size=50, padding=0)
    run = loop.train(recipe, split, split, out=tmp_path, device=CPU)
    assert run.history[-1].test_accuracy > 0.9
    assert run.history[-1].train_loss < run.history[0].train_loss


def test_same_seed_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    recipe = dataclasses.replace(SMALL, epochs=1)
    train(tmp_path / "one", recipe)
    train(tmp_path / "again", recipe)
    train(tmp_path / "other", dataclasses.replace(recipe, seed=1))
    one, again, other = (weights.load(tmp_path / n / "weights.safetensors").arrays for n in ("one", "again", "other"))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not np.array_equal(one["fc1.weight"], other["fc1.weight"])


class _StopError(Exception):
    pass


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    train(tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(CheckpointError, match=r"(?s)already holds a run.*--resume"):
        train(tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_second_training_is_kept_out_of_the_directory_of_one_that_runs(tmp_path: Path) -> None:
    def begin_another(_: Run) -> None:
        with pytest.raises(OutputError, match=r"cannot be locked\n  found:  another process that writes into it"):
            train(tmp_path, dataclasses.replace(SMALL, seed=1))

    run = train(tmp_path, on_start=begin_another)
    assert json.loads((tmp_path / "run.json").read_text())["metrics"]["test_loss"] == run.history[-1].test_loss


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_training_that_diverges_says_so_and_leaves_the_previous_checkpoint(tmp_path: Path, epoch: int) -> None:
    recipe = dataclasses.replace(SMALL, learning_rate=1e6 if epoch == 1 else SMALL.learning_rate)

    begun: list[Run] = []

    def spoil(record: EpochRecord) -> None:
        if record.epoch == epoch - 1:
            with torch.no_grad():
                begun[0].model.fc3.bias.fill_(float("nan"))

    with pytest.raises(RecipeError, match=rf"the training diverged in epoch {epoch}\n  found:  training loss nan"):
        train(tmp_path, recipe, on_start=begun.append, on_epoch=spoil)
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ([CHECKPOINT, "history.csv"] if epoch > 1 else [])
    if epoch > 1:
        assert len(train(tmp_path, recipe, resume=True).history) == SMALL.epochs


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    """The file-size limit stands for the full disk: it is set after the first epoch's checkpoint is written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    good = b""

    def fill_the_disk(_: EpochRecord) -> None:
        nonlocal good
        good = (tmp_path / CHECKPOINT).read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))

    try:
        with pytest.raises(OutputError, match=rf"cannot write .*{CHECKPOINT}"):
            train(tmp_path, on_epoch=fill_the_disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / CHECKPOINT).read_bytes() == good
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", CHECKPOINT, "history.csv"]
    assert train(tmp_path, resume=True).complete


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, r"--batch-size cannot be used\n  found:  0\n  wanted: 1 to 200"),
        ({"batch_size": -5}, "--batch-size"),
        ({"batch_size": 201}, r"--batch-size cannot be used\n  found:  201\n  wanted: 1 to 200"),
        ({"epochs": 0}, "--epochs"),
        ({"learning_rate": 0.0}, "--learning-rate"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
        ({"learning_rate": float("inf")}, "--learning-rate"),
        ({"momentum": 1.0}, "--momentum"),
        ({"weight_decay": -1e-4}, "--weight-decay"),
        ({"weight_decay": float("inf")}, "--weight-decay"),
        ({"decay": 0.0}, "--decay"),
        ({"padding": -1}, "--padding"),
        ({"seed": -1}, "--seed"),
        ({"milestones": (0,)}, "--milestone"),
        ({"train_images": 201}, "--train-images"),
        ({"test_images": -1}, "--test-images"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_before_anything_is_written(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        train(tmp_path / "run", dataclasses.replace(SMALL, **change))  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_what_each_epoch_was_done_on_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(record: EpochRecord) -> None:
        if record.epoch == 2:
            raise _StopError

    with pytest.raises(_StopError):
        train(tmp_path, on_epoch=stop)
    monkeypatch.setattr(loop, "describe", lambda _: "another machine")
    train(tmp_path, resume=True)
    train(tmp_path, resume=True)  # nothing is left to be done
    facts = json.loads((tmp_path / "run.json").read_text())
    assert [(one["first_epoch"], one["device"]) for one in facts["sessions"]] == [
        (1, "CPU, 1 thread"),
        (3, "another machine"),
    ]
    assert facts["device"] == "another machine"
    assert facts["data_sha256"] == {"train": TRAIN.sha256(), "test": TEST.sha256()}


def test_the_same_training_gives_the_same_files(tmp_path: Path) -> None:
    recipe = dataclasses.replace(SMALL, epochs=1)
    runs = [tmp_path / str(number) for number in range(5)]
    for out in runs:
        train(out, recipe)
    assert len({weights.digest(weights.load(out / "weights.safetensors").arrays) for out in runs}) == 1
    assert len({(out / "weights.safetensors").read_bytes() for out in runs}) == 1
