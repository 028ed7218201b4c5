"""What the scripts share: test images, Markdown tables, variance components, and failures that do not stop the rest."""

from __future__ import annotations

import argparse
import math
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2, f

from lenet.data import cifar10
from lenet.data.cifar10 import Split
from lenet.data.synthetic import synthetic

TRAIN_IMAGES = 50_000
TEST_IMAGES = 10_000

failures: list[str] = []
"""What `told` saw fail."""


def add_image_options(parser: argparse.ArgumentParser, count: int) -> None:
    """Add the options that `test_images` reads."""
    parser.add_argument("--images", type=int, default=count, help="the first so many test images (%(default)s)")
    add_synthetic_option(parser)


def add_synthetic_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that `train_and_test` reads."""
    parser.add_argument("--synthetic", action="store_true", help="seeded noise in the place of CIFAR-10")


def train_and_test(option: argparse.Namespace) -> tuple[Split, Split]:
    """CIFAR-10's training and test images in ``LENET_DATA``, or noise with ``--synthetic``.

    Raises:
        DataError: CIFAR-10 is not there.
    """
    if option.synthetic:
        return synthetic(TRAIN_IMAGES), synthetic(TEST_IMAGES)
    directory = cifar10.default_directory(None)
    return cifar10.load("train", directory), cifar10.load("test", directory)


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


@dataclass(frozen=True)
class Components:
    """What groups share, and what varies within them.

    Attributes:
        between: Standard deviation of what a group shares; 0 if the groups differ no more than by chance.
        low: Lower limit of its 95 % interval.
        high: Upper limit.
        within: Standard deviation within a group.
        p: Of the F test for "groups share nothing".
    """

    between: float
    low: float
    high: float
    within: float
    p: float

    def __str__(self) -> str:
        return f"{self.between:.2%} [{self.low:.2%}, {self.high:.2%}] | {self.within:.2%} | {self.p:.2g}"


def components(groups: Sequence[Sequence[float]], *, rounds: bool = False) -> Components:
    """The variance components of a one-way layout with random groups.

    Searle, S. R., Casella, G. and McCulloch, C. E. (1992), Variance Components, chapter 3. The interval is that of
    Williams, J. S. (1962), A confidence interval for variance components, Biometrika 49. It is exact within its bounds
    for groups of one size, and approximate otherwise.

    Args:
        groups: The values of each group; at least two groups, one of them with at least two values.
        rounds: Whether the values at one position of all groups belong together, as where the groups took turns. What
            they share is removed.
    """
    values = [np.asarray(group, float) for group in groups]
    if rounds:
        together = np.mean(values, 0)
        values = [group - together for group in values]
    sizes, everything = np.array([len(group) for group in values]), np.concatenate(values)
    size = (sizes.sum() - (sizes**2).sum() / sizes.sum()) / (len(sizes) - 1)
    degrees = len(sizes) - 1, int(sizes.sum()) - len(sizes) - rounds * (int(sizes[0]) - 1)
    shared = float(sum(len(group) * (group.mean() - everything.mean()) ** 2 for group in values))
    error = float(sum(((group - group.mean()) ** 2).sum() for group in values)) / degrees[1]
    ratio = shared / degrees[0] / error

    def limit(tail: float) -> float:
        excess = shared * (1 - f.ppf(tail, *degrees) / ratio) / (size * chi2.ppf(tail, degrees[0]))
        return math.sqrt(max(0.0, float(excess)))

    between = math.sqrt(max(0.0, (shared / degrees[0] - error) / float(size)))
    return Components(between, limit(0.975), limit(0.025), math.sqrt(error), float(f.sf(ratio, *degrees)))
