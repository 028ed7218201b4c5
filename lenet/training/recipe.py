"""What decides the trained weights. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lenet.architecture import INPUT_SHAPE
from lenet.errors import RecipeError

__all__ = ["Recipe"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the trained weights, given the data and the machine's arithmetic.

    The defaults are the coursework's (sheet 3).

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images a step. The last step of an epoch may have fewer.
        learning_rate: Of SGD, before any decay.
        momentum: Of SGD.
        weight_decay: Of SGD, for every parameter.
        milestones: Epochs after which the learning rate is multiplied by ``decay``.
        decay: Factor of the learning rate at a milestone.
        padding: Black pixels around an image before the crop. With 0 nothing is cropped.
        seed: Seed of the initial weights, and of every epoch's order, crops and flips.
        train_images: Number of training images to use, from the first. 0 uses all.
        test_images: Number of test images to use, from the first. 0 uses all.
    """

    epochs: int = 60
    batch_size: int = 200
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    milestones: tuple[int, ...] = (30, 45)
    decay: float = 0.1
    padding: int = 4
    seed: int = 0
    train_images: int = 0
    test_images: int = 0

    def check(self, available: int, ranks: int = 1) -> None:
        """Check that training can follow the recipe.

        Args:
            available: Number of training images.
            ranks: Number of processes that share each batch equally.

        Raises:
            RecipeError: A value is out of range. The error names the first.
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
        """The learning rate of an epoch. Epochs count from 1."""
        return self.learning_rate * self.decay ** sum(epoch > milestone for milestone in self.milestones)
