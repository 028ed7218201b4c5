from __future__ import annotations

import numpy as np
import pytest
import torch

from lenet.data.augmentation import MEAN, STD
from lenet.data.synthetic import synthetic
from lenet.models.byte_input import fold_normalization
from lenet.models.pytorch_lenet import from_weights
from lenet.weights import Arrays


def test_bytes_give_what_normalised_images_give(arrays: Arrays) -> None:
    """In float64, so that of all rounding only that of the folded weights to float32 is left."""
    images = synthetic(8).images.double()
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (MEAN, STD))
    with torch.inference_mode():
        wanted = from_weights(arrays).double()((images / 255 - mean) / std)
        found = from_weights(fold_normalization(arrays)).double()(images)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-7)


def test_a_known_answer(arrays: Arrays) -> None:
    """One weight of 1 on green, a bias of 2: black gives 2 - mean / std, and a level adds 1 / (255 std)."""
    weight = np.zeros_like(arrays["conv1.weight"])
    weight[0, 1, 2, 2] = 1
    bias = np.full_like(arrays["conv1.bias"], 2)
    folded = fold_normalization(arrays | {"conv1.weight": weight, "conv1.bias": bias})
    assert folded["conv1.bias"] == pytest.approx([2 - 0.48216 / 0.24349, 2, 2, 2, 2, 2])
    assert folded["conv1.weight"][0, 1, 2, 2] == pytest.approx(1 / (255 * 0.24349))
    assert np.count_nonzero(folded["conv1.weight"]) == 1


def test_only_the_first_convolution_changes(arrays: Arrays) -> None:
    folded = fold_normalization(arrays)
    assert list(folded) == list(arrays)
    assert {name for name in arrays if folded[name] is not arrays[name]} == {"conv1.weight", "conv1.bias"}
    assert all(array.dtype == np.float32 for array in folded.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_no_precision_rounds_a_byte(dtype: torch.dtype) -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(levels.to(dtype).to(torch.uint8), levels)
