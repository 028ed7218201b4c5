"""pytest plugin: run the tests marked ``nvtripy_on_cpu``, and no others, in a process with the stand-in installed.

``python -m pytest -p tests.standins.mlir_tensorrt_cpu.plugin``, which ``nox -s standin`` calls. Without this plugin the
marked tests are skipped: nvtripy keeps what it finds at its first import, so a process has either the stand-in or
NVIDIA's compiled half, for good.
"""

from __future__ import annotations

import pytest

from lenet.backends import entry, installed_version
from tests.standins.mlir_tensorrt_cpu import MARKER, install


def pytest_configure(config: pytest.Config) -> None:
    install()
    # nvtripy leaves the file open into which it redirects what its compiler writes.
    config.addinivalue_line("filterwarnings", "ignore:unclosed file <_io.BufferedRandom:ResourceWarning")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    others = [item for item in items if item.get_closest_marker(MARKER) is None]
    items[:] = [item for item in items if item.get_closest_marker(MARKER) is not None]
    config.hook.pytest_deselected(items=others)
    tripy = entry("tripy")
    if installed_version(tripy) is None:
        skip = pytest.mark.skip(reason=f"nvtripy is not installed: {tripy.install} (its front end alone: --no-deps)")
        for item in items:
            item.add_marker(skip)
