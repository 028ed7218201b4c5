"""``lenet evaluate``: loss and accuracy of the network, or of every backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from lenet.cli.options import (
    data_option,
    device_option,
    download_option,
    load_split,
    precision_option,
    threads_option,
    unknown_option,
    weights_option,
)
from lenet.documents import finite, to_json
from lenet.errors import BackendError, LenetError
from lenet.report.rounding import accuracy, count, loss
from lenet.terminal import tell
from lenet.vocabulary import BASELINE_BACKEND, InputType, Precision

if TYPE_CHECKING:
    import torch

    from lenet.comparison import QuantizationCost
    from lenet.data.cifar10 import Split
    from lenet.weights import Weights

__all__ = ["command"]


@click.command("evaluate")
@weights_option
@click.option("--backend", "names", multiple=True, help="Compare this backend with PyTorch; repeatable, or 'all'.")
@precision_option
@data_option
@unknown_option
@download_option
@device_option
@threads_option
@click.option("--batch-size", type=click.IntRange(min=1), default=1000, show_default=True, help="Images a batch.")
@click.option(
    "--input",
    "input_type",
    type=click.Choice([one.value for one in InputType]),
    default=InputType.FLOAT32.value,
    show_default=True,
    help="What --backend gets: normalised images, or bytes that it normalises on the device.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    *,
    path: Path | None,
    names: tuple[str, ...],
    precision: str,
    data: Path | None,
    accept_unknown: bool,
    download: bool,
    device: str,
    threads: int | None,
    batch_size: int,
    input_type: str,
    as_json: bool,
) -> None:
    """Loss and accuracy on the 10,000 test images.

    With --backend, the coursework's table: each backend's loss, accuracy and largest difference of a logit from a
    float64 reference. Exits with 1 if logits are wrong or not finite, and with 2 if no named backend runs here.
    """
    from lenet import devices, weights
    from lenet.backends.precision import check_override

    if input_type == InputType.UINT8 and not names:
        raise BackendError(
            "without --backend the images are normalised ahead of the network",
            found="--input uint8 and no --backend",
            wanted="--input float32, or a backend that gets the bytes",
            hint="name one with --backend, such as --backend pytorch",
        )
    given = click.get_current_context().get_parameter_source("precision") is ParameterSource.COMMANDLINE
    if given and precision != Precision.FP32 and not names:
        raise BackendError(
            "without --backend the network is computed in fp32",
            found=f"--precision {precision} and no --backend",
            wanted="--precision fp32, or a backend that runs it",
            hint="name one with --backend, such as --backend pytorch",
        )
    target = devices.resolve(device)
    devices.set_threads(threads)
    loaded = weights.load(path or weights.SHIPPED)
    split = load_split("test", data, download=download, accept_unknown=accept_unknown)
    if names:
        _evaluate_backends(names, precision, input_type, loaded, split, target, batch_size, as_json=as_json)
    else:
        check_override(Precision.FP32, target)
        _evaluate_model(loaded, split, target, batch_size, as_json=as_json)


def _evaluate_model(loaded: Weights, split: Split, target: torch.device, batch_size: int, *, as_json: bool) -> None:
    from lenet import devices, weights
    from lenet.models.pytorch_lenet import from_weights
    from lenet.progress import Steps
    from lenet.training import evaluation

    with Steps(1) as steps:
        steps.begin(f"{len(split):,} test images")
        result = evaluation.evaluate(from_weights(loaded.arrays).to(target), split, target, batch_size)
    if as_json:
        document = {
            "weights": str(loaded.path),
            "digest": weights.digest(loaded.arrays),
            "data": split.source,
            "device": devices.describe(target),
            "images": result.images,
            "loss": result.loss,
            "accuracy": result.accuracy,
            "reason": result.problem,
        }
        tell(to_json(finite(document), indent=2))
    else:
        tell(f"{count(result.images)} test images of {split.source}, weights {loaded.path}, {devices.describe(target)}")
        told = f"not finite: {result.problem}" if result.problem else loss(result.loss)
        tell(f"loss      {told}\naccuracy  {accuracy(result.accuracy)}")
    if result.problem:
        raise click.exceptions.Exit(1)


def _told(cost: QuantizationCost, precision: str) -> str:
    """What quantising cost, in a line for each figure."""
    points = 100 * (cost.accuracy - cost.float_accuracy)
    return (
        f"What {precision} costs, without any runtime's error:\n"
        f"accuracy  {accuracy(cost.accuracy)}, float64 {accuracy(cost.float_accuracy)}: {points:+.2f} points\n"
        f"loss      {loss(cost.loss)}, float64 {loss(cost.float_loss)}"
    )


def _evaluate_backends(
    names: tuple[str, ...],
    precision: str,
    input_type: str,
    loaded: Weights,
    split: Split,
    target: torch.device,
    batch_size: int,
    *,
    as_json: bool,
) -> None:
    from lenet import backends as table
    from lenet import weights
    from lenet.comparison import compare_backends, quantization_cost, reference_of
    from lenet.progress import Steps
    from lenet.quantization import scales_beside
    from lenet.report.tables import parity_table, print_whole

    asked, kind = Precision(precision), InputType(input_type)
    scales = scales_beside(loaded.path, loaded.arrays, asked)
    wanted = table.names() if "all" in names else tuple(table.entry(name).name for name in names)
    with Steps(1 + len({BASELINE_BACKEND, *wanted})) as steps:
        steps.begin("the float64 reference")
        reference = reference_of(loaded.arrays, split.images, kind, lambda _: scales) if scales else None
        done, missing = compare_backends(
            wanted,
            loaded.arrays,
            split,
            device=target,
            precision=asked,
            batch_size=batch_size,
            input_type=kind,
            scales=scales,
            reference=reference,
            on_begin=steps.begin,
        )
    lines = [agreement.to_json() for agreement in done]
    digest = weights.digest(loaded.arrays)
    not_run = {line.backend: line.reason for line in missing}
    cost = reference and quantization_cost(reference, split.labels, asked)
    if as_json:
        document = {"images": len(split), "data": split.content, "input": input_type, "weights": digest}
        document |= {"quantization": cost.to_json()} if cost else {}
        tell(to_json(document | {"backends": lines, "not_run": not_run}, indent=2))
    else:
        print_whole(parity_table(lines, not_run, f"{split.content}; weights {digest[:12]}"))
        if cost:
            tell(_told(cost, precision))
    if not done or not all(agreement.right for agreement in done):
        raise click.exceptions.Exit(1 if done else LenetError.exit_code)
