from __future__ import annotations

import math

import pytest
import torch

from lenet import weights
from lenet.data.augmentation import normalize
from lenet.data.cifar10 import Split
from lenet.data.synthetic import synthetic
from lenet.errors import DataError
from lenet.models.pytorch_lenet import from_weights
from lenet.training.evaluation import evaluate

CPU = torch.device("cpu")


def test_a_known_answer() -> None:
    """Logits of zero give ln 10 nats; argmax is then class 0, right for one image in ten."""
    split = Split(synthetic(100).images, torch.arange(100) % 10, "made here")
    result = evaluate(lambda images: torch.zeros(len(images), 10), split, CPU, 30)
    assert result.loss == pytest.approx(math.log(10))
    assert result.accuracy == pytest.approx(0.1)
    assert result.images == 100


@pytest.mark.parametrize("batch_size", [1, 7, 50, 100])
def test_the_batch_size_does_not_matter(batch_size: int) -> None:
    model, split = from_weights(weights.load().arrays), synthetic(100)
    whole = evaluate(model, split, CPU, 100)
    parts = evaluate(model, split, CPU, batch_size)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert parts.accuracy == whole.accuracy


def test_images_arrive_normalised() -> None:
    split = synthetic(3)

    def forward(images: torch.Tensor) -> torch.Tensor:
        assert torch.equal(images, normalize(split.images))
        return torch.zeros(3, 10)

    evaluate(forward, split, CPU, 3)


@pytest.mark.parametrize("batch_size", [0, -1, 101])
def test_a_batch_size_that_does_not_fit_is_refused(batch_size: int) -> None:
    with pytest.raises(DataError, match=rf"found:  {batch_size}\n  wanted: 1 to 100"):
        evaluate(lambda images: images, synthetic(100), CPU, batch_size)


def test_the_shipped_weights_are_as_good_as_they_say(real_test: Split) -> None:
    result = evaluate(from_weights(weights.load().arrays), real_test, CPU, 1000)
    assert result.accuracy >= 0.715
    assert result.loss <= 0.82
