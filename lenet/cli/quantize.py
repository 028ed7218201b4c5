"""``lenet quantize``: make the scales of an 8-bit network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lenet.cli.options import TypedPath, data_option, download_option, load_split, unknown_option, weights_option
from lenet.terminal import tell

if TYPE_CHECKING:
    from lenet.errors import QuantizationError
    from lenet.vocabulary import Precision
    from lenet.weights import Arrays

__all__ = ["command"]


@click.command("quantize")
@click.option("--precision", type=click.Choice(["int8", "fp8"]), required=True, help="The network to make scales for.")
@weights_option
@click.option(
    "--out",
    type=TypedPath(file_okay=False),
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
    files, so name another directory for other scales of them. Scales of the same weights and range are replaced; any
    other file is kept, and refused.
    """
    from lenet import quantization, weights
    from lenet.files import make_directory, read_regular, write_atomically
    from lenet.vocabulary import Precision

    source, asked = path or weights.SHIPPED, Precision(precision)
    target = quantization.path_beside(source if out is None else out / source.name, asked)
    if out is None and source == weights.SHIPPED:
        raise _shipped(asked)
    arrays = weights.load(source).arrays
    _refuse_to_replace(target, arrays, asked, reduce_range=reduce_range)
    if out is not None:
        _refuse_other_weights(out / source.name, source)
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


def _shipped(precision: Precision) -> QuantizationError:
    from lenet.errors import QuantizationError

    return QuantizationError(
        "the shipped weights have scales, which are not to be replaced",
        found="neither --weights nor --out",
        wanted="weights of your own, or a directory to write to",
        hint=f"lenet quantize --precision {precision} --out quantized",
    )


def _refuse_to_replace(target: Path, arrays: Arrays, precision: Precision, *, reduce_range: bool) -> None:
    """Refuse to replace a file other than scales of these weights for the same range.

    Raises:
        QuantizationError: It is such a file.
    """
    from lenet import quantization
    from lenet.errors import LenetError

    if not target.exists():
        return
    ranges = {True: "a reduced range", False: "the whole range"}
    try:
        reduced = bool(quantization.load(target, arrays, precision).notes.get("reduce_range"))
    except LenetError as error:
        raise _kept(target, f"{error.summary}: {error.found}", f"{precision} scales of these weights") from error
    if reduced != reduce_range:
        raise _kept(target, f"scales for {ranges[reduced]}", f"scales for {ranges[reduce_range]}")


def _refuse_other_weights(copy: Path, source: Path) -> None:
    """Refuse to replace a file by a copy of the weights, unless it is one.

    Raises:
        QuantizationError: It is another file.
    """
    from lenet import weights
    from lenet.files import read_regular

    if not copy.exists():
        return
    try:
        alike = read_regular(copy, weights.LARGEST) == read_regular(source, weights.LARGEST)
    except OSError as error:
        raise _kept(copy, error.strerror or str(error), f"a copy of {source}") from error
    if not alike:
        raise _kept(copy, "another content", f"a copy of {source}")


def _kept(path: Path, found: str, wanted: str) -> QuantizationError:
    from lenet.errors import QuantizationError

    return QuantizationError(
        f"{path} is there, and is not replaced",
        found=found,
        wanted=f"no file, or {wanted}",
        hint="delete it, or name another directory with --out",
    )
