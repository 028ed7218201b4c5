"""The paired columns of training on a CPU against the plain module, in values and in gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import max_pool2d, relu

from lenet.models.pytorch_lenet import LeNet
from lenet.training import cpu_forward
from tests.models.checks import check_same_function, check_slope


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("capability", ["AVX512", "AVX2"])
def test_logits_and_gradients_are_the_plain_modules(
    monkeypatch: pytest.MonkeyPatch,
    capability: str,
    count: int,
    dtype: torch.dtype,
    tolerance: float,
    layout: torch.memory_format,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    torch.manual_seed(0)
    model = LeNet().to(dtype).to(memory_format=layout)
    images = torch.randn(count, 3, 32, 32, dtype=dtype).contiguous(memory_format=layout)
    check_same_function(cpu_forward.forward, model, images, tolerance)


@pytest.mark.parametrize(("capability", "channels"), [("AVX512", [6, 6, 32]), ("AVX2", [3, 6])])
def test_columns_are_paired_where_vectors_have_16_numbers(
    monkeypatch: pytest.MonkeyPatch, capability: str, channels: list[int]
) -> None:
    """What each convolution is given, the gradient's in the second among them: of pairs, twice the channels."""
    given = []

    def conv2d(x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        given.append(x.shape[1])
        return plain(x, *arguments, **options)

    plain = torch.conv2d
    for module in (cpu_forward, torch.nn.functional):
        monkeypatch.setattr(module, "conv2d", conv2d)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    cpu_forward.forward(LeNet(), torch.randn(2, 3, 32, 32)).sum().backward()
    assert given == channels


def test_the_pool_is_pytorchs_to_the_bit_in_values_and_gradients() -> None:
    """Where pixels differ, where stripes make two of four equal, and where all four are."""
    stripes = torch.tensor([1.0, 2.0]).repeat(4)
    stripes = torch.stack((stripes.expand(8, 8), stripes[:, None].expand(8, 8), torch.ones(8, 8), -torch.ones(8, 8)))
    x = torch.cat((torch.randn(3, 4, 8, 8), stripes[None])).requires_grad_()
    ours, plain = cpu_forward._PoolAndActivate.apply(x), relu(max_pool2d(x, 2))
    assert torch.equal(ours, plain)
    weight = torch.randn(ours.shape)
    one, other = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (ours, plain))
    assert torch.equal(one, other)


def test_of_equals_across_from_each_other_one_gets_the_gradient() -> None:
    x = torch.tensor([[[[1.0, 2.0], [2.0, 1.0]]]], requires_grad=True)
    cpu_forward._PoolAndActivate.apply(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[[[0.0, 0.0], [1.0, 0.0]]]]


def test_the_gradient_is_the_slope() -> None:
    def first(x: torch.Tensor, layer: torch.nn.Conv2d) -> torch.Tensor:
        convolved = cpu_forward._convolve(x, layer.weight, layer.bias)
        pooled: torch.Tensor = cpu_forward._PoolAndActivate.apply(convolved)
        return pooled

    def second(x: torch.Tensor, layer: torch.nn.Conv2d) -> torch.Tensor:
        convolved: torch.Tensor = cpu_forward._SecondConvolution.apply(x, layer.weight, layer.bias)
        return convolved

    check_slope(first)
    check_slope(second)
