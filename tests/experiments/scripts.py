"""The scripts of `experiments/` as modules."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def load(name: str) -> ModuleType:
    """Import a script, which finds its neighbours as it does where Python runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXPERIMENTS)
        return importlib.import_module(name)
