from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch

from lenet import backends
from lenet.backends.base import BatchRange, BuildSpec, Precision
from lenet.errors import BackendError
from lenet.weights import Arrays

CPU = torch.device("cpu")


@pytest.fixture
def without_inductor(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """TorchDynamo alone, without the compiler behind it, which takes seconds a build; what it was asked is kept."""
    compile_with = torch.compile
    asked: list[dict[str, Any]] = []

    def dynamo_alone(network: torch.nn.Module, **options: Any) -> Any:
        asked.append(options)
        return compile_with(network, backend="eager", fullgraph=True, dynamic=options["dynamic"])

    monkeypatch.setattr(torch, "compile", dynamo_alone)
    return asked


def build(arrays: Arrays, batches: BatchRange) -> None:
    backends.load("pytorch-compile").build(arrays, BuildSpec(CPU, Precision.FP32, batches))


def test_everything_is_tuned_and_a_range_is_dynamic(arrays: Arrays, without_inductor: list[dict[str, Any]]) -> None:
    build(arrays, BatchRange.exactly(3))
    build(arrays, BatchRange(1, 3, 8))
    static, dynamic = without_inductor
    assert static == {"mode": "max-autotune", "fullgraph": True, "dynamic": False}
    assert dynamic == {"mode": "max-autotune", "fullgraph": True, "dynamic": True}


def test_one_process_can_build_more_than_torchdynamo_s_limit(
    arrays: Arrays, without_inductor: list[dict[str, Any]]
) -> None:
    torch.compiler.reset()
    for size in range(2, 14):
        build(arrays, BatchRange.exactly(size))
    assert len(without_inductor) == 12


def test_a_cpu_without_a_compiler_is_told_so(monkeypatch: pytest.MonkeyPatch, arrays: Arrays) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    reason = backends.load("pytorch-compile").probe(CPU).reason
    assert reason == "torch.compile needs a C++ compiler on a CPU: install g++"
    with pytest.raises(BackendError, match="install g"):
        build(arrays, BatchRange.exactly(1))
