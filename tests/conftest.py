"""What all tests share."""

from __future__ import annotations

from tests.standins.mlir_tensorrt_cpu.isolation import (
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_runtest_protocol,
    pytest_runtestloop,
)

__all__ = [
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_runtest_protocol",
    "pytest_runtestloop",
]
