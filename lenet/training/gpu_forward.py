"""LeNet's forward pass for training on a GPU: convolutions as matrix products. It equals the model's but for rounding.

A 2x2 pool picks one of four neighbouring outputs of a 5x5 convolution. Together the four read one 6x6 window::

    window, step 2        the kernel, where each of the four outputs reads it
    . . . . . .           x x x x x .   . x x x x x   . . . . . .   . . . . . .
    . . . . . .           x x x x x .   . x x x x x   x x x x x .   . x x x x x
    . . . . . .     ->    x x x x x .   . x x x x x   x x x x x .   . x x x x x
    . . . . . .           x x x x x .   . x x x x x   x x x x x .   . x x x x x
    . . . . . .           x x x x x .   . x x x x x   x x x x x .   . x x x x x
    . . . . . .           . . . . . .   . . . . . .   x x x x x .   . x x x x x

So a convolution and its pool are one matrix product with four shifted kernels a channel, then the largest of each four.

11 of 36 multiplications are by zero, but a pixel is copied 9 times instead of 25. Both gradients are matrix products
too. For so few channels cuBLAS computes them faster than cuDNN's deterministic kernels. Every sum is taken in the same
order each time.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import fold, max_pool2d, max_unpool2d, relu

from lenet.models.pytorch_lenet import LeNet

__all__ = ["forward"]

_POOL: Final = 2
_PARTS: Final = 8
"""Parts of a batch for which a weight's gradient is computed in parallel. Their sum is the gradient."""


def forward(model: LeNet, images: torch.Tensor) -> torch.Tensor:
    """Logits of normalised images. They and their gradients equal those of ``model(images)`` but for rounding.

    Args:
        model: The network.
        images: (N, 3, 32, 32), with the dtype and device of the parameters.

    Returns:
        (N, 10), with the same dtype and device.
    """
    x = _convolve_pool_activate(images, model.conv1)
    x = _convolve_pool_activate(x, model.conv2)
    x = relu(_multiply(x.flatten(1), model.fc1))
    x = relu(_multiply(x, model.fc2))
    return _multiply(x, model.fc3)


def _multiply(x: torch.Tensor, layer: torch.nn.Linear) -> torch.Tensor:
    product: torch.Tensor = layer(x) if len(x) % _PARTS else _Linear.apply(x, layer.weight, layer.bias)
    return product


def _convolve_pool_activate(x: torch.Tensor, layer: torch.nn.Conv2d) -> torch.Tensor:
    """Convolution, 2x2 max-pool and ReLU: (N, C, H, W) -> (N, O, (H - k + 1) / 2, (W - k + 1) / 2).

    The convolution's k x k kernel must leave even sides.
    """
    assert layer.bias is not None
    count, _, height, width = x.shape
    channels, _, side, _ = layer.weight.shape
    windows: torch.Tensor = _Windows.apply(x, side + _POOL - 1)
    kernels: torch.Tensor = _ShiftedKernels.apply(layer.weight)
    four = torch.bmm(kernels.expand(count, -1, -1), windows).view(count, channels, _POOL**2, -1)
    largest: torch.Tensor = _LargestOfFour.apply(four)
    pooled = largest.view(count, channels, (height - side + 1) // _POOL, (width - side + 1) // _POOL)
    return relu(pooled + layer.bias.view(-1, 1, 1))


class _Linear(Function):
    """``x @ weight.T + bias``, with the weight's gradient as the sum over `_PARTS` parts of the batch."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return torch.addmm(bias, x, weight.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x, weight = ctx.saved_tensors
        parts, of_x = (tensor.view(_PARTS, -1, tensor.shape[1]) for tensor in (gradient.contiguous(), x))
        return gradient @ weight, torch.bmm(parts.transpose(1, 2), of_x).sum(0), gradient.sum(0)


class _Windows(Function):
    """Every window of ``side`` x ``side`` pixels, two pixels apart: (N, C, H, W) -> (N, C * side * side, windows)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, side: int) -> torch.Tensor:
        ctx.shape, ctx.side = x.shape[2:], side
        windows = x.unfold(2, side, _POOL).unfold(3, side, _POOL).permute(0, 1, 4, 5, 2, 3)
        return windows.reshape(len(x), x.shape[1] * side * side, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return fold(gradient, ctx.shape, ctx.side, stride=_POOL), None


class _ShiftedKernels(Function):
    """Each kernel at its four places in a window, among zeros: (O, C, k, k) -> (4 * O, C * (k + 1) * (k + 1))."""

    @staticmethod
    def forward(ctx: Any, kernels: torch.Tensor) -> torch.Tensor:
        channels, of, side, _ = ctx.shape = kernels.shape
        shifted = kernels.new_zeros(channels * _POOL**2, of * (side + _POOL - 1) ** 2)
        _at_their_places(shifted, kernels.shape).copy_(kernels[..., None, None])
        return shifted

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _at_their_places(gradient.contiguous(), ctx.shape).sum((-2, -1))


def _at_their_places(shifted: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The non-zeros of shifted kernels, as a view (O, C, k, k, 2, 2). The last two are the shifts down and right."""
    channels, of, side, _ = shape
    window = side + _POOL - 1
    # `shifted` is (O, 2, 2, C, window, window). A shift moves along two of its dimensions at once.
    each = of * window * window
    strides = (_POOL**2 * each, window * window, window, 1, _POOL * each + window, each + 1)
    return shifted.as_strided((channels, of, side, side, _POOL, _POOL), strides)


class _LargestOfFour(Function):
    """The largest of each four: (N, O, 4, L) -> (N, O, 1, L). Of equal values the first gets the gradient.

    `max_pool2d` chooses the same one. Its own gradient visits every element; `max_unpool2d` writes a quarter of them.
    """

    @staticmethod
    def forward(ctx: Any, four: torch.Tensor) -> torch.Tensor:
        largest, places = max_pool2d(four, (_POOL**2, 1), return_indices=True)
        ctx.save_for_backward(places)
        return largest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (places,) = ctx.saved_tensors
        return max_unpool2d(gradient.contiguous(), places, (_POOL**2, 1))
