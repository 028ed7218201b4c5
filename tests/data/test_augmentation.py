from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import v2

from lenet.data import augmentation
from lenet.data.augmentation import Crop, crop_and_flip, draw_crop, normalize
from lenet.data.cifar10 import Split
from lenet.data.synthetic import synthetic


def torchvision_crop_and_flip(images: torch.Tensor, crop: Crop, padding: int) -> torch.Tensor:
    """The same by torchvision, an image at a time."""
    height, width = images.shape[2:]
    done = []
    for image, top, left, flip in zip(images, crop.top, crop.left, crop.flip, strict=True):
        padded = v2.functional.pad(image, [padding])
        cropped = v2.functional.crop(padded, int(top), int(left), height, width)
        done.append(v2.functional.horizontal_flip(cropped) if flip else cropped)
    return torch.stack(done)


@given(seed=st.integers(0, 2**32), count=st.integers(1, 9), padding=st.integers(0, 8))
def test_equals_torchvision_image_by_image(seed: int, count: int, padding: int) -> None:
    images = synthetic(count, seed).images
    crop = draw_crop(count, torch.Generator().manual_seed(seed), padding)
    assert torch.equal(crop_and_flip(images, crop, padding), torchvision_crop_and_flip(images, crop, padding))


def test_equals_torchvision_at_every_offset() -> None:
    offsets = torch.cartesian_prod(torch.arange(9), torch.arange(9), torch.arange(2))
    crop = Crop(offsets[:, 0], offsets[:, 1], offsets[:, 2].bool())
    images = synthetic(1).images.expand(len(offsets), -1, -1, -1)
    assert torch.equal(crop_and_flip(images, crop), torchvision_crop_and_flip(images, crop, 4))


def test_draws_are_uniform_and_repeatable() -> None:
    crop = draw_crop(81_000, torch.Generator().manual_seed(0))
    again = draw_crop(81_000, torch.Generator().manual_seed(0))
    assert torch.equal(crop.top, again.top)
    counts = torch.bincount(crop.top * 9 + crop.left, minlength=81)
    # 81 cells of 1,000 on average; the chance that chi-squared with 80 degrees exceeds 150 is about 4e-6.
    assert ((counts - 1000.0) ** 2 / 1000).sum() < 150
    assert abs(crop.flip.float().mean() - 0.5) < 0.01


def test_centre_crop_without_flip_changes_nothing() -> None:
    images = synthetic(3).images
    centre = torch.full((3,), 4)
    assert torch.equal(crop_and_flip(images, Crop(centre, centre, torch.zeros(3, dtype=torch.bool))), images)


@given(seed=st.integers(0, 2**32))
def test_normalize_equals_torchvision(seed: int) -> None:
    images = synthetic(4, seed).images
    scaled = v2.functional.to_dtype(images, torch.float32, scale=True)
    wanted = v2.functional.normalize(scaled, list(augmentation.MEAN), list(augmentation.STD))
    torch.testing.assert_close(normalize(images), wanted, rtol=0, atol=1e-6)


def test_normalize_leaves_its_input_alone() -> None:
    images = synthetic(2).images
    before = images.clone()
    assert normalize(images).dtype == torch.float32
    assert torch.equal(images, before)


def test_statistics_are_the_training_set_s(real_train: Split) -> None:
    levels = torch.arange(256, dtype=torch.float64) / 255
    for channel, mean, std in zip(range(3), augmentation.MEAN, augmentation.STD, strict=True):
        counts = torch.bincount(real_train.images[:, channel].flatten(), minlength=256).double()
        share = counts / counts.sum()
        found = (share * levels).sum()
        assert found.item() == pytest.approx(mean, abs=5e-6)
        assert (share * (levels - found) ** 2).sum().sqrt().item() == pytest.approx(std, abs=5e-6)
