"""LeNet's forward pass for training on a CPU: faster in oneDNN than the plain model, and equal to it but for rounding.

With AVX-512, oneDNN computes 16 channels at a time. The first convolution has only 6 output channels, of 3 input
channels. In channels-last memory two neighbouring columns are also one column of twice the channels. So the same memory
passes through a convolution from 6 channels to 12. It holds each kernel at two places among zeros::

    x x x x x .    the left output's           . x x x x x    the right output's

One multiplication in six is then by zero, but 4 of 16 channels are idle instead of 10.

The second convolution has 16 output channels and gains nothing. The gradient of its input has 6, so that is computed by
paired columns too.

AVX2 computes 8 channels at a time: 2 of 8 are idle without pairs, 4 of 16 with them. There the zeros cost more than the
pairs save.

The first pool has 6 channels too. PyTorch's pool takes them one by one; taking whole rows is faster on every CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv2d, max_pool2d, pad, relu
from torch.nn.grad import conv2d_weight

from lenet.models.pytorch_lenet import LeNet

__all__ = ["forward"]

# Writes zero where a number is not above a threshold. It is three times faster than multiplying by a mask.
_threshold_backward = torch.ops.aten.threshold_backward


def forward(model: LeNet, images: torch.Tensor) -> torch.Tensor:
    """Logits of normalised images. They and their gradients equal those of ``model(images)`` but for rounding.

    Args:
        model: The network.
        images: (N, 3, 32, 32), with the dtype and device of the parameters. Channels-last images are not copied.

    Returns:
        (N, 10), with the same dtype and device.
    """
    first, second = model.conv1, model.conv2
    pairs = torch.backends.cpu.get_cpu_capability() == "AVX512"
    x: torch.Tensor = _convolve(images, first.weight, first.bias) if pairs else first(images)
    x = _PoolAndActivate.apply(x)
    x = _SecondConvolution.apply(x, second.weight, second.bias) if pairs else second(x)
    x = relu(max_pool2d(x, 2))
    x = relu(model.fc1(x.flatten(1)))
    x = relu(model.fc2(x))
    logits: torch.Tensor = model.fc3(x)
    return logits


def _convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, rows: int = 0) -> torch.Tensor:
    """``conv2d(x, weight, bias, padding=(rows, 0))`` by paired columns, for an odd kernel and even widths."""
    kernels = torch.stack((pad(weight, (0, 1)), pad(weight, (1, 0)))).flatten(0, 1)
    biases = None if bias is None else bias.repeat(2)
    y = conv2d(_pair_columns(x), _pair_columns(kernels), biases, padding=(rows, 0))
    count, channels, height, width = y.shape
    return y.permute(0, 2, 3, 1).reshape(count, height, width * 2, channels // 2).permute(0, 3, 1, 2)


def _pair_columns(x: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) -> (N, 2 * C, H, W / 2), channels last: a pair's left column, then its right one."""
    count, channels, height, width = x.shape
    return x.permute(0, 2, 3, 1).reshape(count, height, width // 2, channels * 2).permute(0, 3, 1, 2)


class _SecondConvolution(Function):
    """``conv2d(x, weight, bias)`` for an odd kernel, with the gradient of ``x`` by paired columns.

    That gradient is a convolution of the output's zero-padded gradient with the kernels rotated by 180 degrees. oneDNN
    is fastest when the columns of zeros are in memory and the rows of zeros are its own padding.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return conv2d(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x, weight = ctx.saved_tensors
        border = weight.shape[-1] - 1
        widened = pad(gradient.permute(0, 2, 3, 1), (0, 0, border, border)).permute(0, 3, 1, 2)
        of_x = _convolve(widened, weight.flip(2, 3).transpose(0, 1), None, rows=border)
        return of_x, conv2d_weight(x, weight.shape, gradient), gradient.sum((0, 2, 3))


class _PoolAndActivate(Function):
    """``relu(max_pool2d(x, 2))`` of channels-last images.

    It takes the larger of two rows, then of two columns. Of equal values the upper one gets the gradient, then the left
    one. `max_pool2d` decides otherwise only where the two largest lie on a diagonal.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        count, channels, height, width = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(count, height // 2, 2, width * channels)
        upper, lower = rows.unbind(2)
        columns = torch.maximum(upper, lower).view(count, height // 2, width // 2, 2, channels)
        left, right = columns.unbind(3)
        pooled = torch.maximum(left, right).relu_()
        ctx.save_for_backward(lower - upper, right - left, pooled)
        return pooled.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        lower_above_upper, right_above_left, pooled = ctx.saved_tensors
        count, height, width, channels = pooled.shape
        gradient = _threshold_backward(gradient.permute(0, 2, 3, 1), pooled, 0)
        columns = _to_the_larger(gradient, right_above_left, 3).view(lower_above_upper.shape)
        rows = _to_the_larger(columns, lower_above_upper, 2)
        return rows.view(count, height * 2, width * 2, channels).permute(0, 3, 1, 2)


def _to_the_larger(gradient: torch.Tensor, difference: torch.Tensor, dim: int) -> torch.Tensor:
    """Give a maximum's gradient to the larger of its two values.

    Args:
        gradient: Of the maximum.
        difference: The second value minus the first.
        dim: The new dimension in which the gradients of the two lie side by side.
    """
    both = gradient.new_empty(*gradient.shape[:dim], 2, *gradient.shape[dim:])
    first, second = both.unbind(dim)
    of_second = _threshold_backward(gradient, difference, 0)
    torch.sub(gradient, of_second, out=first)
    second.copy_(of_second)
    return both
