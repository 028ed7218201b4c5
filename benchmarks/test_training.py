"""One epoch of training: whole batches from uint8 on the device, against the usual DataLoader pipeline.

The timing begins after some steps, in which libraries choose their kernels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from lenet.suite.bridge import Store
from lenet.training.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from lenet.data.cifar10 import Split
    from lenet.suite.images import Splits

_WORKERS = 2
_WARMUP_IMAGES = 4000
_RECIPE = Recipe()


@pytest.fixture(scope="module")
def train_split(splits: Splits) -> Split:
    return splits.load("train")


def test_epoch(benchmark: BenchmarkFixture, store: Store, train_split: Split, device: torch.device) -> None:
    from lenet.training import loop
    from lenet.training.ranks import Ranks
    from lenet.training.run import new_run
    from lenet.training.steps import exact_float32, step_for

    run = new_run(_RECIPE, train_split, device)
    images, labels = train_split.images.to(device), train_split.labels.to(device)
    benchmark.group = "one epoch of training"
    benchmark.extra_info["images"] = train_split.content
    with exact_float32():
        step = step_for(run.model, run.optimizer, _RECIPE.batch_size, Ranks())
        loop.train_epoch(step, images[:_WARMUP_IMAGES], labels[:_WARMUP_IMAGES], _RECIPE, 1)
        store([_seconds(lambda: loop.train_epoch(step, images, labels, _RECIPE, 2))])


def test_steps_of_an_epoch(benchmark: BenchmarkFixture, store: Store, train_split: Split, device: torch.device) -> None:
    """The steps alone, on one batch again and again: the time of an epoch if batches cost nothing."""
    from lenet.data import augmentation
    from lenet.training.ranks import Ranks
    from lenet.training.run import new_run
    from lenet.training.steps import exact_float32, step_for

    run = new_run(_RECIPE, train_split, device)
    images = augmentation.normalize(train_split.images[: _RECIPE.batch_size].to(device))
    labels = train_split.labels[: _RECIPE.batch_size].to(device)
    benchmark.group = "one epoch of training"
    benchmark.extra_info["images"] = train_split.content
    with exact_float32():
        step = step_for(run.model, run.optimizer, _RECIPE.batch_size, Ranks())

        def steps(count: int) -> None:
            step.begin_epoch(0.0)
            for _ in range(count):
                step(images, labels)
            step.end_epoch()

        steps(_WARMUP_IMAGES // _RECIPE.batch_size)
        store([_seconds(lambda: steps(len(train_split) // _RECIPE.batch_size))])


def test_epoch_with_dataloader(
    benchmark: BenchmarkFixture, store: Store, train_split: Split, device: torch.device
) -> None:
    import torch
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader, Subset
    from torchvision import transforms

    from benchmarks.pil_images import PilImages
    from lenet.data import augmentation
    from lenet.models.pytorch_lenet import LeNet

    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=augmentation.PADDING),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(augmentation.MEAN, augmentation.STD),
        ]
    )
    dataset = PilImages(train_split, transform)
    load = partial(DataLoader, batch_size=_RECIPE.batch_size, shuffle=True, num_workers=_WORKERS)
    model = LeNet().to(device)
    optimizer = torch.optim.SGD(
        model.parameters(), _RECIPE.learning_rate, _RECIPE.momentum, weight_decay=_RECIPE.weight_decay
    )

    def epoch(loader: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        for images, labels in loader:
            optimizer.zero_grad()
            cross_entropy(model(images.to(device)), labels.to(device)).backward()
            optimizer.step()

    benchmark.group = "one epoch of training"
    benchmark.extra_info["images"] = train_split.content
    epoch(load(Subset(dataset, range(_WARMUP_IMAGES))))
    store([_seconds(lambda: epoch(load(dataset)))])


def _seconds(epoch: Callable[[], object]) -> float:
    import torch

    began = time.perf_counter()
    epoch()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began
