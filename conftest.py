"""What tests and benchmarks share: where CIFAR-10 is, and which repository git is asked about."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lenet.data import cifar10
from lenet.provenance import without_git_variables


def pytest_configure() -> None:
    """Ask git about this repository, also from a hook of another: pytest-benchmark does, and tests start git."""
    for name in os.environ.keys() - without_git_variables().keys():
        del os.environ[name]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lenet", "LeNet")
    group.addoption("--data", type=Path, help="directory of CIFAR-10 (default: $LENET_DATA, else ./data)")


@pytest.fixture(scope="session")
def data_directory(request: pytest.FixtureRequest) -> Path | None:
    """The directory that holds CIFAR-10, or None where there is none."""
    directory = cifar10.default_directory(request.config.getoption("--data"))
    return directory if cifar10.find_layout(directory) else None
