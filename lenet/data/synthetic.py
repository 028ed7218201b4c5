"""Seeded noise in the form of CIFAR-10, for machines without the data. It serves for timing, not for accuracy."""

from __future__ import annotations

import torch

from lenet.architecture import CLASSES, INPUT_SHAPE
from lenet.data.cifar10 import Split

__all__ = ["synthetic"]


def synthetic(count: int, seed: int = 0) -> Split:
    """Draw uint8 images (count, 3, 32, 32) and int64 labels, both uniform; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, *INPUT_SHAPE), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    name = f"seeded synthetic images, seed {seed}"
    return Split(images, labels, name, name)
