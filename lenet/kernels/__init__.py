"""LeNet as one CUDA kernel: its source, its variants, and the weights in the order that it reads them.

Three kernels, told their sizes by macros: ``fp32.cu``, ``tensor_cores.cu`` and ``quantized.cu``, with their layers in
``fp32_layers.cuh``, ``tensor_layers.cuh`` and ``quantized_layers.cuh``. Nothing here needs CUDA:
`lenet.kernels.compiler` compiles, and `lenet.backends.fused` launches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from lenet import weights
from lenet.architecture import INPUT_SHAPE, PARAMETER_SHAPES
from lenet.data.augmentation import MEAN, STD
from lenet.kernels import quantized
from lenet.quantization import FORMATS, Scales
from lenet.vocabulary import Precision

__all__ = ["ENTRY", "IMAGES_A_BLOCK", "PRECISIONS", "SPLIT", "Variant", "largest_that_fits", "pack"]

ENTRY: Final = "lenet"
"""The kernel's name: ``lenet(images, parameters, logits, batch, workspace)``."""

PRECISIONS: Final = (
    Precision.FP32,
    Precision.FP16,
    Precision.BF16,
    Precision.FP16X2,
    Precision.INT8,
    Precision.FP8,
)
IMAGES_A_BLOCK: Final = (1, 2, 4, 8)
SPLIT: Final = 5
"""Blocks that an image may be spread over, in fp32: one for each row of conv2's pool."""

_DIRECTORY: Final = Path(__file__).parent
# Of several the fastest on an H100; bf16 has fp16's. A warp of fp32 is to have 20 inputs of fc1 and 6 of fc2.
_WARPS: Final[Mapping[str, int]] = {
    Precision.FP32: 20,
    Precision.FP16: 16,
    Precision.BF16: 16,
    Precision.FP16X2: 12,
    Precision.INT8: 16,
    Precision.FP8: 16,
}

# The sources' constants, by their names there. `tests/kernels` compiles each variant with `needed_bytes` and with less.
_SIZE = INPUT_SHAPE[-1]
_MAPS1, _CHANNELS, _KERNEL, _ = PARAMETER_SHAPES["conv1.weight"]
_MAPS2 = PARAMETER_SHAPES["conv2.weight"][0]
_HIDDEN1, _FEATURES = PARAMETER_SHAPES["fc1.weight"]
_CLASSES, _HIDDEN2 = PARAMETER_SHAPES["fc3.weight"]
_SIDE2 = SPLIT
_BIASES = sum(shape[0] for name, shape in PARAMETER_SHAPES.items() if name.endswith(".bias"))
# Of fp32's two files: a padded filter of conv2, a padded row of conv1's maps, floats behind an image's maps and behind
# its sums.
_FILTER2, _MAP_ROW, _MAPS_PADDING, _MBARRIERS = 28, 16, 4, 4
# Of tensor_layers.cuh, in chunks of 16 bytes: conv1's and conv2's fragments (STEPS * COLUMNS * FRAGMENT), rows of the
# fully connected layers' inputs (STRIDE3 to STRIDE5), and an image's maps; then scales, and elements behind a plane.
_FRAGMENTS, _STRIDES, _MAP_CHUNKS = 7 * 3 * 16 + 13 * 32, (_FEATURES + 8) + (128 + 8) + (96 + 8), 297
_FRAGMENTS3, _STAGED = 8 * 25 * 32, 6 + 256  # of fc1; mbarriers and sums of a staged variant
_SCALES, _PLANE_PADDING = 5, 16
# Of quantized's two files, in chunks of 16 bytes: CONSTANTS, eight rows of inputs of each fully connected layer, two
# mbarriers; then an image's maps and pixels.
_QUANTIZED = 9 * 6 * 8 + 2 * 15 * 16 + (6 + 16 + 128 + 96 + 16) // 2 + 8 * (25 + 9 + 7) + 1
_QUANTIZED_IMAGE = 185 + 192


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to compile the kernel.

    Attributes:
        precision: One of `PRECISIONS`.
        images: Images a block, one of `IMAGES_A_BLOCK`.
        bytes_in: Whether images come as uint8, else as normalised float32.
        shared_bytes: Shared memory that a block asks for: all that the GPU gives one.
        blocks_an_image: Blocks that share an image: 1, or in fp32 and with 1 image a block `SPLIT`.
    """

    precision: str
    images: int
    bytes_in: bool
    shared_bytes: int
    blocks_an_image: int = 1

    def blocks(self, batch: int, multiprocessors: int) -> int:
        """Blocks of a launch."""
        blocks = -(-batch // self.images) * self.blocks_an_image
        return min(blocks, multiprocessors) if self.turns else blocks

    @property
    def turns(self) -> bool:
        """Whether there is one block a multiprocessor at most, which takes its share of the batch in turns."""
        return self.staged or (self.precision == Precision.FP32 and self.images == IMAGES_A_BLOCK[-1])

    @property
    def staged(self) -> bool:
        """Whether the next images come while a block computes.

        It needs the shared memory of compute capability 9.0, and pays for float32 images.
        """
        if self.precision not in {Precision.FP16, Precision.BF16} or self.images != IMAGES_A_BLOCK[-1] or self.bytes_in:
            return False
        return self.needed_bytes + 16 * (_FRAGMENTS3 + _STAGED) <= self.shared_bytes

    @property
    def workspace(self) -> int:
        """Floats of global memory that an image needs, all 0 before the first launch: its blocks' sums, a counter."""
        return SPLIT * _HIDDEN1 + 4 if self.blocks_an_image > 1 else 0

    @property
    def threads(self) -> int:
        """Threads a block."""
        return 32 * _WARPS[self.precision]

    @property
    def parts(self) -> int:
        """fp16 numbers that make up an operand."""
        return 2 if self.precision == Precision.FP16X2 else 1

    @property
    def maps_a_thread(self) -> int:
        """Maps of conv1 that a thread computes in float32; few where a block has few images."""
        return 1 if self.images == 1 else 3

    @property
    def macros(self) -> dict[str, str]:
        """What the source is told."""
        shared = {
            "IMAGES": str(self.images),
            "BYTES": str(self.bytes_in).lower(),
            "SHARED_BYTES": str(self.shared_bytes),
            "WARPS": str(_WARPS[self.precision]),
        }
        if self.precision == Precision.FP32:
            windows = 1 if self.images == 1 else 5
            fp32 = {"MAPS_A_THREAD": self.maps_a_thread, "WINDOWS_A_THREAD": windows, "BLOCKS": self.blocks_an_image}
            return shared | {name: str(value) for name, value in fp32.items()}
        if self.precision in FORMATS:
            return shared | {"E4M3": str(self.precision == Precision.FP8).lower()}
        bfloat = str(self.precision == Precision.BF16).lower()
        return shared | {"BFLOAT": bfloat, "PARTS": str(self.parts), "STAGED": str(self.staged).lower()}

    @property
    def source(self) -> str:
        """CUDA C++, without the macros."""
        if self.precision in FORMATS:
            names = ["formats.cuh", "quantized_layers.cuh", "quantized.cu"]
        elif self.precision == Precision.FP32:
            names = ["fp32_layers.cuh", "fp32.cu"]
        else:
            names = ["tensor_layers.cuh", "tensor_cores.cu"]
        return "\n".join((_DIRECTORY / name).read_text(encoding="utf-8") for name in ("common.cuh", *names))

    @property
    def needed_bytes(self) -> int:
        """Shared memory without which it does not compile; more holds fc1's weights as well."""
        if self.precision == Precision.FP32:
            return self._needed_fp32
        if self.precision in FORMATS:
            return 16 * (_QUANTIZED + self.images * _QUANTIZED_IMAGE)
        fixed = self.parts * 16 * (_FRAGMENTS + _STRIDES) + 4 * _round_up(_BIASES + _SCALES, 4)
        pixels = _CHANNELS * (_SIZE * _SIZE + _PLANE_PADDING)
        return fixed + self.parts * self.images * (16 * _MAP_CHUNKS + 2 * pixels)

    @property
    def _needed_fp32(self) -> int:
        groups, row = _MAPS1 // self.maps_a_thread, _round_up(self.maps_a_thread * _KERNEL, 4)
        weights1, weights2 = groups * _CHANNELS * _KERNEL * row, _MAPS1 * _MAPS2 * _FILTER2
        constants = weights1 + weights2 + _BIASES + _CLASSES * _HIDDEN2
        rows1 = 2 * _SIDE2 // self.blocks_an_image + _KERNEL - 1
        image = _FEATURES // self.blocks_an_image + _MAPS1 * rows1 * _MAP_ROW + _MAPS_PADDING
        if self.blocks_an_image == 1:
            return 4 * (constants + self.images * (image + _CHANNELS * _SIZE * _SIZE))
        return 4 * (constants + image + _WARPS[self.precision] * _HIDDEN1 + _HIDDEN1 * _HIDDEN2 + _MBARRIERS)


def largest_that_fits(precision: str, shared_bytes: int) -> int:
    """The most images that a block of this much shared memory takes; 0 where not even one fits."""
    variants = (Variant(precision, n, bytes_in=False, shared_bytes=shared_bytes) for n in IMAGES_A_BLOCK)
    fitting = [variant.images for variant in variants if variant.needed_bytes <= shared_bytes]
    return max(fitting, default=0)


def pack(arrays: Mapping[str, np.ndarray], variant: Variant, scales: Scales | None = None) -> np.ndarray:
    """The weights as the variant's kernel reads them.

    Args:
        arrays: Weights by parameter name.
        variant: Says the order, the type, and whether images come as bytes.
        scales: Of these weights, for a quantised precision. None for the shipped ones.

    Returns:
        uint8, one dimension, a multiple of 16 bytes.

    Raises:
        WeightsError: A weight is beyond the range of the type that the kernel holds it in.
        QuantizationError: The scales do not fit the weights.
    """
    if variant.precision in FORMATS:
        return quantized.pack(arrays, Precision(variant.precision), scales, bytes_in=variant.bytes_in)
    exact = {name: array.astype(np.float64) for name, array in arrays.items()}
    if variant.bytes_in:
        exact |= _fold_normalization(exact["conv1.weight"], exact["conv1.bias"])
    packed = _pack_fp32(exact, variant) if variant.precision == Precision.FP32 else _pack_parts(exact, variant)
    return np.ascontiguousarray(packed).view(np.uint8)


def _fold_normalization(weight: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    """conv1 of bytes less 128: as large as normalised pixels are, and exact in every type. conv1 has no padding."""
    std, mean = np.array(STD), np.array(MEAN)
    centre = (128 / 255 - mean) / std
    return {
        "conv1.weight": weight / (255 * std)[:, None, None],
        "conv1.bias": bias + (weight.sum((2, 3)) * centre).sum(1),
    }


def _biases(exact: Mapping[str, np.ndarray]) -> np.ndarray:
    layers = ("conv1", "conv2", "fc1", "fc2", "fc3")
    biases = weights.narrow({name: exact[name] for name in (f"{layer}.bias" for layer in layers)}, torch.float32)
    return np.concatenate([bias.numpy() for bias in biases.values()])


def _pad(array: np.ndarray, *shape: int) -> np.ndarray:
    """Zeros behind the array's values, up to a shape."""
    return np.pad(array, [(0, wanted - have) for have, wanted in zip(array.shape, shape, strict=True)])


def _pack_fp32(exact: Mapping[str, np.ndarray], variant: Variant) -> np.ndarray:
    """float32, in the order of ``fp32_layers.cuh``'s offsets."""
    maps = variant.maps_a_thread
    exact = {name: tensor.numpy() for name, tensor in weights.narrow(exact, torch.float32).items()}
    # [group][map][channel][row][column] -> [group][channel][row][map, column, padded]
    conv1 = exact["conv1.weight"].reshape(-1, maps, _CHANNELS, _KERNEL, _KERNEL).transpose(0, 2, 3, 1, 4)
    conv1 = conv1.reshape(-1, maps * _KERNEL)
    conv1 = _pad(conv1, len(conv1), _round_up(maps * _KERNEL, 4))
    conv2 = _pad(exact["conv2.weight"].transpose(1, 0, 2, 3).reshape(-1, _KERNEL**2), _MAPS1 * _MAPS2, _FILTER2)
    fc1 = exact["fc1.weight"].T
    if variant.blocks_an_image > 1:  # each row of windows is a block's
        fc1 = fc1.reshape(_MAPS2, _SIDE2, _SIDE2, _HIDDEN1).transpose(1, 0, 2, 3)
    parts = [conv1, conv2, _biases(exact), exact["fc3.weight"], fc1, exact["fc2.weight"].T]
    return np.concatenate([part.ravel() for part in parts])


def _pack_parts(exact: Mapping[str, np.ndarray], variant: Variant) -> np.ndarray:
    """16-bit fragments and float32 biases and scales, in the order of ``tensor_layers.cuh``'s offsets."""
    matrices = {
        "conv1": _conv1_matrix(exact["conv1.weight"]),
        "conv2": _conv2_matrix(exact["conv2.weight"]),
        "fc1": _pad(exact["fc1.weight"], 128, 400),
        "fc2": _pad(exact["fc2.weight"], 96, 128),
        "fc3": _pad(exact["fc3.weight"], 16, 96),
    }
    scales = [_scale(matrix) if variant.parts == 2 else 1.0 for matrix in matrices.values()]  # noqa: PLR2004
    fragments = []
    for (name, matrix), scale in zip(matrices.items(), scales, strict=True):
        order = _b_fragments if name == "conv1" else _a_fragments
        fragments.append(order(_split(f"{name}.weight", matrix / scale, variant)).ravel().view(np.uint8))
    constants = np.concatenate([_biases(exact), scales]).astype(np.float32)
    constants = np.pad(constants, (0, -len(constants) % 4)).view(np.uint8)
    return np.concatenate([*fragments[:2], constants, *fragments[2:]])


def _scale(matrix: np.ndarray) -> float:
    """A power of two by which the largest weight comes to 128 to 256: far from fp16's limits on both sides."""
    largest = np.abs(matrix).max()
    return float(2.0 ** (np.floor(np.log2(largest)) - 7)) if largest > 0 else 1.0


def _split(name: str, matrix: np.ndarray, variant: Variant) -> np.ndarray:
    """(parts, ...) of 16 bits: the matrix rounded to nearest even, then what that left, rounded."""
    dtype = torch.bfloat16 if variant.precision == Precision.BF16 else torch.float16
    parts, rest = [], matrix
    for _ in range(variant.parts):
        part = weights.narrow({name: rest}, dtype)[name]
        rest = rest - part.double().numpy()
        parts.append(part.view(torch.int16).numpy())
    return np.stack(parts)


def _a_fragments(parts: np.ndarray) -> np.ndarray:
    """(part, output, input) to blocks of 16x16: lane 4r + c holds rows r and r + 8, columns 2c, 2c + 1 and 8 more on.

    [row block][column block][part][lane][register][2], as `mma.m16n8k16` takes its a operand (PTX ISA).
    """
    count, rows, columns = parts.shape
    blocks = parts.reshape(count, rows // 16, 2, 8, columns // 16, 2, 4, 2)
    return np.ascontiguousarray(blocks.transpose(1, 4, 0, 3, 6, 5, 2, 7))


def _b_fragments(parts: np.ndarray) -> np.ndarray:
    """(part, input, output) to blocks of 16x8: [input block][output block][part][lane][register][2], its b operand."""
    count, rows, columns = parts.shape
    blocks = parts.reshape(count, rows // 16, 2, 4, 2, columns // 8, 8)
    return np.ascontiguousarray(blocks.transpose(1, 5, 0, 6, 3, 2, 4))


def _conv1_pixel(quad: int, member: int) -> tuple[int, int, int] | None:
    """Channel, row and column of the first of two pixels of a window: ``tensor_layers.cuh`` draws the quads."""
    if quad < 9:  # noqa: PLR2004
        return quad // 3, quad % 3 * 2 + member // 2, member % 2 * 2
    if quad < 12:  # noqa: PLR2004
        return member // 2, quad % 3 * 2 + member % 2, 4
    if quad == 12:  # noqa: PLR2004
        return 2, member, 4
    return (2, 4 + member % 2, 4) if member >= 2 else None  # noqa: PLR2004 - channel 1 again fills the quad


def _conv1_matrix(weight: np.ndarray) -> np.ndarray:
    """(112, 24): what a window's 6x6 pixels x 3 channels weigh in 6 maps at the window's 4 places."""
    shifted = np.zeros((4, 6, 3, 6, 6))
    for place in range(4):
        y, x = divmod(place, 2)
        shifted[place, :, :, y : y + 5, x : x + 5] = weight
    matrix = np.zeros((112, 24))
    for row in range(112):
        quad, rest = divmod(row, 8)
        pixel = _conv1_pixel(quad, rest // 2)
        if pixel is None:
            continue
        channel, y, x = pixel
        for column in range(24):
            block, rest_of_column = divmod(column, 8)
            pair, half = divmod(rest_of_column // 2, 2)
            last = rest_of_column % 2
            # A lane of two has four places of a map of its own, and two of the map that both share.
            number, place = (3 * pair + half, 2 * block + last) if block < 2 else (3 * pair + 2, 2 * half + last)  # noqa: PLR2004
            matrix[row, column] = shifted[place, number, channel, y, x + row % 2]
    return matrix


def _conv2_matrix(weight: np.ndarray) -> np.ndarray:
    """(16, 208): maps x 26 taps (one of zeros) x 8 channels (two of zeros)."""
    taps = weight.reshape(16, 6, 25).transpose(0, 2, 1)
    return _pad(taps, 16, 26, 8).reshape(16, 208)
