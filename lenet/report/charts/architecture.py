"""The drawing of the network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lenet.architecture import INPUT_SHAPE, STAGES, Conv2d, Layer, Linear, MaxPool2d, ReLU
from lenet.report.charts.painter import Chart, Painter
from lenet.report.charts.style import INK, MUTED, PAPER, SERIES, STYLE
from lenet.report.drawing import Axes, Figure, Rectangle, settings
from lenet.report.rounding import count

__all__ = ["draw_architecture"]

_WIDE: Final = 1080
_ARROW: Final = {"arrowstyle": "-|>", "color": MUTED, "linewidth": 1.0, "shrinkA": 0, "shrinkB": 0}


def draw_architecture(painter: Painter, title: str) -> Chart:
    """The network, drawn from its layer table: a stack of feature maps or a column for each tensor."""
    text, number = painter.language.text, painter.language.number
    tensors = [_Tensor(text("input"), "", INPUT_SHAPE, 0)]
    for stage in STAGES:
        if isinstance(stage.layer, ReLU):  # it changes no shape, so it stands beside the layer before it
            tensors[-1].operation += " + ReLU"
        else:
            tensors.append(_Tensor(stage.layer.name, _operation(stage.layer), stage.output_shape, stage.parameters))
    with settings({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(_WIDE / 72, 290 / 72))
        figure.patch.set_visible(False)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(0, _WIDE), ylim=(290, 0))
        step, edge = _WIDE / len(tensors), 0.0
        for place, tensor in enumerate(tensors):
            middle = step * (place + 0.5)
            half = _draw_tensor(axes, tensor.shape, middle, SERIES[2 if len(tensor.shape) == 1 else 0])
            if place:
                axes.annotate("", (middle - half - 3, 130), (edge + 3, 130), arrowprops=_ARROW)
            edge = middle + half
            parameters = text("%(count)s par.", count=number(count(tensor.parameters))) if tensor.parameters else ""
            for line, (words, color) in enumerate(
                ((tensor.operation, INK), (tensor.name, MUTED), (_shape(tensor.shape), INK), (parameters, MUTED))
            ):
                axes.text(middle, (18, 236, 254, 272)[line], words, ha="center", va="center", color=color)
        drawn = "; ".join(f"{tensor.name} {tensor.operation} {_shape(tensor.shape)}" for tensor in tensors)
        return painter.chart(figure, title, f"{drawn}.")


@dataclass(slots=True)
class _Tensor:
    name: str
    operation: str
    shape: Sequence[int]
    parameters: int


def _draw_tensor(axes: Axes, shape: Sequence[int], middle: float, color: str) -> float:
    """Draw one image's tensor around a place, as stacked feature maps or as a column. Returns half its width."""
    if len(shape) == 1:
        height = 9 * math.sqrt(shape[0])
        axes.add_patch(Rectangle((middle - 6, 130 - height / 2), 12, height, facecolor=color, edgecolor=PAPER))
        return 6
    channels, height, width = shape[0], 2.3 * shape[1], 2.3 * shape[2]
    shift = 2.2 * (channels - 1) / 2
    for channel in range(channels):
        corner = (middle - width / 2 + shift - 2.2 * channel, 130 - height / 2 - shift + 2.2 * channel)
        axes.add_patch(Rectangle(corner, width, height, facecolor=color, edgecolor=PAPER, linewidth=0.8))
    return width / 2 + shift


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _operation(layer: Layer) -> str:
    match layer:
        case Conv2d():
            return f"Conv {layer.kernel}×{layer.kernel}"
        case MaxPool2d():
            return f"MaxPool {layer.window}×{layer.window}"
        case Linear():
            return "FC"
        case _:
            return type(layer).__name__
