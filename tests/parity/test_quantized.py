"""The quantised network's reference: against ONNX's own evaluator, right runtimes, and wrong ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from lenet import parity, weights
from lenet.data.augmentation import normalize
from lenet.data.synthetic import synthetic
from lenet.export import INPUT
from lenet.models.quantized_lenet import QuantizedLeNet
from lenet.parity import Comparison, Reference
from lenet.quantization import FORMATS, Affine, evaluate, quantize, resolve
from lenet.quantized_export import to_quantized_onnx
from lenet.vocabulary import InputType, Precision

QUANTIZED = [Precision(name) for name in FORMATS]
PIXELS = synthetic(64).images
ARRAYS = weights.load().arrays


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(ARRAYS, normalize(PIXELS))


def network(precision: Precision) -> dict[str, Affine]:
    return quantize(ARRAYS, resolve(ARRAYS, precision, None))


def run(layers: Mapping[str, Affine], precision: Precision, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = QuantizedLeNet(layers, precision)(images)
        return logits


@pytest.mark.parametrize(
    ("precision", "integer"),
    [(Precision.INT8, False), (Precision.INT8, True), (Precision.FP8, False)],
    ids=["int8", "int8, integer layout", "fp8"],
)
@pytest.mark.parametrize("images", [normalize(PIXELS[:4]), PIXELS[:4]], ids=list(InputType))
def test_it_is_what_onnx_evaluates(precision: Precision, images: torch.Tensor, *, integer: bool) -> None:
    """Both layouts of the graph are the network that `lenet.quantization` defines."""
    onnx = pytest.importorskip("onnx", reason='pip install -e ".[onnx]"')
    from onnx.reference import ReferenceEvaluator

    model = onnx.load_from_string(to_quantized_onnx(ARRAYS, precision, None, images.dtype, integer=integer))
    (logits,) = ReferenceEvaluator(model).run(None, {INPUT: images.numpy()})
    compared = Reference(ARRAYS, images).compare(torch.from_numpy(logits), precision)
    assert compared.right, compared


@pytest.mark.parametrize("precision", QUANTIZED)
def test_most_images_are_allowed_float32s_rounding_alone(reference: Reference, precision: Precision) -> None:
    """Else the tolerance would hide a runtime that rounds wrongly."""
    allowed = reference.tolerance(precision).amax(1)
    assert (allowed < 2e-4).double().mean() > 0.6
    assert allowed.max() < 2


@pytest.mark.parametrize("precision", QUANTIZED)
def test_fake_quantisation_is_right(reference: Reference, precision: Precision) -> None:
    compared = reference.compare(run(network(precision), precision, reference.images), precision)
    assert compared.right, compared
    assert compared.closeness is not None


@pytest.mark.parametrize("precision", QUANTIZED)
def test_the_float_network_is_not_the_quantised_one(reference: Reference, precision: Precision) -> None:
    """A runtime that drops the quantisation is found, and one that quantises is not taken for the float network."""
    assert not reference.compare(reference.logits, precision).right
    assert not reference.compare(reference.wanted(precision), Precision.FP32).right


def per_tensor(layer: Affine) -> Affine:
    values = layer.weight * torch.from_numpy(layer.weight_scale).view(-1, *[1] * (layer.weight.ndim - 1)).double()
    scale = np.full_like(layer.weight_scale, layer.weight_scale.max())
    return replace(layer, weight=(values / float(scale[0])).round(), weight_scale=scale)


def off_by_one(layer: Affine) -> Affine:
    weight = layer.weight.clone()
    weight[::4] += 1
    return replace(layer, weight=weight)


FAULTS: dict[str, Callable[[Affine], Affine]] = {
    "a scale that is off by 2^-12": lambda layer: replace(
        layer, input_scale=layer.input_scale * np.float32(1 + 2**-12)
    ),
    "scales of weights per tensor": per_tensor,
    "weights that are off by one": off_by_one,
    "no bias": lambda layer: replace(layer, bias=np.zeros_like(layer.bias)),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["conv1", "conv2", "fc1", "fc2", "fc3"])
def test_a_wrong_layer_is_found(reference: Reference, fault: str, name: str) -> None:
    layers = network(Precision.INT8)
    wrong = layers | {name: FAULTS[fault](layers[name])}
    compared = reference.compare(run(wrong, Precision.INT8, reference.images), Precision.INT8)
    assert not compared.right, compared


class _Rounding(QuantizedLeNet):
    """A network that rounds in another way."""

    def __init__(self, layers: Mapping[str, Affine], rounded: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__(layers, Precision.INT8)
        self._rounds = rounded

    def _rounded(self, x: torch.Tensor) -> torch.Tensor:
        return self._rounds(x)


def compared_with(reference: Reference, rounded: Callable[[torch.Tensor], torch.Tensor]) -> Comparison:
    with torch.inference_mode():
        return reference.compare(_Rounding(network(Precision.INT8), rounded)(reference.images), "int8")


@pytest.mark.parametrize(
    "rounded",
    [
        lambda x: x.floor().clamp(-128, 127),
        lambda x: x.trunc().clamp(-128, 127),
        lambda x: x.round().clamp(-128, 100),
        lambda x: (x + 0.51).floor().clamp(-128, 127),
        lambda x: x.clamp(-128, 127),
    ],
    ids=["down", "to zero", "too small a range", "a hundredth too high", "not at all"],
)
def test_a_wrong_rounding_is_found(reference: Reference, rounded: Callable[[torch.Tensor], torch.Tensor]) -> None:
    assert not compared_with(reference, rounded).right


def test_ties_may_go_either_way(reference: Reference) -> None:
    """Runtimes differ in them, and so near to the middle float32's rounding decides."""
    assert compared_with(reference, lambda x: (x + 0.5).floor().clamp(-128, 127)).right


def test_one_step_moves_logits_within_the_tolerance() -> None:
    """The inputs of fc3 lie in the middle of two numbers, so a runtime may round each of them to either."""
    scales, layers = resolve(ARRAYS, Precision.INT8, None), network(Precision.INT8)
    middle = np.full(84, 20.5 * scales.inputs["fc3"], np.float32)
    constant = replace(layers["fc2"], weight=torch.zeros_like(layers["fc2"].weight), bias=middle)
    images = normalize(PIXELS[:2])
    wanted, allowed = parity.quantized_reference(layers | {"fc2": constant}, scales, images)
    moved = []
    for factor in (1 - 1e-6, 1 + 1e-6):
        logits = evaluate(layers | {"fc2": replace(constant, bias=middle * np.float32(factor))}, scales, images)
        moved.append((logits - wanted).abs())
        assert (moved[-1] <= allowed).all()
    assert torch.maximum(*moved).amax() > 0.01
