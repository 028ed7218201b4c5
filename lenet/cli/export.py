"""``lenet export``: write the network as an ONNX model."""

from __future__ import annotations

import time
from pathlib import Path

import click

from lenet.cli.options import TypedPath, onnx_precision_option, weights_option, write_model
from lenet.report.rounding import significant

__all__ = ["command"]


@click.command("export")
@click.option("--onnx", "out", type=TypedPath(), required=True, help="The file to write.")
@weights_option
@onnx_precision_option
def command(*, out: Path, path: Path | None, precision: str) -> None:
    """Write LeNet as an ONNX model with a dynamic batch. Its input and output are float32 at every precision."""
    import torch

    from lenet import weights
    from lenet.backends.base import BatchRange, BuildSpec
    from lenet.backends.onnx_model import onnx_model
    from lenet.progress import Steps
    from lenet.quantization import scales_beside
    from lenet.vocabulary import Precision

    loaded, asked = weights.load(path or weights.SHIPPED), Precision(precision)
    scales = scales_beside(loaded.path, loaded.arrays, asked)
    spec = BuildSpec(torch.device("cpu"), asked, BatchRange.exactly(1), scales=scales)
    started = time.perf_counter()
    with Steps(1) as steps:
        steps.begin("exporting")
        model = onnx_model(loaded.arrays, spec)
    write_model(out, model, f"exported in {significant(time.perf_counter() - started)} s")
