"""Options that several commands share, and helpers for them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lenet.files import typed_path
from lenet.report.rounding import count
from lenet.terminal import tell
from lenet.vocabulary import Precision

if TYPE_CHECKING:
    from lenet.data.cifar10 import Split

__all__ = [
    "TypedPath",
    "data_option",
    "device_option",
    "download_option",
    "example_option",
    "load_split",
    "onnx_precision_option",
    "precision_option",
    "refuse_files_of_example",
    "storage_option",
    "threads_option",
    "unknown_option",
    "weights_option",
    "write_model",
]


class TypedPath(click.Path):
    """A path that is not empty."""

    def __init__(self, **more: Any) -> None:
        super().__init__(path_type=Path, **more)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path of such a text."""
        name = param.opts[0] if isinstance(param, click.Option) else "FILE"
        return super().convert(typed_path(value, name) if isinstance(value, str) else value, param, ctx)


data_option = click.option(
    "--data",
    type=TypedPath(),
    help="Directory that holds cifar-10-batches-py or cifar-10-batches-bin.  [default: $LENET_DATA, else ./data]",
)


unknown_option = click.option(
    "--accept-unknown-data",
    "accept_unknown",
    is_flag=True,
    help="Use a cifar-10-batches-bin with other than the official files. Results then say so.",
)


download_option = click.option(
    "--download", is_flag=True, help="Fetch CIFAR-10 into the data directory first (170 MB)."
)


device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where to compute."
)


threads_option = click.option(
    "--threads", type=click.IntRange(1, 1024), help="CPU threads of PyTorch.  [default: PyTorch's own choice]"
)


weights_option = click.option("--weights", "path", type=TypedPath(), help="A weights file.  [default: the shipped one]")


storage_option = click.option(
    "--storage",
    type=TypedPath(),
    default=Path(".benchmarks"),
    show_default=True,
    help="Directory of the baselines, which holds the saved runs in its directory local.",
)


example_option = click.option("--example", is_flag=True, help="Show the measurements that lenet-bench ships.")


def refuse_files_of_example(files: tuple[Path, ...], *, example: bool) -> None:
    """Refuse FILES beside --example.

    Raises:
        click.UsageError: There are FILES.
    """
    if example and files:
        raise click.UsageError("--example takes the place of FILES: leave one out")


def _precision(choices: Iterable[Precision]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    words = click.Choice([one.value for one in choices])
    default = Precision.FP32.value
    return click.option("--precision", type=words, default=default, show_default=True, help="Arithmetic to ask for.")


onnx_precision_option = _precision(one for one in Precision if one is not Precision.FP16X2)


precision_option = _precision(Precision)


def load_split(split: Any, data: Path | None, *, accept_unknown: bool, download: bool = False) -> Split:
    """Load the images that the options name, after the download that they may ask for."""
    from lenet.data import cifar10

    directory = cifar10.default_directory(data)
    if download:
        cifar10.download(directory)
    fetch = f"add --download to `lenet {click.get_current_context().info_name}`, which then fetches it (170 MB)"
    return cifar10.load(split, directory, accept_unknown=accept_unknown, fetch=fetch)


def write_model(path: Path, content: bytes, times: str) -> None:
    """Write a model or an engine, and print its path, size, digest and times."""
    from lenet.files import write_atomically

    write_atomically(path, content)
    tell(f"{path}: {count(len(content))} bytes, sha256 {hashlib.sha256(content).hexdigest()}, {times}")
