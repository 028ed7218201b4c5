"""What tests and benchmarks share: where CIFAR-10 is."""

from __future__ import annotations

from pathlib import Path

import pytest

from lenet.data import cifar10


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lenet", "LeNet")
    group.addoption("--data", type=Path, help="directory of CIFAR-10 (default: $LENET_DATA, else ./data)")


@pytest.fixture(scope="session")
def data_directory(request: pytest.FixtureRequest) -> Path | None:
    """The directory that holds CIFAR-10, or None where there is none."""
    directory = cifar10.default_directory(request.config.getoption("--data"))
    return directory if cifar10.find_layout(directory) else None
