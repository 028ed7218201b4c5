"""``lenet export``: write the network as an ONNX model."""

from __future__ import annotations

import time
from pathlib import Path

import click

from lenet.cli.options import onnx_precision_option, weights_option, write_model
from lenet.report.rounding import significant

__all__ = ["command"]


@click.command("export")
@click.option("--onnx", "out", type=click.Path(path_type=Path), required=True, help="The file to write.")
@weights_option
@onnx_precision_option
def command(*, out: Path, path: Path | None, precision: str) -> None:
    """Write LeNet as an ONNX model with a dynamic batch. Its input and output are float32 at every precision."""
    from lenet import weights
    from lenet.backends.precision import DTYPES
    from lenet.export import to_onnx
    from lenet.progress import Steps
    from lenet.vocabulary import Precision

    arrays = weights.load(path or weights.SHIPPED).arrays
    started = time.perf_counter()
    with Steps(1) as steps:
        steps.begin("exporting")
        model = to_onnx(arrays, DTYPES[Precision(precision)])
    write_model(out, model, f"exported in {significant(time.perf_counter() - started)} s")
