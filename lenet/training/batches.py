"""The batches of an epoch: drawn on the CPU from the seed and the epoch's number, augmented on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import torch

from lenet.data import augmentation
from lenet.training.ranks import Ranks
from lenet.training.recipe import Recipe
from lenet.training.run import memory_layout

__all__ = ["Augment", "Draw", "augment", "draw_epoch"]

Augment: TypeAlias = Callable[[torch.Tensor, torch.Tensor, augmentation.Crop, int], torch.Tensor]
"""uint8 images (N, 3, 32, 32), int64 indices (n,) into them, the crop and flip of each, the border in pixels -> float32
(n, 3, 32, 32): augmented and normalised, in `memory_layout`."""


_GPU_IMAGES_AT_ONCE: Final = 10_000
"""Images that a GPU augments together, in whole batches. This takes few launches and about 0.5 GB of GPU memory."""


@dataclass(frozen=True, slots=True)
class Draw:
    """An epoch's random choices for this rank's images.

    Attributes:
        order: Indices of the training images, one batch after the other: int64 (n,).
        crops: The crop and flip of each.
    """

    order: torch.Tensor
    crops: augmentation.Crop

    def to(self, device: torch.device) -> Draw:
        """The same choices on another device."""
        return Draw(self.order.to(device), self.crops.to(device))


def draw_epoch(
    images: int,
    recipe: Recipe,
    number: int,
    ranks: Ranks = Ranks(),  # noqa: B008 - it is frozen
) -> Draw:
    """Draw an epoch's order, crops and flips. They depend on the seed and the epoch's number alone.

    Args:
        images: Number of training images.
        recipe: Its batch size, seed and padding are used.
        number: The epoch, from 1.
        ranks: The processes that train together. Each draws its part of every batch.
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
    augment_with: Augment | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Shuffle, augment and normalise an epoch's images; yield this rank's part of each batch.

    Args:
        images: uint8 (N, 3, 32, 32), on the training device.
        labels: int64 (N,), on the same device.
        recipe: Its batch size and padding are used.
        draw: From `draw_epoch`, for the same images and ranks.
        ranks: The processes that train together.
        augment_with: Augments many images at once. The default is `augment`.

    Yields:
        float32 images (n, 3, 32, 32) in `memory_layout`, and their int64 labels (n,).
    """
    draw = draw.to(images.device)
    order, crops = draw.order, draw.crops
    # In one tensor: steps keep their labels, and many small tensors between large ones would fragment the heap.
    labels = labels[order]
    size = recipe.batch_size // ranks.size
    at_once = size if images.device.type == "cpu" else size * max(1, _GPU_IMAGES_AT_ONCE // size)
    for start in range(0, len(order), at_once):
        rows = slice(start, start + at_once)
        batches = (augment_with or augment)(images, order[rows], crops[rows], recipe.padding)
        yield from zip(batches.split(size), labels[rows].split(size), strict=True)


def augment(images: torch.Tensor, order: torch.Tensor, crops: augmentation.Crop, padding: int) -> torch.Tensor:
    """An `Augment` by PyTorch's operators."""
    # `index_select` copies whole images. On a CPU it is many times faster than indexing in brackets.
    batches = augmentation.crop_and_flip(images.index_select(0, order), crops, padding)
    return augmentation.normalize(batches).contiguous(memory_format=memory_layout(images.device))


def _generator(seed: int, epoch: int) -> torch.Generator:
    """The epoch's own random stream. NumPy's SeedSequence makes the streams of neighbouring seeds independent."""
    state = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state)
