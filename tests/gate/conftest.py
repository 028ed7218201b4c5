from __future__ import annotations

from pathlib import Path

import pytest

from tests.gate.scripted import Gate


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gate:
    return Gate(monkeypatch, tmp_path, own_environments=False)
