"""What the scripts share: test images, Markdown tables, and failures that do not stop the rest."""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from lenet.data import cifar10
from lenet.data.cifar10 import Split
from lenet.data.synthetic import synthetic

TEST_IMAGES = 10_000

failures: list[str] = []
"""What `told` saw fail."""


def add_image_options(parser: argparse.ArgumentParser, count: int) -> None:
    """Add the options that `test_images` reads."""
    parser.add_argument("--images", type=int, default=count, help="the first so many test images (%(default)s)")
    parser.add_argument("--synthetic", action="store_true", help="seeded noise in the place of CIFAR-10")


def test_images(option: argparse.Namespace) -> Split:
    """The first test images of CIFAR-10 in ``LENET_DATA``, or noise with ``--synthetic``.

    Raises:
        DataError: CIFAR-10 is not there.
    """
    split = synthetic(TEST_IMAGES) if option.synthetic else cifar10.load("test", cifar10.default_directory(None))
    return split.head(option.images)


def heading(title: str, *columns: str) -> None:
    """Print a heading, and the head of a table under it."""
    print(f"\n## {title}")
    if columns:
        head(*columns)
    else:
        print()


def head(*columns: str) -> None:
    """Print the head of a table, after an empty line."""
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def row(*cells: object) -> None:
    """Print a row of a table."""
    print(f"| {' | '.join(str(cell) for cell in cells)} |", flush=True)


@contextmanager
def told(what: str) -> Iterator[None]:
    """Print what fails inside, note it in `failures`, and go on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is
        failures.append(what)
        traceback.print_exc()
        print(f"\n**{what} failed:** {type(error).__name__}: {str(error).splitlines()[:1]}\n", flush=True)
