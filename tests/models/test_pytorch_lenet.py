from __future__ import annotations

import pytest
import torch

from lenet.architecture import PARAMETER_SHAPES, STAGES
from lenet.models.pytorch_lenet import LeNet, from_weights
from lenet.weights import Arrays


def test_parameters_are_the_architecture_s() -> None:
    found = {name: tuple(tensor.shape) for name, tensor in LeNet().named_parameters()}
    assert found == PARAMETER_SHAPES
    assert list(found) == list(PARAMETER_SHAPES)


def test_weights_arrive_and_the_source_is_not_shared(arrays: Arrays) -> None:
    model = from_weights(arrays)
    assert not model.training
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, torch.from_numpy(arrays[name]))
    with torch.no_grad():
        model.fc3.bias.add_(1)
    assert not torch.equal(model.fc3.bias, torch.from_numpy(arrays["fc3.bias"]))


def test_the_forward_pass_is_the_table_s(arrays: Arrays) -> None:
    """Walking the architecture's table in float64 gives the module's logits."""
    x = images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = {name: torch.from_numpy(array).double() for name, array in arrays.items()}
    for stage in STAGES:
        name = stage.layer.name
        match type(stage.layer).__name__:
            case "Conv2d":
                x = torch.nn.functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
            case "Linear":
                x = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
            case "ReLU":
                x = x.clamp(min=0)
            case "MaxPool2d":
                x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
            case "Flatten":
                x = x.reshape(len(x), -1)
        assert tuple(x.shape[1:]) == stage.output_shape
    torch.testing.assert_close(from_weights(arrays).double()(images), x, rtol=1e-12, atol=1e-12)


def test_a_wrong_state_is_refused(arrays: Arrays) -> None:
    with pytest.raises(RuntimeError, match=r"fc3\.bias"):
        from_weights({name: array for name, array in arrays.items() if name != "fc3.bias"})
