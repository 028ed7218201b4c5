"""Training's matrix products against the plain module, in values and in gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import max_pool2d, relu

from lenet.models.pytorch_lenet import LeNet
from lenet.training import gpu_forward
from tests.models.checks import check_same_function, check_slope


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
@pytest.mark.parametrize("count", [1, 7, 16])
def test_logits_and_gradients_are_the_plain_modules(dtype: torch.dtype, tolerance: float, count: int) -> None:
    torch.manual_seed(0)
    model = LeNet().to(dtype)
    images = torch.randn(count, 3, 32, 32, dtype=dtype)
    check_same_function(gpu_forward.forward, model, images, tolerance)


def test_of_equal_outputs_the_first_gets_the_gradient() -> None:
    """Where an image does not change, all four outputs of a pool are equal; across stripes, two of them are."""
    torch.manual_seed(0)
    layer = LeNet().double().conv1
    x = (torch.arange(32.0)[:, None] + torch.arange(32.0)).remainder(2).double().expand(4, 3, 32, 32).clone()
    x[2:] = -1.5
    x.requires_grad_()
    by_windows, plain = gpu_forward._convolve_pool_activate(x, layer), relu(max_pool2d(layer(x), 2))
    one, other = (torch.autograd.grad(y.square().sum(), x)[0] for y in (by_windows, plain))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_the_gradient_is_the_slope() -> None:
    check_slope(gpu_forward._convolve_pool_activate)
