"""What another way to compute LeNet is held to: the plain module's values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy

from lenet.models.pytorch_lenet import LeNet


def check_same_function(
    forward: Callable[[LeNet, torch.Tensor], torch.Tensor], model: LeNet, images: torch.Tensor, tolerance: float
) -> None:
    """Logits and every parameter's gradient are those of the module itself."""

    def gradients(logits: torch.Tensor) -> list[torch.Tensor]:
        loss = cross_entropy(logits, torch.arange(len(logits)) % 10)
        return list(torch.autograd.grad(loss, list(model.parameters())))

    logits, wanted = forward(model, images), model(images)
    torch.testing.assert_close(logits, wanted, rtol=0, atol=tolerance)
    for one, other in zip(gradients(logits), gradients(wanted), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


def check_slope(of_layer: Callable[[torch.Tensor, torch.nn.Conv2d], torch.Tensor]) -> None:
    """A block's gradients, of its input and its layer's parameters, are the slopes of its values."""
    torch.manual_seed(1)
    layer = torch.nn.Conv2d(2, 3, 3).double()
    x = torch.randn(2, 2, 8, 6, dtype=torch.float64, requires_grad=True)

    def block(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        stand_in = torch.nn.Module()
        stand_in.weight, stand_in.bias = weight, bias
        return of_layer(x, stand_in)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(block, [x, *layer.parameters()])
