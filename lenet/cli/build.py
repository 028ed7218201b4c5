"""``lenet build``: build an engine ahead of time."""

from __future__ import annotations

import time
from pathlib import Path

import click

from lenet.cli.options import TypedPath, onnx_precision_option, weights_option, write_model
from lenet.report.rounding import significant

__all__ = ["command"]


@click.command("build")
@click.option(
    "--backend",
    type=click.Choice(["tensorrt-rtx"]),
    required=True,
    help="The backend to build for. Only TensorRT for RTX can build for a GPU that is not here.",
)
@click.option("--target", required=True, help="Compute capability to build for, such as sm89 for an RTX 4060 Ti.")
@click.option("--out", type=TypedPath(), required=True, help="The file to write.")
@weights_option
@onnx_precision_option
@click.option("--min-batch", type=int, default=1, show_default=True, help="The smallest batch.")
@click.option("--opt-batch", type=int, default=200, show_default=True, help="The batch to tune for.")
@click.option("--max-batch", type=int, default=10_000, show_default=True, help="The largest batch.")
def command(
    *,
    backend: str,
    target: str,
    out: Path,
    path: Path | None,
    precision: str,
    min_batch: int,
    opt_batch: int,
    max_batch: int,
) -> None:
    """Build an engine ahead of time. This needs no GPU."""
    import torch

    from lenet import weights
    from lenet.backends import load
    from lenet.backends.base import BatchRange, BuildSpec
    from lenet.backends.onnx_model import onnx_model
    from lenet.backends.tensorrt_rtx import TensorRTRTX
    from lenet.progress import Steps
    from lenet.quantization import scales_beside
    from lenet.vocabulary import Precision

    builder = load(backend)
    assert isinstance(builder, TensorRTRTX)
    builder.target(target)  # refuses a bad target before the export, which takes seconds
    asked = Precision(precision)
    batches = BatchRange(min_batch, opt_batch, max_batch)
    loaded = weights.load(path or weights.SHIPPED)
    scales = scales_beside(loaded.path, loaded.arrays, asked)
    spec = BuildSpec(torch.device("cpu"), asked, batches, scales=scales)
    started = time.perf_counter()
    with Steps(2) as steps:
        steps.begin("exporting")
        model = onnx_model(loaded.arrays, spec)
        exported = time.perf_counter()
        steps.begin("building")
        plan = builder.build_ahead(model, asked, batches, target)
    built = time.perf_counter()
    exporting, building = significant(exported - started), significant(built - exported)
    write_model(out, plan, f"exported in {exporting} s, built in {building} s")
