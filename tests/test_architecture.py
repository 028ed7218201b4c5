from __future__ import annotations

import dataclasses

import pytest
import torch

from lenet import architecture
from lenet.architecture import FLOPS_PER_IMAGE, INPUT_SHAPE, PARAMETER_COUNT, PARAMETER_SHAPES, STAGES


def test_counts_are_the_coursework_s() -> None:
    assert PARAMETER_COUNT == 62_006
    assert FLOPS_PER_IMAGE == 1_303_440


def test_flops_are_counted_by_hand() -> None:
    by_layer = {stage.layer.name: stage.flops for stage in STAGES if stage.flops}
    assert by_layer == {
        "conv1": 2 * (28 * 28 * 6) * (3 * 5 * 5),
        "conv2": 2 * (10 * 10 * 16) * (6 * 5 * 5),
        "fc1": 2 * 400 * 120,
        "fc2": 2 * 120 * 84,
        "fc3": 2 * 84 * 10,
    }


def test_shapes_flow_through_the_network() -> None:
    shapes = [stage.output_shape for stage in STAGES if stage.output_shape != stage.input_shape]
    assert STAGES[0].input_shape == INPUT_SHAPE == (3, 32, 32)
    assert shapes == [(6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (400,), (120,), (84,), (10,)]


def test_layers_agree_with_torch_s_shapes() -> None:
    """Each kind of layer computes the shape that PyTorch's operator of that kind gives."""
    for stage in STAGES:
        x = torch.empty(1, *stage.input_shape, device="meta")
        layer = stage.layer
        if isinstance(layer, architecture.Conv2d):
            x = torch.nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel, device="meta")(x)
        elif isinstance(layer, architecture.MaxPool2d):
            x = torch.nn.functional.max_pool2d(x, layer.window)
        elif isinstance(layer, architecture.Flatten):
            x = x.flatten(1)
        elif isinstance(layer, architecture.Linear):
            x = torch.nn.Linear(layer.in_features, layer.out_features, device="meta")(x)
        assert tuple(x.shape[1:]) == stage.output_shape, layer.name


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        PARAMETER_SHAPES["conv1.weight"] = ()  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        STAGES[0].flops = 1  # type: ignore[misc]
