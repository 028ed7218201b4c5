"""LeNet in TriPy against LeNet in PyTorch: TriPy's own front end, on the CPU stand-in for its compiled half."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lenet.architecture import INPUT_SHAPE, PARAMETER_SHAPES
from lenet.backends.base import BatchRange
from lenet.errors import WeightsError
from lenet.models.pytorch_lenet import LeNet, from_weights
from lenet.vocabulary import Precision
from tests.standins.mlir_tensorrt_cpu.runner import StandinRunner, build

pytestmark = pytest.mark.nvtripy_on_cpu

TOLERANCE = 1e-5
"""Of a logit, in float32: the stand-in's kernels are PyTorch's, so what differs is the order of their sums."""

ANY_BATCH = BatchRange(1, 200, 1000)


@cache
def arrays() -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    return {name: tensor.detach().numpy() for name, tensor in LeNet().state_dict().items()}


def images(count: int) -> torch.Tensor:
    return torch.randn(count, *INPUT_SHAPE, generator=torch.Generator().manual_seed(count))


@cache
def runner(batches: BatchRange, precision: Precision = Precision.FP32) -> StandinRunner:
    return build(arrays(), precision, batches)


@pytest.fixture(scope="module")
def dynamic_runner() -> StandinRunner:
    return runner(ANY_BATCH)


def largest_difference(logits: torch.Tensor, expected: torch.Tensor) -> float:
    assert logits.shape == expected.shape
    assert logits.dtype is expected.dtype is torch.float32
    return (logits - expected).abs().max().item()


@torch.no_grad()
def pytorch_logits(batch: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    logits: torch.Tensor = from_weights(arrays()).to(dtype)(batch.to(dtype)).float()
    return logits


def test_parameters_are_those_of_the_architecture() -> None:
    from lenet.models import tripy_lenet

    parameters = tripy_lenet.LeNet().state_dict()
    assert {name: tuple(parameter.shape) for name, parameter in parameters.items()} == dict(PARAMETER_SHAPES)


@pytest.mark.parametrize("count", [1, 7, 200, 1000])
@pytest.mark.parametrize("static", [True, False], ids=["static", "dynamic"])
def test_logits_are_pytorchs(*, count: int, static: bool) -> None:
    batches = BatchRange.exactly(count) if static else ANY_BATCH
    batch = images(count)
    assert largest_difference(runner(batches).forward(batch), pytorch_logits(batch)) <= TOLERANCE


@settings(max_examples=20)
@given(count=st.integers(1, 100), scale=st.sampled_from([0.0, 1e-3, 1.0, 100.0]))
def test_logits_are_pytorchs_at_any_batch_size(dynamic_runner: StandinRunner, count: int, scale: float) -> None:
    batch = images(count) * scale
    expected = pytorch_logits(batch)
    assert largest_difference(dynamic_runner.forward(batch), expected) <= TOLERANCE * max(1.0, scale)


@pytest.mark.parametrize(
    ("precision", "dtype"), [(Precision.FP16, torch.float16), (Precision.BF16, torch.bfloat16)], ids=str
)
def test_half_precisions_round_as_pytorch_does(precision: Precision, dtype: torch.dtype) -> None:
    batch = images(7)
    logits = runner(ANY_BATCH, precision).forward(batch)
    # sums may round another way once at each of five layers: a few units in the last place of logits near 1
    assert largest_difference(logits, pytorch_logits(batch, dtype)) <= 4 * torch.finfo(dtype).eps
    assert largest_difference(logits, pytorch_logits(batch)) > TOLERANCE, "this ran in float32"


def test_a_pytorch_state_dict_converts_as_arrays_do() -> None:
    import nvtripy as tp

    from lenet.models.tripy_lenet import convert_state_torch_to_tripy

    from_arrays = convert_state_torch_to_tripy(arrays())
    from_torch = convert_state_torch_to_tripy(from_weights(arrays()).state_dict())
    assert list(from_arrays) == list(from_torch) == list(PARAMETER_SHAPES)
    for name, array in arrays().items():
        assert from_arrays[name].dtype == from_torch[name].dtype == tp.float32
        for tensor in (from_arrays[name], from_torch[name]):
            assert torch.equal(torch.from_dlpack(tensor), torch.tensor(array))  # type: ignore[attr-defined]


@pytest.mark.parametrize("layout", ["read-only", "strided", "float64"])
def test_conversion_copies_what_tripy_cannot_view(layout: str) -> None:
    from lenet.models.tripy_lenet import convert_state_torch_to_tripy

    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    layouts: dict[str, np.ndarray] = {
        "read-only": array.copy(),
        "strided": array.T.copy().T,
        "float64": array.astype(np.float64),
    }
    given_array = layouts[layout]
    given_array.setflags(write=layout != "read-only")
    (tensor,) = convert_state_torch_to_tripy({"weight": given_array}).values()
    assert tensor.tolist() == array.tolist()


def test_conversion_does_not_follow_its_source() -> None:
    from lenet.models.tripy_lenet import convert_state_torch_to_tripy

    source = {"weight": np.zeros(3, dtype=np.float32)}
    (tensor,) = convert_state_torch_to_tripy(source).values()
    source["weight"][:] = 1
    assert tensor.tolist() == [0, 0, 0]


def test_a_missing_parameter_is_named() -> None:
    import nvtripy as tp

    from lenet.models import tripy_lenet

    lacking = {name: array for name, array in arrays().items() if name != "fc2.bias"}
    with pytest.raises(tp.TripyException, match=r"Missing keys: \['fc2.bias'\]"):
        tripy_lenet.from_weights(lacking)


def test_an_extra_parameter_is_named() -> None:
    import nvtripy as tp

    from lenet.models import tripy_lenet

    with pytest.raises(tp.TripyException, match=r"Unexpected keys:\s+\['fc4.bias'\]"):
        tripy_lenet.from_weights(arrays() | {"fc4.bias": np.zeros(10, dtype=np.float32)})


def test_a_misshapen_parameter_is_refused_with_both_shapes() -> None:
    import nvtripy as tp

    from lenet.models import tripy_lenet

    transposed = arrays() | {"fc1.weight": np.ascontiguousarray(arrays()["fc1.weight"].T)}
    with pytest.raises(tp.TripyException, match=r"fc1.weight(.|\n)*\(400, 120\)(.|\n)*\(120, 400\)"):
        tripy_lenet.from_weights(transposed)


def test_a_weight_beyond_the_type_is_refused() -> None:
    import nvtripy as tp

    from lenet.models import tripy_lenet

    changed = arrays() | {"fc2.bias": np.full_like(arrays()["fc2.bias"], 7e4)}
    with pytest.raises(WeightsError, match=r"fc2\.bias does not fit into float16"):
        tripy_lenet.from_weights(changed, tp.float16)
