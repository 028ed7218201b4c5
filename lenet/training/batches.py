"""An epoch's batches: drawn on the CPU by the seed and the epoch's number, augmented on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from lenet.data import augmentation
from lenet.training.ranks import Ranks
from lenet.training.recipe import Recipe
from lenet.training.run import memory_layout

__all__ = ["Draw", "draw_epoch"]


_GPU_IMAGES_AT_ONCE: Final = 10_000
"""Images that a GPU augments together, in whole batches: few launches, in about 0.5 GB of its memory."""


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


def epoch_batches(
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
        batches = augmentation.normalize(batches).contiguous(memory_format=memory_layout(images.device))
        yield from zip(batches.split(size), labels[rows].split(size), strict=True)


def _generator(seed: int, epoch: int) -> torch.Generator:
    """The epoch's own random stream; NumPy's SeedSequence keeps the streams of near seeds apart."""
    state = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state)
