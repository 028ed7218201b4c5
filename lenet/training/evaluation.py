"""Loss and accuracy of any function from normalised images to logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from lenet.data.augmentation import normalize
from lenet.data.cifar10 import Split
from lenet.errors import DataError

__all__ = ["Evaluation", "evaluate", "why_not_finite"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well a network does on a split.

    Attributes:
        loss: Mean cross-entropy over the images, in nats.
        accuracy: Share of images whose largest logit is their label's, 0-1. Images without finite logits are wrong.
        images: Number of images.
        not_finite: Images with an infinite or NaN logit. With any, the loss is not finite either.
    """

    loss: float
    accuracy: float
    images: int
    not_finite: int = 0

    @property
    def problem(self) -> str | None:
        """Why the loss is not finite, or None if it is."""
        return why_not_finite(self.not_finite, self.images)


def why_not_finite(count: int, images: int) -> str | None:
    """The message for ``count`` images without finite logits, or None for 0."""
    return f"the logits of {count:,} of {images:,} images are not finite" if count else None


def evaluate(
    forward: Callable[[torch.Tensor], torch.Tensor], split: Split, device: torch.device, batch_size: int
) -> Evaluation:
    """Run every image of a split through a network, without augmentation.

    Args:
        forward: Normalised float32 images (N, 3, 32, 32) on ``device`` -> logits (N, 10).
        split: The images. They are moved to ``device`` a batch at a time.
        device: Where ``forward`` takes its images.
        batch_size: Images a batch. The last batch may be smaller.

    Returns:
        The mean loss, summed in float64, and the accuracy.

    Raises:
        DataError: The batch size is not between 1 and the number of images.
    """
    if not 1 <= batch_size <= len(split):
        raise DataError(
            "the batch size does not fit the data",
            found=f"{batch_size:,}",
            wanted=f"1 to {len(split):,}, the number of images",
            hint="choose another --batch-size",
        )
    loss = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    finite = torch.zeros((), dtype=torch.int64, device=device)
    with torch.inference_mode():
        for start in range(0, len(split), batch_size):
            rows = slice(start, start + batch_size)
            labels = split.labels[rows].to(device)
            logits = forward(normalize(split.images[rows].to(device)))
            loss += cross_entropy(logits.double(), labels, reduction="sum")
            is_finite = logits.isfinite().all(1)
            correct += ((logits.argmax(1) == labels) & is_finite).sum()
            finite += is_finite.sum()
    count = len(split)
    return Evaluation(loss.item() / count, correct.item() / count, count, count - int(finite.item()))
