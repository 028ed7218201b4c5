"""The table of backends. Reading it imports no vendor library: a backend's module is named, and imported on use."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lenet.errors import BackendError, did_you_mean
from lenet.provenance import package_version

if TYPE_CHECKING:
    from lenet.backends.base import Backend

__all__ = ["Entry", "entry", "installed_version", "load", "names"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the table.

    Attributes:
        name: What rows, options and reports call the backend.
        target: ``module:Class`` of its `lenet.backends.base.Backend`.
        distributions: The distributions any one of which holds its library.
        install: The command that installs it.
        summary: What it does, in a few words.
    """

    name: str
    target: str
    distributions: tuple[str, ...]
    install: str
    summary: str


_TABLE: Final = (
    Entry("pytorch", "lenet.backends.pytorch_eager:PyTorchEager", ("torch",), "pip install torch", "PyTorch, eager"),
    Entry(
        "pytorch-compile",
        "lenet.backends.pytorch_compile:PyTorchCompile",
        ("torch",),
        "pip install torch",
        "torch.compile, max-autotune",
    ),
    Entry(
        "pytorch-cudagraph",
        "lenet.backends.pytorch_cudagraph:PyTorchCudaGraph",
        ("torch",),
        "pip install torch",
        "PyTorch, captured CUDA graph",
    ),
    Entry(
        "fused",
        "lenet.backends.fused:Fused",
        ("cuda-core",),
        'pip install "lenet-bench[fused]"',
        "the whole network in one CUDA kernel",
    ),
    Entry(
        "onnxruntime",
        "lenet.backends.onnxruntime:OnnxRuntime",
        ("onnxruntime-gpu", "onnxruntime"),
        'pip install "lenet-bench[onnx]"',
        "ONNX Runtime, CPU or CUDA provider",
    ),
    Entry(
        "tensorrt",
        "lenet.backends.tensorrt:TensorRT",
        ("tensorrt-cu12", "tensorrt"),
        'pip install "lenet-bench[tensorrt]"',
        "TensorRT, an engine tuned on this GPU",
    ),
    Entry(
        "tensorrt-rtx",
        "lenet.backends.tensorrt:TensorRTRTX",
        ("tensorrt-rtx",),
        'pip install "lenet-bench[tensorrt-rtx]"',
        "TensorRT for RTX, kernels compiled on this GPU",
    ),
    Entry(
        "tripy",
        "lenet.backends.tripy:TriPy",
        ("nvtripy",),
        "pip install nvtripy==0.1.7 'tensorrt-cu12>=10.15,<11' "
        "-f https://nvidia.github.io/TensorRT-Incubator/packages.html",
        "NVIDIA's Python front end to TensorRT",
    ),
)
_BY_NAME: Final = {line.name: line for line in _TABLE}


def names() -> tuple[str, ...]:
    """The names of all backends, the baseline first."""
    return tuple(_BY_NAME)


def entry(name: str) -> Entry:
    """The line of a backend.

    Raises:
        BackendError: There is none of this name; the nearest names are given.
    """
    if name not in _BY_NAME:
        raise BackendError(
            f"there is no backend {name!r}",
            found=name,
            wanted=", ".join(_BY_NAME),
            hint=did_you_mean(name, _BY_NAME) or "`lenet backends` lists them",
        )
    return _BY_NAME[name]


def installed_version(line: Entry) -> str | None:
    """Version of the installed distribution that holds a backend's library, or None; nothing is imported."""
    return next((found for found in map(package_version, line.distributions) if found), None)


def load(name: str) -> Backend:
    """Import a backend's module and create the backend.

    Raises:
        BackendError: There is none of this name.
    """
    module, _, attribute = entry(name).target.partition(":")
    backend: Backend = getattr(importlib.import_module(module), attribute)()
    return backend
