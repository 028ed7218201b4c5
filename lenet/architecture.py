"""LeNet for CIFAR-10 as data: the one table that every implementation and the report use.

The network is the coursework's: two 5x5 convolutions, each with ReLU and 2x2 max-pooling, and three fully connected
layers. It is the network of LeCun et al., "Gradient-based learning applied to document recognition", Proc. IEEE 86(11),
1998, with RGB input, ReLU and max-pooling. Shapes are for one image, without the batch dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Final, TypeAlias

__all__ = [
    "CLASSES",
    "FLOPS_PER_IMAGE",
    "INPUT_SHAPE",
    "LAYERS",
    "PARAMETER_COUNT",
    "PARAMETER_SHAPES",
    "STAGES",
    "Conv2d",
    "Flatten",
    "Layer",
    "Linear",
    "MaxPool2d",
    "ReLU",
    "Shape",
    "Stage",
]

Shape: TypeAlias = tuple[int, ...]

CLASSES: Final = 10
INPUT_SHAPE: Final[Shape] = (3, 32, 32)


@dataclass(frozen=True, slots=True)
class Layer:
    """One step of the network.

    Attributes:
        name: Unique name. Parameter names begin with it.
    """

    name: str

    def output_shape(self, input_shape: Shape) -> Shape:
        """Shape of one image's output. By default that of the input."""
        return input_shape

    def parameter_shapes(self) -> dict[str, Shape]:
        """Parameter names and shapes, in PyTorch's layout. By default none."""
        return {}

    def flops(self, input_shape: Shape) -> int:
        """Floating-point operations for one image.

        A multiply-add counts as two. Biases, activations and pooling do not count.
        """
        del input_shape
        return 0


@dataclass(frozen=True, slots=True)
class Conv2d(Layer):
    """Square convolution, stride 1, no padding, with bias."""

    in_channels: int
    out_channels: int
    kernel: int

    def output_shape(self, input_shape: Shape) -> Shape:
        """``(out_channels, height - kernel + 1, width - kernel + 1)``."""
        _, height, width = input_shape
        return (self.out_channels, height - self.kernel + 1, width - self.kernel + 1)

    def parameter_shapes(self) -> dict[str, Shape]:
        """``weight`` (out, in, kernel, kernel) and ``bias`` (out,)."""
        return {
            f"{self.name}.weight": (self.out_channels, self.in_channels, self.kernel, self.kernel),
            f"{self.name}.bias": (self.out_channels,),
        }

    def flops(self, input_shape: Shape) -> int:
        """Two for each weight at each output element."""
        return 2 * self.in_channels * self.kernel**2 * prod(self.output_shape(input_shape))


@dataclass(frozen=True, slots=True)
class ReLU(Layer):
    """``max(x, 0)``."""


@dataclass(frozen=True, slots=True)
class MaxPool2d(Layer):
    """Square max-pooling with a stride equal to its window."""

    window: int

    def output_shape(self, input_shape: Shape) -> Shape:
        """``(channels, height // window, width // window)``."""
        channels, height, width = input_shape
        return (channels, height // self.window, width // self.window)


@dataclass(frozen=True, slots=True)
class Flatten(Layer):
    """Flattens channels, rows and columns, in that order, into one dimension."""

    def output_shape(self, input_shape: Shape) -> Shape:
        """``(channels * height * width,)``."""
        return (prod(input_shape),)


@dataclass(frozen=True, slots=True)
class Linear(Layer):
    """Fully connected layer with bias."""

    in_features: int
    out_features: int

    def output_shape(self, input_shape: Shape) -> Shape:
        """``(out_features,)``."""
        del input_shape
        return (self.out_features,)

    def parameter_shapes(self) -> dict[str, Shape]:
        """``weight`` (out, in) and ``bias`` (out,)."""
        return {
            f"{self.name}.weight": (self.out_features, self.in_features),
            f"{self.name}.bias": (self.out_features,),
        }

    def flops(self, input_shape: Shape) -> int:
        """Two for each weight."""
        del input_shape
        return 2 * self.in_features * self.out_features


LAYERS: Final[tuple[Layer, ...]] = (
    Conv2d("conv1", in_channels=3, out_channels=6, kernel=5),
    ReLU("relu1"),
    MaxPool2d("pool1", window=2),
    Conv2d("conv2", in_channels=6, out_channels=16, kernel=5),
    ReLU("relu2"),
    MaxPool2d("pool2", window=2),
    Flatten("flatten"),
    Linear("fc1", in_features=400, out_features=120),
    ReLU("relu3"),
    Linear("fc2", in_features=120, out_features=84),
    ReLU("relu4"),
    Linear("fc3", in_features=84, out_features=CLASSES),
)


@dataclass(frozen=True, slots=True)
class Stage:
    """A layer at its place in the network.

    Attributes:
        layer: The layer.
        input_shape: Shape of one image's input to it.
        output_shape: Shape of one image's output from it.
        parameters: Number of its parameters.
        flops: Its floating-point operations for one image (see `Layer.flops`).
    """

    layer: Layer
    input_shape: Shape
    output_shape: Shape
    parameters: int
    flops: int


def _stages() -> Iterator[Stage]:
    shape = INPUT_SHAPE
    for layer in LAYERS:
        output = layer.output_shape(shape)
        parameters = sum(prod(s) for s in layer.parameter_shapes().values())
        yield Stage(layer, shape, output, parameters, layer.flops(shape))
        shape = output


STAGES: Final[tuple[Stage, ...]] = tuple(_stages())
PARAMETER_SHAPES: Final[Mapping[str, Shape]] = MappingProxyType(
    {name: shape for layer in LAYERS for name, shape in layer.parameter_shapes().items()}
)
PARAMETER_COUNT: Final = sum(stage.parameters for stage in STAGES)
FLOPS_PER_IMAGE: Final = sum(stage.flops for stage in STAGES)
