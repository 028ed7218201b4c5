"""The scales of a quantised network, and their files.

A file lies beside the weights that it belongs to: ``weights.int8.safetensors`` beside ``weights.safetensors``. It holds
``LAYER.input_scale`` and ``LAYER.weight_scale`` (one for each output channel) for every layer with weights, and names
the precision and the digest of the weights.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from lenet import weights
from lenet.architecture import LAYERS
from lenet.documents import parse, to_json
from lenet.errors import QuantizationError, WeightsError
from lenet.files import write_atomically
from lenet.quantization.formats import quantized_precision
from lenet.vocabulary import Precision

__all__ = ["Scales", "check", "load", "path_beside", "resolve", "save", "scales_beside"]

_OUTPUTS: Final = {
    layer.name: layer.parameter_shapes()[f"{layer.name}.bias"][0] for layer in LAYERS if layer.parameter_shapes()
}
"""The outputs of each weighted layer."""


@dataclass(frozen=True, slots=True, eq=False)
class Scales:
    """The scales of a quantised LeNet. A number of the format times its scale is the value that it stands for.

    Attributes:
        precision: INT8 or FP8.
        inputs: Of each weighted layer's input: positive float32, by the layer's name.
        weights: Of its weights: positive float32 (out,), by the layer's name.
        digest: `lenet.weights.digest` of the weights that they belong to.
        notes: How they were made: method, seed, images. Values that JSON can hold.
    """

    precision: Precision
    inputs: Mapping[str, np.float32]
    weights: Mapping[str, np.ndarray]
    digest: str
    notes: Mapping[str, object] = field(default_factory=dict)


def path_beside(path: Path, precision: Precision) -> Path:
    """Where the scales of a weights file lie."""
    return path.with_suffix(f".{precision}.safetensors")


def save(path: Path, scales: Scales) -> None:
    """Write a file of scales, whole or not at all. The same scales give the same bytes.

    Raises:
        OutputError: The file cannot be written.
    """
    arrays = {f"{name}.input_scale": np.asarray(value) for name, value in scales.inputs.items()}
    arrays |= {f"{name}.weight_scale": value for name, value in scales.weights.items()}
    facts = {**scales.notes, "precision": scales.precision.value, "weights": scales.digest}
    write_atomically(path, weights.to_safetensors(arrays, {key: to_json(value) for key, value in facts.items()}))


def load(path: Path, arrays: Mapping[str, np.ndarray], precision: Precision) -> Scales:
    """Read a file of scales.

    Args:
        path: The file.
        arrays: The weights that they are for, by parameter name.
        precision: The one that they are for.

    Raises:
        WeightsError: The file is no whole safetensors file, or is damaged.
        QuantizationError: It is missing, or its scales do not fit the network, the weights or the precision.
    """
    if not path.exists():
        raise QuantizationError(
            f"the weights have no {precision} scales",
            found=f"no {path}",
            wanted=f"the file that `lenet quantize` writes beside its weights for {precision}",
            hint=_hint(precision, path),
        )
    try:
        tensors, metadata = weights.read_safetensors(path)
    except WeightsError as error:
        raise WeightsError(
            error.summary, found=error.found, wanted="a whole file of scales", hint=_hint(precision, path)
        ) from error
    try:
        notes = {key: parse(text) for key, text in metadata.items()}
        stated, digest = notes.pop("precision"), notes.pop("weights")
    except (ValueError, KeyError) as error:
        raise QuantizationError(
            f"{path} holds no scales",
            found=f"metadata {', '.join(metadata) or 'of no kind'}",
            wanted="the precision and the digest of the weights in its metadata",
            hint=_hint(precision, path),
        ) from error
    if stated != precision:
        raise QuantizationError(
            f"{path} holds scales of another precision",
            found=str(stated),
            wanted=precision,
            hint=_hint(precision, path),
        )
    _check_tensors(tensors, path, precision)
    inputs = {name: np.float32(tensors[f"{name}.input_scale"]) for name in _OUTPUTS}
    found = Scales(precision, inputs, {name: tensors[f"{name}.weight_scale"] for name in _OUTPUTS}, str(digest), notes)
    check(found, arrays, path)
    return found


def scales_beside(path: Path, arrays: Mapping[str, np.ndarray], precision: Precision) -> Scales | None:
    """The scales that lie beside a weights file, or None if the precision needs none.

    Args:
        path: The weights file.
        arrays: Its weights.
        precision: The one that is asked for.

    Raises:
        WeightsError: The file of scales is damaged.
        QuantizationError: It is missing, or does not fit.
    """
    return load(path_beside(path, precision), arrays, precision) if quantized_precision(precision) else None


def _check_tensors(tensors: Mapping[str, np.ndarray], path: Path, precision: Precision) -> None:
    shapes = {f"{name}.input_scale": () for name in _OUTPUTS}
    wanted = shapes | {f"{name}.weight_scale": (size,) for name, size in _OUTPUTS.items()}
    found = {name: array.shape for name, array in tensors.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if found.get(name) != wanted.get(name) or tensors[name].dtype != np.float32:
            raise QuantizationError(
                f"{path} does not fit LeNet: {name}",
                found=f"{tensors[name].dtype} {found[name]}" if name in found else "no such tensor",
                wanted=f"float32 {wanted[name]}" if name in wanted else "no such tensor",
                hint=_hint(precision, path),
            )


def check(scales: Scales, arrays: Mapping[str, np.ndarray], source: Path | str) -> None:
    """Check that scales are positive and finite, and belong to these weights.

    Raises:
        QuantizationError: They do not.
    """
    parts = {f"{name}.input_scale": np.asarray(value) for name, value in scales.inputs.items()}
    parts |= {f"{name}.weight_scale": value for name, value in scales.weights.items()}
    for name, values in parts.items():
        bad = values[~(np.isfinite(values) & (values > 0))]
        if bad.size:
            raise QuantizationError(
                f"{source}: {name} is no scale",
                found=str(bad.flat[0]),
                wanted="positive and finite numbers",
                hint=_hint(scales.precision, source),
            )
    own = weights.digest(arrays)
    if scales.digest != own:
        raise QuantizationError(
            f"{source}: the scales belong to other weights",
            found=f"weights {scales.digest[:12]}",
            wanted=f"weights {own[:12]}",
            hint=_hint(scales.precision, source),
        )


def resolve(arrays: Mapping[str, np.ndarray], precision: Precision, given: Scales | None) -> Scales:
    """The scales to use: those given, or the shipped ones.

    Raises:
        QuantizationError: They belong to other weights.
    """
    if given is None:
        return load(path_beside(weights.SHIPPED, precision), arrays, precision)
    check(given, arrays, "the scales")
    return given


def _hint(precision: Precision, source: Path | str) -> str:
    """What makes the scales of the weights beside a file of scales, if they are not the shipped ones."""
    beside = source.with_suffix("").with_suffix(".safetensors") if isinstance(source, Path) else weights.SHIPPED
    own = beside != weights.SHIPPED
    named = shlex.quote(str(beside)) if own and beside.is_file() else "FILE"
    command = f"lenet quantize --precision {precision} --weights {named}"
    # The command replaces no such file.
    return f"delete it, then {command}" if own and isinstance(source, Path) and source.exists() else command
