"""What tests and benchmarks share: where CIFAR-10 is, and which repository git is asked about."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lenet.data import cifar10
from lenet.errors import DataError
from lenet.provenance import without_git_variables
from lenet.suite.options import path_of


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lenet", "LeNet")
    group.addoption("--data", type=path_of("--data"), help="directory of CIFAR-10 (default: $LENET_DATA, else ./data)")
    group.addoption("--synthetic", action="store_true", help="seeded synthetic images, whatever data is here")
    text = "use a cifar-10-batches-bin whose files are not the official ones; rows then say so"
    group.addoption("--accept-unknown-data", action="store_true", help=text)


_data_key = pytest.StashKey[Path | None]()


def pytest_configure(config: pytest.Config) -> None:
    """Find the data before anything runs: where a directory was asked for, nothing takes its place.

    Git is asked about this repository, also from a hook of another: pytest-benchmark does, and tests start git.
    """
    for name in os.environ.keys() - without_git_variables().keys():
        del os.environ[name]
    if directory := os.environ.get("LENET_DATA"):  # also of processes that start elsewhere
        os.environ["LENET_DATA"] = str(Path(directory).resolve())
    option = config.getoption("--data")
    if config.getoption("--synthetic"):
        if option is not None:
            raise pytest.UsageError("--data and --synthetic name two kinds of images: name one")
        config.stash[_data_key] = None
        return
    try:
        config.stash[_data_key] = cifar10.chosen_directory(option)
    except DataError as error:
        raise pytest.UsageError(str(error)) from error


@pytest.fixture(scope="session")
def data_directory(request: pytest.FixtureRequest) -> Path | None:
    """The directory that holds CIFAR-10, or None where there is none or synthetic images are asked for."""
    return request.config.stash[_data_key]
