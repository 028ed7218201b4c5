from __future__ import annotations

import numpy as np
import pytest
import torch

from lenet.data.augmentation import normalize
from lenet.data.synthetic import synthetic
from lenet.errors import QuantizationError
from lenet.quantization import FORMATS, REDUCED, Method, calibrate, quantize
from lenet.vocabulary import Precision
from lenet.weights import Arrays

IMAGES = synthetic(12).images
QUANTIZED = [Precision(name) for name in FORMATS]


@pytest.mark.parametrize("precision", QUANTIZED)
def test_max_maps_the_largest_values_to_the_largest_number(arrays: Arrays, precision: Precision) -> None:
    scales = calibrate(arrays, IMAGES, precision, method=Method.MAX)
    largest = FORMATS[precision].largest
    assert float(scales.inputs["conv1"]) * largest == pytest.approx(normalize(IMAGES).abs().max().item(), rel=1e-6)
    by_channel = np.abs(arrays["conv2.weight"]).reshape(16, -1).max(1)
    np.testing.assert_allclose(scales.weights["conv2"] * largest, by_channel, rtol=1e-6)
    for layer in quantize(arrays, scales).values():
        assert (layer.weight.flatten(1).abs().amax(1) == largest).all()


@pytest.mark.parametrize("precision", QUANTIZED)
def test_percentile_and_mse_narrow_the_range(arrays: Arrays, precision: Precision) -> None:
    found = {method: calibrate(arrays, IMAGES, precision, method=method).inputs["fc2"] for method in Method}
    assert found[Method.PERCENTILE] < found[Method.MAX]
    assert 0.2 * found[Method.MAX] <= found[Method.MSE] <= found[Method.MAX]


def test_mse_gives_the_smallest_error(arrays: Arrays) -> None:
    images = IMAGES % 30 + 110
    images[0, 0, 0, 0] = 255  # a range that holds this outlier wastes most numbers
    by_max, by_mse = (calibrate(arrays, images, Precision.INT8, method=m) for m in (Method.MAX, Method.MSE))
    x = normalize(images).double()

    def error(scale: np.float32) -> float:
        return (FORMATS["int8"].round(x / float(scale)) * float(scale) - x).square().mean().item()

    assert error(by_mse.inputs["conv1"]) < error(by_max.inputs["conv1"])


def test_a_seed_chooses_the_sample(arrays: Arrays) -> None:
    first, again, other = (calibrate(arrays, IMAGES, Precision.INT8, seed=seed, count=4) for seed in (0, 0, 1))
    assert first.inputs == again.inputs
    assert first.inputs != other.inputs
    assert first.notes == {"method": "percentile", "seed": 0, "images": 4, "reduce_range": False}


def test_a_reduced_range_keeps_weights_within_63(arrays: Arrays) -> None:
    network = quantize(arrays, calibrate(arrays, IMAGES, Precision.INT8, reduce_range=True))
    assert max(layer.weight.abs().max() for layer in network.values()) == REDUCED
    with pytest.raises(QuantizationError, match=r"fp8 weights have no reduced range"):
        calibrate(arrays, IMAGES, Precision.FP8, reduce_range=True)


def test_a_channel_of_zeros_stays_zero(arrays: Arrays) -> None:
    changed = arrays | {"fc2.weight": arrays["fc2.weight"].copy()}
    changed["fc2.weight"][3] = 0
    network = quantize(changed, calibrate(changed, IMAGES, Precision.INT8))
    assert not network["fc2"].weight[3].any()


def test_biases_of_int8_are_multiples_of_a_products_scale(arrays: Arrays) -> None:
    layer = quantize(arrays, calibrate(arrays, IMAGES, Precision.INT8))["fc1"]
    units = layer.bias / (layer.weight_scale.astype(np.float64) * layer.input_scale)
    np.testing.assert_allclose(units, np.rint(units), atol=1e-3)
    np.testing.assert_allclose(
        layer.bias, arrays["fc1.bias"], atol=float((layer.weight_scale * layer.input_scale).max())
    )


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (IMAGES[:0], r"uint8 \(0, 3, 32, 32\)"),
        (IMAGES[:, :1], r"uint8 \(12, 1, 32, 32\)"),
        (IMAGES[0], r"uint8 \(3, 32, 32\)"),
        (IMAGES.float(), r"float32 \(12, 3, 32, 32\)"),
        (torch.full_like(IMAGES, 7), r"uint8 \(12, 3, 32, 32\), every byte 7"),
    ],
    ids=["empty", "grey", "rank 3", "float32", "constant"],
)
def test_a_bad_calibration_set_is_refused(arrays: Arrays, images: torch.Tensor, found: str) -> None:
    with pytest.raises(QuantizationError, match=rf"(?s)scales cannot be made.*found:  {found}\n"):
        calibrate(arrays, images, Precision.INT8)


def test_a_layer_that_gets_only_zeros_has_no_scale(arrays: Arrays) -> None:
    dead = arrays | {"conv2.bias": np.full(16, -1e6, np.float32)}
    with pytest.raises(QuantizationError, match=r"inputs of fc1: no scale\n  found:  a scale of 0\n"):
        calibrate(dead, IMAGES, Precision.FP8)


def test_values_beyond_float32_are_refused_with_their_layer(arrays: Arrays) -> None:
    huge = arrays | {name: np.full_like(arrays[name], 3e38) for name in ("conv1.weight", "conv2.weight")}
    with pytest.raises(QuantizationError, match=r"inputs of fc1: no scale\n  found:  a scale of inf\n"):
        calibrate(huge, IMAGES, Precision.INT8)
    tiny = arrays | {"fc2.weight": np.full_like(arrays["fc2.weight"], 1e-45)}
    with pytest.raises(QuantizationError, match=r"fc2\.weight: no scale\n  found:  a scale of 0\n"):
        calibrate(tiny, IMAGES, Precision.INT8)


def test_a_bias_beyond_int32_is_refused(arrays: Arrays) -> None:
    large = arrays | {"fc3.bias": np.full(10, 1e9, np.float32)}
    with pytest.raises(QuantizationError, match=r"fc3\.bias does not fit beside int8 products"):
        quantize(large, calibrate(large, IMAGES, Precision.INT8))
