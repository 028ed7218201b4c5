"""Augmentation of a whole batch, against torchvision's, image by image. Both give the same images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torchvision.transforms import v2

from lenet.data.augmentation import Crop, crop_and_flip, draw_crop
from lenet.data.synthetic import synthetic

_BATCH = 200
_PADDING = 4


@pytest.fixture
def images(device: torch.device) -> torch.Tensor:
    return synthetic(_BATCH).images.to(device)


@pytest.fixture
def crop(device: torch.device) -> Crop:
    return draw_crop(_BATCH, torch.Generator().manual_seed(0)).to(device)


def test_whole_batch(benchmark: BenchmarkFixture, images: torch.Tensor, crop: Crop) -> None:
    benchmark.group = "augmentation"
    benchmark.extra_info["images"] = _BATCH
    benchmark.pedantic(_synchronised(crop_and_flip), args=(images, crop), rounds=50, warmup_rounds=3)


def test_image_by_image(benchmark: BenchmarkFixture, images: torch.Tensor, crop: Crop) -> None:
    benchmark.group = "augmentation"
    benchmark.extra_info["images"] = _BATCH
    result = benchmark.pedantic(_synchronised(_torchvision), args=(images, crop), rounds=10, warmup_rounds=1)
    assert torch.equal(result, crop_and_flip(images, crop))


def _torchvision(images: torch.Tensor, crop: Crop) -> torch.Tensor:
    done = []
    offsets = zip(crop.top.tolist(), crop.left.tolist(), crop.flip.tolist(), strict=True)
    for image, (top, left, flip) in zip(images, offsets, strict=True):
        cropped = v2.functional.crop(v2.functional.pad(image, [_PADDING]), top, left, *image.shape[1:])
        done.append(v2.functional.horizontal_flip(cropped) if flip else cropped)
    return torch.stack(done)


def _synchronised(function: Callable[[torch.Tensor, Crop], torch.Tensor]) -> Callable[..., torch.Tensor]:
    def run(images: torch.Tensor, crop: Crop) -> torch.Tensor:
        result = function(images, crop)
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)
        return result

    return run
