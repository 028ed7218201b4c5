"""Engines of stand-ins for TensorRT, which no test of a CPU can load."""

from __future__ import annotations

import hashlib
import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from lenet.gate.why.probe.libraries import engine_layers

DETAILED = {"Name": "conv1 + relu", "LayerType": "CaskConvolution", "TacticName": "sm80_xmma_fprop", "StreamId": 0}
PLAN = b"a plan"


class Engine:
    """An engine of which the inspector tells some layers."""

    def __init__(self, *layers: Any) -> None:
        self._layers = layers

    def create_engine_inspector(self) -> Any:
        text = json.dumps({"Layers": self._layers, "Bindings": ["images"]})
        return SimpleNamespace(get_engine_information=lambda wanted: {"JSON": text}[wanted])


@pytest.fixture(autouse=True)
def _library(monkeypatch: pytest.MonkeyPatch) -> None:
    class Logger:
        ERROR = 1

        def __init__(self, severity: int) -> None:
            pass

    runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: {PLAN: Engine("fc1")}[plan])
    library = SimpleNamespace(
        LayerInformationFormat=SimpleNamespace(JSON="JSON"), Runtime=lambda _: runtime, Logger=Logger
    )
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, library)


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_an_engine_within_a_runner_tells_its_layers_and_tactics(backend: str) -> None:
    runner = SimpleNamespace(_engine=SimpleNamespace(value=Engine(DETAILED, {"Name": "pool", "TacticValue": "0x12"})))
    layers, facts = engine_layers(backend, runner)
    assert layers == [
        {"name": "conv1 + relu", "kind": "CaskConvolution", "tactic": "sm80_xmma_fprop"},
        {"name": "pool", "kind": "", "tactic": "0x12"},
    ]
    assert facts == {}


@pytest.mark.parametrize(
    ("backend", "name"),
    [
        ("tripy", "serialized_tensorrt_engine"),
        ("torch-tensorrt", "serialized_engine"),
        ("torch-tensorrt-rtx", "serialized_engine"),
    ],
)
def test_a_plan_within_a_runner_is_loaded_and_hashed(backend: str, name: str) -> None:
    runner = SimpleNamespace(_held=SimpleNamespace(**{name: PLAN}))
    layers, facts = engine_layers(backend, runner)
    assert layers == [{"name": "fc1", "kind": "", "tactic": ""}]
    assert facts == {"plan_sha256": hashlib.sha256(PLAN).hexdigest()}


def test_a_runner_without_an_engine_is_told() -> None:
    with pytest.raises(LookupError, match="holds no engine"):
        engine_layers("tensorrt", SimpleNamespace(itself=SimpleNamespace()))
