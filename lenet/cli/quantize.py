"""``lenet quantize``: make the scales of an 8-bit network."""

from __future__ import annotations

from pathlib import Path

import click

from lenet.cli.options import data_option, download_option, load_split, unknown_option, weights_option
from lenet.terminal import tell

__all__ = ["command"]


@click.command("quantize")
@click.option("--precision", type=click.Choice(["int8", "fp8"]), required=True, help="The network to make scales for.")
@weights_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory to write to, which gets the weights too.  [default: beside the weights]",
)
@click.option(
    "--method",
    type=click.Choice(["max", "percentile", "mse"]),
    default="percentile",
    show_default=True,
    help="How the range of activations is found.",
)
@click.option(
    "--images", "count", type=click.IntRange(1, 50_000), default=256, show_default=True, help="Training images."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the sample of images.")
@click.option("--reduce-range", is_flag=True, help="Keep int8 weights within ±63, for x86 CPUs without VNNI.")
@data_option
@unknown_option
@download_option
def command(
    *,
    precision: str,
    path: Path | None,
    out: Path | None,
    method: str,
    count: int,
    seed: int,
    reduce_range: bool,
    data: Path | None,
    accept_unknown: bool,
    download: bool,
) -> None:
    """Make the scales of an 8-bit network by a calibration on training images.

    The file lies beside the weights, where --precision of the other commands finds it. The shipped weights have such
    files, so name another directory for other scales of them.
    """
    from lenet import quantization, weights
    from lenet.errors import QuantizationError
    from lenet.files import make_directory, read_regular, write_atomically
    from lenet.vocabulary import Precision

    source, asked = path or weights.SHIPPED, Precision(precision)
    target = quantization.path_beside(source if out is None else out / source.name, asked)
    if out is None and source == weights.SHIPPED:
        raise QuantizationError(
            "the shipped weights have scales, which are not to be replaced",
            found="neither --weights nor --out",
            wanted="weights of your own, or a directory to write to",
            hint=f"lenet quantize --precision {precision} --out quantized",
        )
    arrays = weights.load(source).arrays
    split = load_split("train", data, accept_unknown=accept_unknown, download=download)
    scales = quantization.calibrate(
        arrays,
        split.images,
        asked,
        method=quantization.Method(method),
        seed=seed,
        count=count,
        reduce_range=reduce_range,
    )
    if out is not None:
        make_directory(out)
        write_atomically(out / source.name, read_regular(source, weights.LARGEST))
    quantization.save(target, scales)
    tell(f"{target}: {precision} scales by {method} of {scales.notes['images']} images ({split.content}), seed {seed}")
