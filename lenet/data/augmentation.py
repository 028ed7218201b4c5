"""Whole-batch augmentation and normalisation, as pure functions on any device.

Random numbers are drawn first (`draw_crop`) and passed in, so the same draw gives the same images on every device.
`crop_and_flip` gives the same images as torchvision's ``pad``, ``crop`` and ``horizontal_flip`` at the same offsets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import torch
from torch.nn.functional import pad

__all__ = [
    "FLIP_PROBABILITY",
    "MEAN",
    "PADDING",
    "STD",
    "Crop",
    "crop_and_flip",
    "draw_crop",
    "normalize",
    "scale_and_shift",
]

MEAN: Final = (0.49140, 0.48216, 0.44653)
"""Per-channel mean of the 50,000 training images, values / 255: computed from the data (tests/data checks it)."""
STD: Final = (0.24703, 0.24349, 0.26159)
"""Per-channel standard deviation of the same values, likewise."""
PADDING: Final = 4
"""Black border around an image before it is cropped, in pixels; the coursework's value."""
FLIP_PROBABILITY: Final = 0.5
"""Probability of mirroring an image; torchvision's default."""


@dataclass(frozen=True, slots=True)
class Crop:
    """The random draw for each image of a batch.

    Attributes:
        top: int64 (N,), first row of the crop in the padded image, 0 to 2 * padding.
        left: int64 (N,), first column, likewise.
        flip: bool (N,), whether the crop is mirrored left to right.
    """

    top: torch.Tensor
    left: torch.Tensor
    flip: torch.Tensor

    def __getitem__(self, rows: slice | torch.Tensor) -> Crop:
        return Crop(self.top[rows], self.left[rows], self.flip[rows])

    def to(self, device: torch.device) -> Crop:
        """The same draw on another device."""
        return Crop(self.top.to(device), self.left.to(device), self.flip.to(device))


def draw_crop(count: int, generator: torch.Generator, padding: int = PADDING) -> Crop:
    """Draw offsets, uniform on 0 to 2 * padding, and flips for ``count`` images."""
    offsets = torch.randint(0, 2 * padding + 1, (2, count), generator=generator, device=generator.device)
    flip = torch.rand(count, generator=generator, device=generator.device) < FLIP_PROBABILITY
    return Crop(offsets[0], offsets[1], flip)


def crop_and_flip(images: torch.Tensor, crop: Crop, padding: int = PADDING) -> torch.Tensor:
    """Pad each image with zeros, crop it back to its size at its own offsets, and mirror it if drawn.

    Args:
        images: (N, C, H, W), any dtype.
        crop: The draw for these N images, on the same device.
        padding: Width of the border in pixels.

    Returns:
        (N, C, H, W), the dtype and device of ``images``.
    """
    count, channels, height, width = images.shape
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    source_rows = crop.top[:, None] + rows
    source_columns = crop.left[:, None] + torch.where(crop.flip[:, None], width - 1 - columns, columns)
    padded_width = width + 2 * padding
    # One flat index for all channels: `gather` then reads each pixel once, three times faster than advanced indexing.
    index = (source_rows[:, :, None] * padded_width + source_columns[:, None, :]).view(count, 1, -1)
    padded = pad(images, (padding, padding, padding, padding)).view(count, channels, -1)
    return padded.gather(2, index.expand(-1, channels, -1)).view_as(images)


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Scale uint8 images to 0-1 and normalise each channel: ``(x / 255 - MEAN) / STD``.

    Args:
        images: uint8 (N, 3, H, W).

    Returns:
        float32 (N, 3, H, W) on the same device.
    """
    scale, shift = scale_and_shift(images.device)
    return images.to(torch.float32).mul_(scale).add_(shift)


@cache
def scale_and_shift(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """What `normalize` multiplies by and adds, (1, 3, 1, 1) each. Cached: a copy to a GPU would have to wait for it."""
    with torch.inference_mode(mode=False):
        scale = torch.tensor([1 / (255 * std) for std in STD], device=device)
        shift = torch.tensor([-mean / std for mean, std in zip(MEAN, STD, strict=True)], device=device)
    return scale.view(1, 3, 1, 1), shift.view(1, 3, 1, 1)
