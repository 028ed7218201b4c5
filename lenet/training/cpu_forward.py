"""LeNet's convolutions as oneDNN and a few cores do them best, for training on a CPU: the same function of the weights.

With AVX-512 oneDNN's kernels compute 16 channels at a time, and the first convolution has 6, of 3. With the channels
last, two columns side by side lie in memory as one column of twice the channels. So the same memory goes through a
convolution from 6 channels to 12, whose kernels are each kernel at its two places among zeros::

    x x x x x .    the left output's           . x x x x x    the right output's

That multiplies by a zero in six, and leaves 4 channels in 16 idle in the place of 10. The second convolution has 16
channels, and gains nothing, but its gradient in what it is given has 6: that is a convolution of paired columns too.
Of 8 channels at a time, with AVX2, 2 are idle in 8 and 4 in 16: there the zeros cost more than the pairs save.

The pool has 6 channels as well, which PyTorch's takes one by one: whole rows are quicker everywhere.
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

# It writes a zero where a number is not above a threshold: three times faster than a product with a mask.
_threshold_backward = torch.ops.aten.threshold_backward


def forward(model: LeNet, images: torch.Tensor) -> torch.Tensor:
    """Logits of normalised images, equal to ``model(images)`` but for rounding, and so are the gradients.

    Args:
        model: Whose parameters are used.
        images: (N, 3, 32, 32), the dtype and device of the parameters; with the channels last nothing is copied.

    Returns:
        (N, 10), likewise.
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
    """``conv2d(x, weight, bias, padding=(rows, 0))`` for an odd kernel that leaves an even width of an even one."""
    kernels = torch.stack((pad(weight, (0, 1)), pad(weight, (1, 0)))).flatten(0, 1)
    biases = None if bias is None else bias.repeat(2)
    y = conv2d(_pair_columns(x), _pair_columns(kernels), biases, padding=(rows, 0))
    count, channels, height, width = y.shape
    return y.permute(0, 2, 3, 1).reshape(count, height, width * 2, channels // 2).permute(0, 3, 1, 2)


def _pair_columns(x: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) -> (N, 2 * C, H, W / 2), the channels last: those of a pair's left column, then the right's."""
    count, channels, height, width = x.shape
    return x.permute(0, 2, 3, 1).reshape(count, height, width // 2, channels * 2).permute(0, 3, 1, 2)


class _SecondConvolution(Function):
    """``conv2d(x, weight, bias)`` for an odd kernel, with its gradient in x by paired columns.

    That is the convolution of the output's gradient, with zeros around it, with the kernels turned by half a turn.
    oneDNN is quickest with the columns of zeros in memory, and the rows of zeros as its own padding.
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
    """``relu(max_pool2d(x, 2))``, with the channels last.

    The largest of two rows, then of two columns. Of equals the upper gets the gradient, then the left: as `max_pool2d`
    has it, but where the two largest lie across from each other.
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
    """The gradient of the larger of two, which lie side by side in a new dimension, given the second less the first."""
    both = gradient.new_empty(*gradient.shape[:dim], 2, *gradient.shape[dim:])
    first, second = both.unbind(dim)
    of_second = _threshold_backward(gradient, difference, 0)
    torch.sub(gradient, of_second, out=first)
    second.copy_(of_second)
    return both
