from __future__ import annotations

import pytest

from tests.measurement.fakes import FakeGpu, fake_h100


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    fake_h100(monkeypatch)
    return FakeGpu(monkeypatch)
