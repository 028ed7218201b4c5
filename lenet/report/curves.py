"""Figures 1 and 2 of the coursework: loss and accuracy over the epochs of a training run.

matplotlib draws them, once for the run directory and once for the page.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from lenet.files import write_atomically
from lenet.report.charts import Chart, Key, Painter
from lenet.report.charts.style import LIGHT, STYLE, WIDTH
from lenet.report.charts.svg import to_svg
from lenet.report.drawing import Axes, Figure, FuncFormatter, MaxNLocator, settings
from lenet.report.language import ENGLISH, Language

__all__ = ["draw", "draw_chart", "save"]

_SPLITS: Final = (("train", "series-1", "--"), ("test", "series-2", "-"))
"""Each split's column in ``history.csv``, its colour and its line."""
_FEW: Final = 15
"""The most epochs whose points are marked. More marks would hide the line."""


def draw(history: Sequence[dict[str, float]]) -> Figure:
    """Mean loss (left) and accuracy (right) over epochs, each for the training and the test images.

    Args:
        history: The rows of ``history.csv``.

    Returns:
        The figure, 10 x 4 inches.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    painter = Painter(ENGLISH)
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        _plot(axes, history, quantity, painter)
        axes.set_title(_titles(ENGLISH)[quantity])
        axes.legend()
    return figure


def draw_chart(painter: Painter, history: Sequence[dict[str, float]], quantity: str) -> Chart:
    """One of the figures as a chart of the page.

    Args:
        painter: The page's painter.
        history: The rows of ``history.csv``.
        quantity: ``loss`` or ``accuracy``.
    """
    names = _names(painter.language)
    with settings(STYLE):
        height = 270
        figure = Figure(figsize=(WIDTH / 72, height / 72))
        figure.patch.set_visible(False)
        axes = figure.add_axes((56 / WIDTH, 38 / height, 1 - 78 / WIDTH, 1 - 50 / height))
        _plot(axes, history, quantity, painter)
        last = "; ".join(
            f"{names[split]}: {painter.shown(_scale(quantity) * history[-1][f'{split}_{quantity}'])}"
            for split, _, _ in _SPLITS
        )
        epoch = f"{history[-1]['epoch']:.0f}"
        text = painter.language.text("After epoch %(epoch)s, %(values)s.", epoch=epoch, values=last)
        keys = [Key(color, "●", names[split]) for split, color, _ in _SPLITS]
        return painter.chart(partial(to_svg, figure), _titles(painter.language)[quantity], text, keys)


def save(directory: Path) -> None:
    """Draw ``history.csv`` of a run directory into ``curves.svg`` and ``curves.png`` (150 dpi) beside it.

    Raises:
        OutputError: A file cannot be written.
    """
    table = io.StringIO(
        (directory / "history.csv").read_bytes().decode(), newline=""
    )  # the training has just written it
    history = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(table)]
    with settings():
        figure = draw(history)
        for kind in ("svg", "png"):
            image = io.BytesIO()
            figure.savefig(image, format=kind, dpi=150)
            write_atomically(directory / f"curves.{kind}", image.getvalue())


def _plot(axes: Axes, history: Sequence[dict[str, float]], quantity: str, painter: Painter) -> None:
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(history) <= _FEW else ""
    text, names = painter.language.text, _names(painter.language)
    for split, color, line in _SPLITS:
        values = [_scale(quantity) * row[f"{split}_{quantity}"] for row in history]
        axes.plot(epochs, values, line, color=LIGHT[color], marker=marker, label=names[split])
    axes.grid(alpha=0.3)
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    units = {"loss": text("cross-entropy, nats"), "accuracy": text("images classified rightly, %%")}
    axes.set(xlabel=text("epoch"), ylabel=units[quantity])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(partial(_tick, painter, axis)))


def _tick(painter: Painter, axis: object, value: float, _place: int | None) -> str:
    places = list(axis.get_majorticklocs())  # type: ignore[attr-defined]
    return dict(zip(places, painter.ticks(places), strict=True)).get(value) or painter.shown(value)


def _scale(quantity: str) -> float:
    return 100.0 if quantity == "accuracy" else 1.0


def _titles(language: Language) -> dict[str, str]:
    return {"loss": language.text("Figure 1. Mean loss"), "accuracy": language.text("Figure 2. Accuracy")}


def _names(language: Language) -> dict[str, str]:
    return {"train": language.text("training images, augmented"), "test": language.text("test images")}
