"""A CPU stand-in for the compiled half of nvtripy, for tests alone; README.md says what it proves and what not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

__all__ = ["MARKER", "install", "is_installed"]

MARKER: Final = "nvtripy_on_cpu"
"""Marks the tests that run nvtripy on the stand-in."""
_PACKAGES: Final = Path(__file__).with_name("packages")


def is_installed() -> bool:
    """Whether this process imports the stand-in."""
    return str(_PACKAGES) in sys.path


def install() -> None:
    """Make this process import the stand-in's ``mlir_tensorrt`` and ``tensorrt``, whatever else is installed.

    Raises:
        RuntimeError: One of them, or nvtripy, was imported before: nvtripy keeps objects of theirs from its import on.
    """
    imported = sorted({"mlir_tensorrt", "nvtripy", "tensorrt"} & sys.modules.keys())
    if imported:
        raise RuntimeError(
            f"the stand-in cannot be installed: {', '.join(imported)} is imported already; use a fresh process"
        )
    sys.path.insert(0, str(_PACKAGES))
