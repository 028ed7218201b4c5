from __future__ import annotations

import torch

from lenet.data.synthetic import synthetic


def test_same_seed_same_images_and_another_seed_others() -> None:
    one, again, other = synthetic(8, 1), synthetic(8, 1), synthetic(8, 2)
    assert torch.equal(one.images, again.images)
    assert torch.equal(one.labels, again.labels)
    assert not torch.equal(one.images, other.images)
    assert one.source == "seeded synthetic images, seed 1"


def test_has_cifar_10_s_form() -> None:
    split = synthetic(1000)
    assert split.images.shape == (1000, 3, 32, 32)
    assert split.images.dtype == torch.uint8
    assert split.labels.dtype == torch.int64
    assert (int(split.images.min()), int(split.images.max())) == (0, 255)
    assert sorted(set(split.labels.tolist())) == list(range(10))
