"""CIFAR-10 as the usual DataLoader pipeline reads it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image
from torch.utils.data import Dataset

from lenet.data.cifar10 import Split


class PilImages(Dataset[tuple[torch.Tensor, int]]):
    """CIFAR-10 as from `torchvision.datasets.CIFAR10`: one PIL image at a time, then the transform."""

    def __init__(self, split: Split, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.images = split.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = split.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]
