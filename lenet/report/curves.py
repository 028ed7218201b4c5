"""Figures 1 and 2 of the coursework: loss and accuracy over the epochs of a training run."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from lenet.files import write_atomically
from lenet.report.drawing import Axes, Figure, MaxNLocator, settings

__all__ = ["draw", "save"]

_STYLES = (("train", "#1b6ca8", "-"), ("test", "#c8553d", "--"))


def draw(history: list[dict[str, float]]) -> Figure:
    """Mean loss (left) and accuracy (right) over epochs, each for the training and the test images.

    Args:
        history: The rows of ``history.csv``.

    Returns:
        The figure, 10 x 4 inches.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    _plot(loss, history, "loss", 1.0)
    loss.set(title="Mean loss", xlabel="epoch", ylabel="cross-entropy, nats")
    _plot(accuracy, history, "accuracy", 100.0)
    accuracy.set(title="Accuracy", xlabel="epoch", ylabel="images classified rightly, %")
    return figure


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


def _plot(axes: Axes, history: list[dict[str, float]], quantity: str, scale: float) -> None:
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(history) == 1 else ""
    for split, color, line in _STYLES:
        values = [scale * row[f"{split}_{quantity}"] for row in history]
        axes.plot(epochs, values, line, color=color, marker=marker, label=split)
    axes.grid(alpha=0.3)
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend()
