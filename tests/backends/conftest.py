from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lenet.backends.tensorrt import TensorRT
from lenet.backends.tensorrt_api import logger
from tests.backends.tensorrt_fakes import Fake, in_every_version


@pytest.fixture(params=in_every_version(TensorRT()))
def fake(
    request: pytest.FixtureRequest, arrays: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fake]:
    """Of TensorRT, or of the backend that a test is parametrised with, in every version."""
    yield Fake(arrays, tmp_path / "cache", monkeypatch, *request.param)
    logger.cache_clear()


@pytest.fixture
def cache_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    directory = tmp_path / "cache"
    monkeypatch.setenv("LENET_CACHE", str(directory))
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    return directory
