"""Augmentation of a whole batch, against torchvision's, image by image. Both give the same images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

if TYPE_CHECKING:
    import torch

    from lenet.data.augmentation import Crop

_BATCH = 200
_PADDING = 4


@pytest.fixture
def images(device: torch.device) -> torch.Tensor:
    from lenet.data.synthetic import synthetic

    return synthetic(_BATCH).images.to(device)


@pytest.fixture
def crop(device: torch.device) -> Crop:
    import torch

    from lenet.data.augmentation import draw_crop

    return draw_crop(_BATCH, torch.Generator().manual_seed(0)).to(device)


def test_whole_batch(benchmark: BenchmarkFixture, images: torch.Tensor, crop: Crop) -> None:
    from lenet.data.augmentation import crop_and_flip

    benchmark.group = "augmentation"
    benchmark.extra_info["images"] = _BATCH
    benchmark.pedantic(_synchronised(crop_and_flip), args=(images, crop), rounds=50, warmup_rounds=3)


def test_image_by_image(benchmark: BenchmarkFixture, images: torch.Tensor, crop: Crop) -> None:
    import torch

    from lenet.data.augmentation import crop_and_flip

    benchmark.group = "augmentation"
    benchmark.extra_info["images"] = _BATCH
    result = benchmark.pedantic(_synchronised(_by_torchvision()), args=(images, crop), rounds=10, warmup_rounds=1)
    assert torch.equal(result, crop_and_flip(images, crop))


def _by_torchvision() -> Callable[[torch.Tensor, Crop], torch.Tensor]:
    import torch
    from torchvision.transforms import v2

    def run(images: torch.Tensor, crop: Crop) -> torch.Tensor:
        done = []
        offsets = zip(crop.top.tolist(), crop.left.tolist(), crop.flip.tolist(), strict=True)
        for image, (top, left, flip) in zip(images, offsets, strict=True):
            cropped = v2.functional.crop(v2.functional.pad(image, [_PADDING]), top, left, *image.shape[1:])
            done.append(v2.functional.horizontal_flip(cropped) if flip else cropped)
        return torch.stack(done)

    return run


def _synchronised(function: Callable[[torch.Tensor, Crop], torch.Tensor]) -> Callable[..., torch.Tensor]:
    import torch

    def run(images: torch.Tensor, crop: Crop) -> torch.Tensor:
        result = function(images, crop)
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)
        return result

    return run
