"""Weights that fit a precision, and layers' outputs that do not: the weights are at fault, and no backend."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lenet import weights
from lenet.backends import load
from lenet.backends.base import BatchRange, BuildSpec
from lenet.comparison import RowParity, compare_backends, reference_of
from lenet.comparison.agreement import Agreement
from lenet.data.synthetic import synthetic
from lenet.errors import WeightsError
from lenet.suite.facts import failing_with_the_layer
from lenet.vocabulary import InputType, Precision

CPU = torch.device("cpu")
SPLIT = synthetic(40)


def overflowing(layer: str, behind: str) -> weights.Arrays:
    """The shipped network, with a layer's output 2**14 times as large, and the next one's weights as much smaller."""
    arrays = dict(weights.load().arrays)
    for part in ("weight", "bias"):
        arrays[f"{layer}.{part}"] = arrays[f"{layer}.{part}"] * np.float32(2**14)
    arrays[f"{behind}.weight"] = arrays[f"{behind}.weight"] / np.float32(2**14)
    assert all(np.abs(array).max() < 65504 for array in arrays.values())
    return arrays


@pytest.mark.parametrize(("layer", "behind"), [("conv2", "fc1"), ("fc2", "fc3")])
def test_the_layer_that_overflows_is_named_and_the_backend_is_not_blamed(layer: str, behind: str) -> None:
    arrays, told = overflowing(layer, behind), rf"{layer} gives up to [\d.e+]+, beyond fp16's largest number 65504"
    spec = BuildSpec(CPU, Precision.FP16, BatchRange.exactly(40))
    reference = reference_of(arrays, SPLIT.images, InputType.FLOAT32)
    with load("pytorch").build(arrays, spec) as runner:
        place = reference.images.clone()
        parity = RowParity(lambda: runner.forward(place), place, runner, reference, "fp16")
        with pytest.raises(WeightsError, match=rf"do not fit fp16, so nothing is timed\n  found:  {told}"):
            parity.check_before()
    found, _ = compare_backends(
        ["pytorch"], arrays, SPLIT, device=CPU, precision=Precision.FP16, batch_size=40, reference=reference
    )
    (line,) = found
    assert isinstance(line, Agreement)
    assert not line.right
    assert line.diverging_layer == layer
    assert line.reason is not None
    assert line.reason.startswith(f"{layer} gives up to ")


def test_the_same_weights_are_right_in_a_wider_format() -> None:
    found, _ = compare_backends(
        ["pytorch"], overflowing("fc2", "fc3"), SPLIT, device=CPU, precision=Precision.BF16, batch_size=40
    )
    assert [line.right for line in found] == [True]
    assert found[0].reason is None


def test_a_row_of_such_weights_fails_without_a_search_for_a_layer() -> None:
    nothing: object = None
    error = WeightsError("the weights do not fit", found="fc1 gives 1e6", wanted="", hint="choose another precision")
    row = failing_with_the_layer(nothing, nothing, nothing, nothing, "fp16")  # type: ignore[arg-type]
    with (
        pytest.raises(
            pytest.fail.Exception, match=r"^the weights do not fit: fc1 gives 1e6; choose another precision$"
        ),
        row,
    ):
        raise error
