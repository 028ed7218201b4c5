"""Training's matrix products against the plain module, in values and in gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, max_pool2d, relu

from lenet.models import windowed_lenet
from lenet.models.pytorch_lenet import LeNet


def gradients(model: LeNet, logits: torch.Tensor) -> list[torch.Tensor]:
    loss = cross_entropy(logits, torch.arange(len(logits)) % 10)
    return list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
@pytest.mark.parametrize("count", [1, 7, 16])
def test_logits_and_gradients_are_the_plain_modules(dtype: torch.dtype, tolerance: float, count: int) -> None:
    torch.manual_seed(0)
    model = LeNet(pool_first=True).to(dtype)
    images = torch.randn(count, 3, 32, 32, dtype=dtype)
    logits, wanted = windowed_lenet.forward(model, images), model(images)
    torch.testing.assert_close(logits, wanted, rtol=0, atol=tolerance)
    for one, other in zip(gradients(model, logits), gradients(model, wanted), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


def test_of_equal_outputs_the_first_gets_the_gradient() -> None:
    """Where an image does not change, all four outputs of a pool are equal; across stripes, two of them are."""
    torch.manual_seed(0)
    layer = LeNet().double().conv1
    x = (torch.arange(32.0)[:, None] + torch.arange(32.0)).remainder(2).double().expand(4, 3, 32, 32).clone()
    x[2:] = -1.5
    x.requires_grad_()
    by_windows, plain = windowed_lenet._convolve_pool_activate(x, layer), relu(max_pool2d(layer(x), 2))
    one, other = (torch.autograd.grad(y.square().sum(), x)[0] for y in (by_windows, plain))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_the_gradient_is_the_slope() -> None:
    torch.manual_seed(1)
    layer = torch.nn.Conv2d(2, 3, 3).double()
    x = torch.randn(2, 2, 8, 6, dtype=torch.float64, requires_grad=True)

    def convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        stand_in = torch.nn.Module()
        stand_in.weight, stand_in.bias = weight, bias
        return windowed_lenet._convolve_pool_activate(x, stand_in)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(convolve, [x, *layer.parameters()])
