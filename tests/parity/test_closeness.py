"""How near logits are to the arithmetic of their label: what must pass, and what must not."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import parity_faults
import pytest
import torch

from lenet import parity, weights
from lenet.data.augmentation import normalize
from lenet.data.cifar10 import Split
from lenet.data.synthetic import synthetic
from lenet.models.byte_input import fold_normalization
from lenet.models.pytorch_lenet import from_weights
from lenet.parity.network import variants

COUNT = 32
ROUNDED = ("fp16", "bf16")
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@cache
def reference(input_type: str) -> parity.Reference:
    pixels = synthetic(COUNT).images
    return parity.Reference(weights.load().arrays, pixels if input_type == "uint8" else normalize(pixels))


def cases(kind: str, *precisions: str) -> Iterator[tuple[str, str, str, object]]:
    for executed in precisions:
        for input_type in ("float32", "uint8"):
            shipped = weights.load().arrays
            arrays = fold_normalization(shipped) if input_type == "uint8" else shipped
            for name, emulation in getattr(parity_faults, kind)(arrays, executed):
                yield executed, input_type, name, emulation


@pytest.mark.parametrize("executed", ["fp32", "tf32", *ROUNDED])
def test_every_runtime_that_rounds_as_its_label_allows_is_right(executed: str) -> None:
    for _, input_type, name, emulation in cases("right_runtimes", executed):
        of = reference(input_type)
        assert of.compare(emulation(of.images), executed).right, name  # type: ignore[operator]


@pytest.mark.parametrize("executed", ROUNDED)
def test_pytorch_s_own_16_bits_are_right(executed: str) -> None:
    of = reference("float32")
    logits = from_weights(weights.load().arrays).to(DTYPES[executed])(of.images.to(DTYPES[executed]))
    compared = of.compare(logits, executed)
    assert compared.right, compared
    assert compared.closeness is not None
    assert not compared.closeness.finer


@pytest.mark.parametrize("executed", ROUNDED)
def test_an_accumulator_of_16_bits_and_a_layer_of_a_coarser_format_are_found(executed: str) -> None:
    for _, input_type, name, emulation in cases("rounding_faults", executed):
        of = reference(input_type)
        if "of one layer" not in name:
            assert not of.compare(emulation(of.images), executed).right, (name, input_type)  # type: ignore[operator]


@pytest.mark.parametrize("executed", ROUNDED)
@pytest.mark.parametrize("kind", ["index_faults", "byte_faults"])
def test_wrong_indices_and_bytes_over_256_are_found_on_real_images(executed: str, kind: str, real_test: Split) -> None:
    """A single weight that is dropped may change less than a right runtime's rounding: it is not asked for."""
    shipped = weights.load().arrays
    of = parity.Reference(shipped, real_test.images[:COUNT])
    for name, emulation in getattr(parity_faults, kind)(fold_normalization(shipped), executed):
        if not name.startswith("one weight of"):
            assert not of.compare(emulation(of.images), executed).right, name


@pytest.mark.parametrize("executed", ["tf32", *ROUNDED])
def test_logits_without_the_rounding_of_their_label_are_right_and_called_finer(executed: str) -> None:
    of = reference("float32")
    compared = of.compare(of.logits, executed)
    assert compared.right
    assert compared.closeness is not None
    assert compared.closeness.finer
    for arithmetic in variants(executed):
        rounded = of.compare(parity.network.forward(weights.load().arrays, of.images, arithmetic), executed)
        assert rounded.closeness is not None
        assert (rounded.closeness.arithmetic, rounded.closeness.rms) == (arithmetic.name, 0)
        assert not rounded.closeness.finer


@pytest.mark.parametrize("executed", ROUNDED)
def test_bytes_that_are_centred_round_otherwise_and_are_right(executed: str) -> None:
    """By hand, with the first layer's own sums: what is added to its bias is what centring takes off."""
    of, arrays = reference("uint8"), fold_normalization(weights.load().arrays)
    dtype = DTYPES[executed]
    exact = torch.from_numpy(arrays["conv1.weight"])
    bias = torch.from_numpy(arrays["conv1.bias"]) + 128 * exact.sum((1, 2, 3))
    centred = {
        **arrays,
        "conv1.weight": exact.to(dtype).float().numpy(),
        "conv1.bias": (bias - 128 * exact.to(dtype).float().sum((1, 2, 3))).numpy(),
    }
    plain = parity_faults.Emulation(centred, variants(executed)[0])
    compared = of.compare(plain(of.images), executed)
    assert compared.closeness is not None
    assert compared.closeness.arithmetic == "centred bytes"
    assert compared.closeness.rms < 0.05


def test_float16_under_the_label_bfloat16_is_called_finer() -> None:
    of = reference("float32")
    logits = parity.network.forward(weights.load().arrays, of.images, variants("fp16")[0])
    compared = of.compare(logits, "bf16")
    assert compared.closeness is not None
    assert compared.closeness.finer


def test_truncated_operands_are_within_tf32_s_tolerance_which_needs_their_bias_for_it(real_test: Split) -> None:
    """The mean of a truncation's error is not zero: six standard deviations of rounding do not cover it."""
    of = parity.Reference(weights.load().arrays, normalize(real_test.images[:200]))
    truncated = parity.network.forward(weights.load().arrays, of.images, parity.network.TRUNCATED_TO_TF32)
    assert of.compare(truncated, "tf32").right
    bias = (truncated - of.logits).abs()
    assert (bias > of.tolerance("tf32") - bias).any()


@pytest.mark.parametrize("count", [1, 31])
def test_few_images_say_nothing_of_closeness(count: int) -> None:
    of = reference("float32")
    assert of.compare(of.logits[:count], "fp16").closeness is None


def test_a_part_of_the_images_is_compared_with_that_part() -> None:
    of = parity.Reference(weights.load().arrays, normalize(synthetic(70).images))
    part = of.compare(of.logits[35:70], "fp16", 35)
    assert part.max_abs_delta == 0
    assert part.closeness is not None
    assert part.closeness.rms == 0
    assert not of.compare(of.logits[35:70], "fp16").right


def test_weights_of_zero_are_near_whatever_the_precision() -> None:
    zeros = {name: np.zeros_like(array) for name, array in weights.load().arrays.items()}
    of = parity.Reference(zeros, normalize(synthetic(COUNT).images))
    assert of.compare(torch.zeros(COUNT, 10), "bf16").right
    assert not of.compare(torch.full((COUNT, 10), 1e-30), "bf16").right
