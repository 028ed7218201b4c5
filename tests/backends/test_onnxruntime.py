"""What an ONNX Runtime session says of the provider that it computes on, against the one that was asked for."""

from __future__ import annotations

import importlib

import pytest
import torch

from lenet import backends
from lenet.backends.base import BatchRange, BuildSpec
from lenet.backends.onnxruntime import open_session, refuse_fallback
from lenet.errors import BackendError
from lenet.vocabulary import Precision

pytest.importorskip("onnxruntime", reason='pip install -e ".[onnx]"')

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"


class Listed:
    """A session that lists a provider which does not have the layers, as ONNX Runtime does after it fell back."""

    def __init__(self, session: object) -> None:
        self._session = session

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def __getattr__(self, name: str) -> object:
        return getattr(self._session, name)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_two_versions_in_one_environment_are_refused(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where one distribution wrote over the other's files: the version that rows record is not what runs."""
    monkeypatch.setattr("lenet.backends.onnxruntime.installed_version", lambda _: "1.99.0")
    real = importlib.import_module("onnxruntime").__version__
    reason = str(backends.load("onnxruntime").probe(torch.device(device)).reason)
    assert reason.startswith(f"two versions in one environment: onnxruntime {real} is imported, 1.99.0 is installed: ")
    assert "uninstall --yes onnxruntime onnxruntime-gpu && " in reason
    assert reason.endswith({"cpu": 'install -e ".[onnx]"', "cuda": 'install -e ".[onnx-gpu]"'}[device])


def test_a_layer_on_another_provider_is_refused_and_named(onnx_models: dict[torch.dtype, bytes]) -> None:
    spec = BuildSpec(torch.device("cpu"), Precision.FP32, BatchRange(1, 2, 4))
    session = open_session(onnx_models[torch.float32], spec, None)
    refuse_fallback(session, CPU)
    with pytest.raises(BackendError, match="fell back to another provider") as missing:
        refuse_fallback(session, CUDA)
    assert CPU in missing.value.found
    if not hasattr(session, "get_provider_graph_assignment_info"):
        pytest.skip("this ONNX Runtime does not tell where it puts a node")
    with pytest.raises(BackendError, match="fell back to another provider") as listed:
        refuse_fallback(Listed(session), CUDA)
    assert listed.value.found.count(f" on {CPU}") == 7, "two convolutions, two poolings, three matrix products"
