from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lenet import parity, weights
from lenet.architecture import LAYERS, PARAMETER_SHAPES
from lenet.data.augmentation import MEAN, STD, normalize
from lenet.data.synthetic import synthetic
from lenet.models.byte_input import fold_normalization
from lenet.models.pytorch_lenet import from_weights
from lenet.parity import ParityError, compare, diverging_layer, network
from lenet.parity.diverging_layer import _selecting_front
from lenet.parity.network import Arithmetic
from lenet.weights import Arrays

IMAGES = normalize(synthetic(16).images)
Change = Callable[[Arrays], Mapping[str, np.ndarray]]


def test_the_reference_is_pytorch_in_float64(arrays: Arrays) -> None:
    wanted = from_weights(arrays).double()(IMAGES.double())
    torch.testing.assert_close(parity.reference(arrays, IMAGES), wanted.detach(), rtol=1e-12, atol=1e-12)


DTYPES = [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
COARSER_BITS = {"fp32": 12, "fp16": 4, "bf16": 2}
"""Of mantissa, the leading one included: too few for the precision, which has 24, 11 and 8."""


def coarser(executed: str) -> Arithmetic:
    """Operands of too few bits, emulated in float64: no processor's rounding is in it."""
    kept = COARSER_BITS[executed]

    def to(x: torch.Tensor) -> torch.Tensor:
        mantissa, exponent = torch.frexp(x)
        return torch.ldexp(torch.ldexp(mantissa, torch.tensor(kept)).round(), exponent - kept)

    return Arithmetic("coarser", operand=to)


@pytest.mark.parametrize(("executed", "dtype"), DTYPES)
def test_the_tolerance_holds_and_is_not_idle(executed: str, dtype: torch.dtype) -> None:
    """PyTorch's own arithmetic stays within it; operands of too few bits do not."""
    arrays = weights.load().arrays
    wanted, allowed = parity.reference(arrays, IMAGES), parity.tolerance(arrays, IMAGES, executed)
    assert compare(from_weights(arrays).to(dtype)(IMAGES.to(dtype)), wanted, allowed).right
    assert not compare(network.forward(arrays, IMAGES, coarser(executed)), wanted, allowed).right


@given(depth=st.integers(8, 400), seed=st.integers(0, 2**32), executed=st.sampled_from(["fp32", "fp16", "bf16"]))
@settings(max_examples=30)
def test_the_model_of_a_dot_product_covers_its_rounding(depth: int, seed: int, executed: str) -> None:
    """The formula for one layer against rounding done on purpose: operands, sums and result."""
    generator = np.random.default_rng(seed)
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[executed]
    w, x = (torch.from_numpy(generator.standard_normal(depth)) for _ in range(2))
    u = parity.rounding(executed)
    summed = torch.zeros((), dtype=torch.float32)
    for product in w.to(dtype).float() * x.to(dtype).float():
        summed = summed + product
    found = summed.to(dtype).double()
    y, terms = (w * x).sum(), (w * x).square().sum()
    operand = u.operand if executed != "fp32" else parity.rounding("fp32").stored
    variance = 2 * operand**2 / 3 * terms + u.sum**2 / 3 * (terms + (depth + 1) * (y**2 + terms / 4))
    variance += u.stored**2 / 3 * y**2
    assert (found - y).abs() <= parity.SIGMAS * variance.sqrt()


BYTES = synthetic(16).images
# Of the operands, of the sum and of what is stored: half a unit of the last place, but where tensor cores cut sums.
ROUNDOFFS = {
    "fp32": (0.0, 2**-24, 2**-24),
    "tf32": (2**-11, 2**-23, 2**-24),
    "fp16": (2**-11, 2**-23, 2**-11),
    "bf16": (2**-8, 2**-23, 2**-8),
    "fp16x2": (math.sqrt(7 / 6) * 2**-22, 2**-23, 2**-22),
}


def flat_weights(slope: float) -> Arrays:
    """A first layer of equal weights, and layers that each hand on one of their inputs."""
    arrays = _selecting_front(weights.load().arrays, [layer.name for layer in LAYERS if layer.parameter_shapes()])
    return arrays | {
        "conv1.weight": np.full_like(arrays["conv1.weight"], slope),
        "conv1.bias": np.full_like(arrays["conv1.bias"], 0.5),
    }


def cut(value: float) -> float:
    """A float32 whose lower 13 bits are zero, as tensor cores read an operand of tf32."""
    return float((np.array(value, np.float32).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32))


@pytest.mark.parametrize("executed", ROUNDOFFS)
@pytest.mark.parametrize(
    ("level", "slope"), [(0.75, 2**-7), (200, 2**-7), (3, -(2**-7))], ids=["float32", "light bytes", "dark bytes"]
)
def test_the_tolerance_of_a_flat_image_is_the_formula_s_by_hand(level: float, slope: float, executed: str) -> None:
    operand, summed, stored = ROUNDOFFS[executed]
    weight, bias, square = [slope] * 3, 0.5, 2 * operand**2 / 3
    if isinstance(level, int):
        bias -= 25 * sum(slope * mean / std for mean, std in zip(MEAN, STD, strict=True))
        weight = [slope / (255 * std) for std in STD]
        square = (operand**2 + 2**-48) / 3  # a byte is exact; the folded weight is rounded twice
    y, terms = bias + 25 * level * sum(weight), 25 * level**2 * sum(one**2 for one in weight)
    peak, kept = y**2, y**2
    if isinstance(level, int):
        peak, kept = max(y**2, (y - bias) ** 2, bias**2), y**2 + bias**2
    assert y > 0, "else ReLU has it"
    variance = 0.0
    for length in (75, 150, 400, 120, 84):
        variance += square * terms + summed**2 / 3 * (terms + (length + 1) * (peak + terms / 4)) + stored**2 / 3 * kept
        square, terms, peak, kept = 2 * operand**2 / 3, y**2, y**2, y**2
    truncated = cut(bias + 25 * sum(cut(one) * cut(level) for one in weight))
    of_truncation = abs(truncated - y) if executed == "tf32" else 0.0
    kind = torch.uint8 if isinstance(level, int) else torch.float32
    found = parity.tolerance(flat_weights(slope), torch.full((2, 3, 32, 32), level, dtype=kind), executed)
    wanted = torch.full_like(found, 6 * math.sqrt(variance) + of_truncation)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=0)


def test_a_pool_hands_on_the_largest_variance_of_its_window() -> None:
    """Another element of the window may win: an image of two levels is allowed what the higher one alone is."""
    names = [layer.name for layer in LAYERS if layer.parameter_shapes()]
    arrays = _selecting_front(weights.load().arrays, names)
    high = torch.full((1, 3, 32, 32), 1.5)
    mixed = high / 4
    mixed[..., ::2, ::2] = 1.5
    torch.testing.assert_close(parity.tolerance(arrays, mixed, "fp16"), parity.tolerance(arrays, high, "fp16"))


def test_the_reference_of_bytes_normalises_them_exactly(arrays: Arrays) -> None:
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (MEAN, STD))
    wanted = from_weights(arrays).double()((BYTES.double() / 255 - mean) / std)
    torch.testing.assert_close(parity.reference(arrays, BYTES), wanted.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("executed", "dtype"), DTYPES)
@pytest.mark.parametrize("kind", ["noise", "flat", "black", "white"])
def test_the_tolerance_of_bytes_holds_and_is_not_idle(executed: str, dtype: torch.dtype, kind: str) -> None:
    """For a folded network, as above; it is at most twice that of normalised images, where those are of noise."""
    arrays = weights.load().arrays
    levels = torch.arange(0, 256, 17, dtype=torch.uint8).view(-1, 1, 1, 1).expand_as(BYTES)
    kinds = {"noise": BYTES, "flat": levels, "black": torch.zeros_like(BYTES), "white": torch.full_like(BYTES, 255)}
    images = kinds[kind]
    logits = from_weights(fold_normalization(arrays)).to(dtype)(images.to(dtype))
    wanted, allowed = parity.reference(arrays, images), parity.tolerance(arrays, images, executed)
    compared = compare(logits, wanted, allowed)
    assert compared.right, compared
    assert not compare(network.forward(arrays, images, coarser(executed)), wanted, allowed).right
    if kind == "noise":
        assert (allowed <= 2 * parity.tolerance(arrays, IMAGES, executed)).all()


@pytest.mark.parametrize(
    "fault",
    [
        lambda images: images.clamp(max=254),
        lambda images: images.flip(1),
        lambda images: images.view(torch.int8),
        lambda images: (images.float() * (255 / 256)).to(torch.uint8),
    ],
    ids=["saturated", "BGR", "signed", "scaled"],
)
def test_bytes_that_are_read_wrong_are_found(fault: Callable[[torch.Tensor], torch.Tensor]) -> None:
    arrays = weights.load().arrays
    logits = from_weights(fold_normalization(arrays))(fault(BYTES).float())
    assert not compare(logits, parity.reference(arrays, BYTES), parity.tolerance(arrays, BYTES, "fp32")).right


def test_the_layer_at_fault_is_named_for_bytes_too() -> None:
    def forward_with(changed: Mapping[str, np.ndarray]) -> Callable[[torch.Tensor], torch.Tensor]:
        model = from_weights(scaled("conv1.weight")(fold_normalization(changed)))
        return lambda images: model(images.float())

    assert diverging_layer(forward_with, weights.load().arrays, BYTES, "fp32") == "conv1"


def test_a_coarser_precision_is_allowed_more() -> None:
    arrays = weights.load().arrays
    for order in (("fp32", "fp16x2", "fp16", "bf16"), ("fp32", "tf32", "bf16")):
        bounds = [parity.tolerance(arrays, IMAGES, executed).mean() for executed in order]
        assert bounds == sorted(bounds)
        assert bounds[0] < 1e-4


def test_an_unknown_precision_has_no_tolerance(arrays: Arrays) -> None:
    with pytest.raises(ParityError, match=r"(?s)no tolerance for 'int8'.*fp32, tf32"):
        parity.tolerance(arrays, IMAGES, "int8")


def test_comparison_by_known_answers() -> None:
    wanted = torch.tensor([[3.0, 1.0], [1.0, 1.05]], dtype=torch.float64)
    allowed = torch.full_like(wanted, 0.1)
    right = compare(torch.tensor([[3.05, 1.0], [1.06, 1.0]]), wanted, allowed)
    assert (right.max_abs_delta, right.max_share) == pytest.approx((0.06, 0.6))
    assert (right.top1_agreement, right.flips, right.images) == (0.5, 0, 2)
    edge = compare(torch.tensor([[2.5, 1.0], [1.0, 1.05]]), wanted, torch.full_like(wanted, 0.5))
    assert (edge.max_share, edge.right) == (1, True)
    assert right.right  # the second image changed its class, but within both logits' tolerances
    assert not compare(torch.tensor([[3.2, 1.0], [1.0, 1.05]]), wanted, allowed).right
    flipped = compare(torch.tensor([[1.0, 3.0], [1.0, 1.05]]), wanted, allowed)
    assert (flipped.flips, flipped.top1_agreement) == (1, 0.5)


def test_exact_logits_are_right_where_nothing_may_be_off() -> None:
    zeros = torch.zeros(2, 10, dtype=torch.float64)
    assert parity.compare(zeros.float(), zeros, zeros).right
    assert parity.compare(zeros.float() + 1e-30, zeros, zeros).max_share == math.inf


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_wrong(value: float) -> None:
    wanted = torch.zeros(2, 10, dtype=torch.float64)
    logits = torch.zeros(2, 10)
    logits[1, 4] = value
    compared = compare(logits, wanted, torch.ones_like(wanted))
    assert not compared.right
    assert compared.max_abs_delta == math.inf


def dropped(name: str) -> Change:
    return lambda arrays: arrays | {name: np.zeros_like(arrays[name])}


def scaled(name: str) -> Change:
    return lambda arrays: arrays | {name: arrays[name] * np.float32(1.001)}


def transposed_blocks(arrays: Arrays) -> Mapping[str, np.ndarray]:
    """fc1 fed by rows, columns, channels instead of channels, rows, columns."""
    weight = arrays["fc1.weight"].reshape(120, 25, 16).transpose(0, 2, 1).reshape(120, 400)
    return arrays | {"fc1.weight": np.ascontiguousarray(weight)}


FAULTS = [
    *((dropped(name), name.split(".")[0]) for name in PARAMETER_SHAPES if name.endswith("bias")),
    *((scaled(name), name.split(".")[0]) for name in PARAMETER_SHAPES),
    (transposed_blocks, "fc1"),
]


@pytest.mark.parametrize(("fault", "layer"), FAULTS)
def test_the_layer_at_fault_is_named(fault: Change, layer: str) -> None:
    arrays = weights.load().arrays

    def forward_with(changed: Mapping[str, np.ndarray]) -> Callable[[torch.Tensor], torch.Tensor]:
        return from_weights(fault(dict(changed)))

    assert diverging_layer(forward_with, arrays, IMAGES, "fp32") == layer


def test_no_layer_is_named_where_none_is_at_fault() -> None:
    assert diverging_layer(from_weights, weights.load().arrays, IMAGES, "fp32") is None
