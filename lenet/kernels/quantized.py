"""The quantised weights in ``quantized_layers.cuh``'s order: 8-bit fragments, and scalings from a layer to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch

from lenet import weights
from lenet.data.augmentation import MEAN, STD
from lenet.quantization import Affine, Scales, quantize, resolve
from lenet.vocabulary import Precision

__all__ = ["pack"]

_LEVELS: Final = 127
"""Of int8, above 0. An int8 scaling maps what rounds to 127 to 1."""


def pack(
    arrays: Mapping[str, np.ndarray], precision: Precision, scales: Scales | None, *, bytes_in: bool
) -> np.ndarray:
    """The parameters of ``quantized.cu``, in the order of ``quantized_layers.cuh``'s offsets.

    Args:
        arrays: float32 weights by parameter name.
        precision: INT8 or FP8.
        scales: Of these weights. None for the shipped ones.
        bytes_in: Whether images come as uint8.

    Returns:
        uint8, one dimension, a multiple of 16 bytes.

    Raises:
        QuantizationError: The scales do not fit the weights.
        WeightsError: The scales' quotients are beyond float32.
    """
    network = quantize(arrays, resolve(arrays, precision, scales))
    whole = precision is Precision.INT8
    layers = list(network.values())
    following = [float(layer.input_scale) for layer in layers[1:]]
    scalings = [_scaling(layer, scale, whole=whole) for layer, scale in zip(layers, following, strict=False)]
    scalings.append(_scaling(layers[-1], 1.0, whole=False))
    outputs = [6, 16, 128, 96, 16]
    padded = [np.pad(of, ((0, count - len(of)), (0, 0))) for of, count in zip(scalings, outputs, strict=True)]
    images = _image_scaling(float(layers[0].input_scale), whole=whole, bytes_in=bytes_in)
    parts = [
        _floats("the images' scaling", np.pad(images, ((0, 1), (0, 0)))),
        _b_fragments(_bits(_conv1_matrix(_weight(network["conv1"])), whole=whole)),
        *(_a_fragments(_bits(matrix, whole=whole)) for matrix in _conv2_matrices(_weight(network["conv2"]))),
        _floats("the layers' scaling", np.concatenate(padded)),
        *(_a_fragments(_bits(matrix, whole=whole)) for matrix in _connected(network)),
    ]
    return np.concatenate([part.ravel().view(np.uint8) for part in parts])


def _scaling(layer: Affine, following: float, *, whole: bool) -> np.ndarray:
    """(outputs, 2): factor and offset from a sum to steps of the next layer's input. In int8 127 steps are 1."""
    unit = following * (_LEVELS if whole else 1)
    return np.stack([layer.step.numpy().ravel() / unit, layer.bias.astype(np.float64) / unit], axis=1)


def _image_scaling(scale: float, *, whole: bool, bytes_in: bool) -> np.ndarray:
    """(3, 2): factor and offset from a channel's float32, or from its bytes less 128, to steps of conv1's input.

    An int8 scaling maps -128 to 0 and 127 to 1.
    """
    std, mean = np.array(STD), np.array(MEAN)
    factor = 1 / (255 * std) if bytes_in else np.ones(3)
    offset = (128 / 255 - mean) / std if bytes_in else np.zeros(3)
    scaling = np.stack([factor, offset], axis=1) / scale
    return (scaling + np.array([0, 128])) / 255 if whole else scaling


def _floats(name: str, values: np.ndarray) -> np.ndarray:
    return weights.narrow({name: values}, torch.float32)[name].numpy()


def _weight(layer: Affine) -> np.ndarray:
    return layer.weight.numpy()


def _bits(matrix: np.ndarray, *, whole: bool) -> np.ndarray:
    """Numbers of the format as its bytes."""
    if whole:
        return matrix.astype(np.int8).view(np.uint8)
    return torch.from_numpy(matrix).float().to(torch.float8_e4m3fn).view(torch.uint8).numpy()


def _a_fragments(matrix: np.ndarray) -> np.ndarray:
    """(output, input) to [16 outputs][32 inputs][lane][4 words].

    A lane's words are 4 inputs of a row r of ``mma``'s a operand, then of row r + 8, then both of the next 16 inputs
    (PTX ISA). Rows r and r + 8 are outputs 2r and 2r + 1. An odd block of 16 inputs comes last, in 2 words a lane.
    """
    rows, columns = matrix.shape
    words = matrix.reshape(rows // 16, 8, 2, columns // 16, 4, 4).transpose(0, 3, 1, 4, 2, 5)
    even = columns // 16 // 2 * 2  # [rows][block][row][word][half][byte]
    pairs = words[:, :even].reshape(rows // 16, even // 2, 2, 8, 4, 2, 4).transpose(0, 1, 3, 4, 2, 5, 6)
    parts = [pairs.reshape(rows // 16, -1), words[:, even:].reshape(rows // 16, -1)]
    return np.concatenate(parts, axis=1)


def _b_fragments(matrix: np.ndarray) -> np.ndarray:
    """(input, output) to blocks of 16x8, ``mma``'s b operand: [16 inputs][16 outputs][lane][2 blocks][4 inputs]."""
    rows, columns = matrix.shape
    words = matrix.reshape(rows // 16, 4, 4, columns // 8, 8).transpose(0, 3, 4, 1, 2)
    pairs = words.reshape(-1, 2, 32, 4).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(pairs)


def _conv1_matrix(weight: np.ndarray) -> np.ndarray:
    """(144, 48): what 6x8 pixels x 3 channels weigh at the 8 places of two windows.

    Inputs are [channel][row][pixel]. Outputs are [a lane's map][place's row][half of the maps][window][place's column]:
    a lane has all four places of three maps of a window.
    """
    matrix = np.zeros((3, 6, 8, 3, 2, 2, 2, 2))  # the last axes: map of a lane, row, half of the maps, window, column
    for row, window, column in np.ndindex(2, 2, 2):
        x = 2 * window + column
        for half, number in np.ndindex(2, 3):
            matrix[:, row : row + 5, x : x + 5, number, row, half, window, column] = weight[3 * half + number]
    return matrix.reshape(144, 48)


def _conv2_matrices(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two of (16, 240), for places to the left and to the right. Inputs are [row][two columns][column][8 channels]."""
    matrices = np.zeros((2, 16, 5, 6, 2, 4))
    for side in range(2):
        channels = weight.reshape(16, 2, 3, 5, 5).transpose(0, 3, 4, 1, 2)
        matrices[side, :, :, side : side + 5, :, :3] = channels
    left, right = matrices.reshape(2, 16, 240)
    return left, right


def _connected(network: Mapping[str, Affine]) -> list[np.ndarray]:
    """The fully connected layers, padded. fc1's inputs are [place][map]."""
    first = _weight(network["fc1"]).reshape(120, 16, 25).transpose(0, 2, 1).reshape(120, 400)
    matrices = {"fc1": first, "fc2": _weight(network["fc2"]), "fc3": _weight(network["fc3"])}
    shapes = [(128, 400), (96, 128), (16, 96)]
    return [
        np.pad(matrix, ((0, rows - matrix.shape[0]), (0, columns - matrix.shape[1])))
        for matrix, (rows, columns) in zip(matrices.values(), shapes, strict=True)
    ]
