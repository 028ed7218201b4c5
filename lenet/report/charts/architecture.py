"""The drawing of the network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lenet.architecture import INPUT_SHAPE, STAGES, Conv2d, Layer, Linear, MaxPool2d, ReLU
from lenet.report.charts.canvas import Canvas
from lenet.report.charts.painter import Chart, Painter
from lenet.report.rounding import count, shape

__all__ = ["draw_architecture"]

_WIDE: Final = 1080
_MIDDLE: Final = 130
"""Height of the tensors' middles, in CSS pixels from the top."""


def draw_architecture(painter: Painter, title: str) -> Chart:
    """The network, drawn from its layer table: a stack of feature maps or a column for each tensor."""
    text, number = painter.language.text, painter.language.number
    tensors = [_Tensor(text("input"), "", INPUT_SHAPE, 0)]
    for stage in STAGES:
        if isinstance(stage.layer, ReLU):  # it changes no shape, so it stands beside the layer before it
            tensors[-1].operation += " + ReLU"
        else:
            tensors.append(_Tensor(stage.layer.name, _operation(stage.layer), stage.output_shape, stage.parameters))
    canvas = Canvas(_WIDE, 290)
    step, edge = _WIDE / len(tensors), 0.0
    for place, tensor in enumerate(tensors):
        middle = step * (place + 0.5)
        half = _draw_tensor(canvas, tensor.shape, middle)
        if place:
            _draw_arrow(canvas, edge + 3, middle - half - 3)
        edge = middle + half
        parameters = text("%(count)s par.", count=number(count(tensor.parameters))) if tensor.parameters else ""
        lines = (tensor.operation, "ink"), (tensor.name, "muted"), (shape(tensor.shape), "ink"), (parameters, "muted")
        for height, (words, color) in zip((18, 236, 254, 272), lines, strict=True):
            canvas.write(middle, height, words, anchor="middle", color=color)
    drawn = "; ".join(f"{tensor.name} {tensor.operation} {shape(tensor.shape)}" for tensor in tensors)
    return painter.chart(canvas.to_svg, title, f"{drawn}.")


@dataclass(slots=True)
class _Tensor:
    name: str
    operation: str
    shape: Sequence[int]
    parameters: int


def _draw_tensor(canvas: Canvas, sizes: Sequence[int], middle: float) -> float:
    """Draw one image's tensor around a place, as stacked feature maps or as a column. Returns half its width."""
    if len(sizes) == 1:
        height = 9 * math.sqrt(sizes[0])
        canvas.bar(middle - 6, _MIDDLE - height / 2, 12, height, "series-3", "paper")
        return 6
    channels, height, width = sizes[0], 2.3 * sizes[1], 2.3 * sizes[2]
    shift = 2.2 * (channels - 1) / 2
    for channel in range(channels):
        left, top = middle - width / 2 + shift - 2.2 * channel, _MIDDLE - height / 2 - shift + 2.2 * channel
        canvas.bar(left, top, width, height, "series-1", "paper")
    return width / 2 + shift


def _draw_arrow(canvas: Canvas, start: float, end: float) -> None:
    canvas.line([(start, _MIDDLE), (end, _MIDDLE)], "muted")
    canvas.line([(end - 5, _MIDDLE - 3), (end, _MIDDLE), (end - 5, _MIDDLE + 3)], "muted")


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
