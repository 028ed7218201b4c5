"""The kernel of the quantised networks without a GPU: emulated on the CPU against their exact evaluation."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lenet import parity, weights
from lenet.architecture import INPUT_SHAPE, PARAMETER_SHAPES
from lenet.data.augmentation import normalize
from lenet.data.synthetic import synthetic
from lenet.errors import QuantizationError
from lenet.kernels import Variant, pack
from lenet.parity import Comparison, Reference
from lenet.quantization import Scales, calibrate
from lenet.vocabulary import Precision
from tests.kernels.emulation import COMPILER, emulate, one_of_each_precision

MOST, ADA, TURING = 227 * 1024, 99 * 1024, 64 * 1024
"""Bytes of shared memory a block of compute capability 9.0, 8.9 and 7.5."""

emulated = pytest.mark.skipif(COMPILER is None, reason="the emulator is compiled by g++, which is not installed")
SMALL = {
    precision: Variant(precision, 1, bytes_in=False, shared_bytes=MOST) for precision in (Precision.INT8, Precision.FP8)
}


def pixels(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *INPUT_SHAPE), dtype=torch.uint8, generator=generator)


def compared(
    variant: Variant,
    images: torch.Tensor,
    arrays: dict[str, np.ndarray] | None = None,
    scales: Scales | None = None,
    *,
    bulk: bool = True,
) -> Comparison:
    """The kernel's logits against the exact ones."""
    used = weights.load().arrays if arrays is None else arrays
    logits = torch.from_numpy(emulate(variant, images.numpy(), pack(used, variant, scales), bulk=bulk))
    precision = Precision(variant.precision)
    reference = Reference(used, images, lambda _: scales)
    return parity.compare(logits, reference.wanted(precision), reference.tolerance(precision))


@emulated
@pytest.mark.parametrize(
    ("variant", "batch", "bulk"),
    one_of_each_precision(
        [
            (Variant("int8", 8, bytes_in=False, shared_bytes=MOST), 13, True),
            (Variant("int8", 4, bytes_in=True, shared_bytes=ADA), 6, False),
            (Variant("int8", 2, bytes_in=True, shared_bytes=TURING), 3, False),
            (Variant("fp8", 8, bytes_in=True, shared_bytes=ADA), 3, False),
            (Variant("fp8", 4, bytes_in=False, shared_bytes=MOST), 5, True),
        ]
    ),
    ids=lambda value: f"{value.precision}-{value.images}" if isinstance(value, Variant) else None,
)
def test_logits_are_the_quantised_network_s(variant: Variant, batch: int, bulk: bool) -> None:
    """Blocks full and not, the fully connected layers' weights in shared memory and not."""
    images = pixels(batch) if variant.bytes_in else normalize(pixels(batch))
    found = compared(variant, images, bulk=bulk)
    assert found.right, found


@cache
def other_network(precision: Precision) -> tuple[dict[str, np.ndarray], Scales]:
    """Weights whose channels are all different, and scales of their own."""
    generator = np.random.default_rng(0)
    arrays = {
        name: generator.normal(0, 1 / np.sqrt(np.prod(shape[1:]) or 1), shape).astype(np.float32)
        for name, shape in PARAMETER_SHAPES.items()
    }
    return arrays, calibrate(arrays, synthetic(20).images, precision)


@pytest.mark.programs
@emulated
@pytest.mark.parametrize("precision", SMALL)
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), size=st.integers(1, 2), level=st.sampled_from([0.0, 0.01, 1.0, 1e3, 1e30]))
def test_any_images_scales_and_weights(precision: Precision, seed: int, size: int, level: float) -> None:
    """Images may saturate the first quantisation. Biases and scales are those of the network."""
    found = compared(SMALL[precision], normalize(pixels(size, seed)) * level, *other_network(precision))
    assert found.right, found


@pytest.mark.parametrize("precision", SMALL)
def test_scales_of_other_weights_are_refused(precision: Precision) -> None:
    _, scales = other_network(precision)
    with pytest.raises(QuantizationError, match="the scales belong to other weights"):
        pack(weights.load().arrays, SMALL[precision], scales)
