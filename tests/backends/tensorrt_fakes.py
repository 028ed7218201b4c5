"""TensorRT's backends on fakes of the library, of the GPU, its streams and its CUDA graphs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lenet.architecture import INPUT_SHAPE
from lenet.backends import tensorrt, tensorrt_engine, tensorrt_rtx, tensorrt_versions
from lenet.backends.base import BatchRange, BuildSpec, Runner
from lenet.backends.precision import DTYPES
from lenet.backends.tensorrt_engine import TensorRTBackend
from lenet.models.pytorch_lenet import from_weights
from lenet.vocabulary import Precision
from tests.fakes import tensorrt_api
from tests.fakes.tensorrt_api import FakeTensorRT

ROOT = Path(__file__).parents[2]
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
BATCHES = BatchRange(1, 4, 8)
SPEC = BuildSpec(CPU, Precision.FP32, BATCHES)
VERSIONS = {"tensorrt": ("10.15.1.29", "11.4.0.106"), "tensorrt_rtx": ("1.7.1.116",)}
"""What the fake is of, by module: the bounds of what was read from NVIDIA's bindings."""


def fake_library(
    monkeypatch: pytest.MonkeyPatch, backend: TensorRTBackend, version: str = "", arrays: Any = None
) -> FakeTensorRT:
    """A fake in the place of the backend's library."""

    def network(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits: np.ndarray = from_weights(arrays)(torch.from_numpy(images.copy())).numpy()
            return logits

    library = FakeTensorRT(backend.module, version or VERSIONS[backend.module][0], network)
    monkeypatch.setitem(sys.modules, backend.module, library)
    monkeypatch.setattr(tensorrt_versions, "package_version", lambda _: None)  # a real one may be installed
    return library


def fake_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA GeForce RTX 4060 Ti")


class Fake:
    """A backend whose library, GPU, streams and CUDA graphs are fakes, and whose device is the CPU."""

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
        backend: TensorRTBackend,
        version: str,
    ) -> None:
        self.arrays = arrays
        self.directory = directory
        self.backend = backend
        self.library = fake_library(monkeypatch, backend, version, arrays=arrays)
        fake_gpu(monkeypatch, (8, 9))
        monkeypatch.setenv("LENET_CACHE", str(directory))
        monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
        monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
        monkeypatch.setattr(torch.cuda, "CUDAGraph", tensorrt_api.FakeCudaGraph)
        monkeypatch.setattr(torch.cuda, "graph", tensorrt_api.capture)
        monkeypatch.setattr(tensorrt_api.FakeCudaGraph, "library", self.library, raising=False)
        for module in (tensorrt, tensorrt_rtx):
            monkeypatch.setattr(module, "new_stream", lambda _: tensorrt_api.FakeStream(self.library))
        monkeypatch.setattr(
            tensorrt_engine, "onnx_model", lambda _, spec: f"{spec.image_dtype} {DTYPES[spec.precision]}".encode()
        )

    def build(self, spec: BuildSpec = SPEC) -> Runner:
        return self.backend._build(self.arrays, spec)

    def calls(self) -> list[tuple[Any, ...]]:
        return self.library.take_calls()

    def names(self) -> list[str]:
        return [call[0] for call in self.calls()]

    def assert_right(self, logits: torch.Tensor, images: torch.Tensor) -> None:
        with torch.inference_mode():
            torch.testing.assert_close(logits, from_weights(self.arrays)(images), rtol=0, atol=1e-6)


def in_every_version(*of: TensorRTBackend) -> list[Any]:
    return [
        pytest.param((backend, version), id=f"{backend.name}-{version}")
        for backend in of
        for version in VERSIONS[backend.module]
    ]


def fake_of(*of: TensorRTBackend) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("fake", in_every_version(*of), indirect=True)


def images(batch: int) -> torch.Tensor:
    return torch.randn(batch, *INPUT_SHAPE, generator=torch.Generator().manual_seed(batch))
