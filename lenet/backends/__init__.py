"""The table of backends. Reading it imports no vendor library: a backend's module is named, and imported on use."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from lenet.errors import BackendError, did_you_mean
from lenet.provenance import first_version, pip_install, program

if TYPE_CHECKING:
    from lenet.backends.base import Backend

__all__ = [
    "Entry",
    "distributions",
    "entry",
    "installed_version",
    "load",
    "missing_packages",
    "names",
    "not_installed",
    "packages",
]

Package: TypeAlias = tuple[str, ...]
"""A package by its distributions, any one of which holds it; the first is its name in files and tables."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the table.

    Attributes:
        name: What rows, options and reports call the backend.
        target: ``module:Class`` of its `lenet.backends.base.Backend`.
        packages: What it needs and its times depend on, its library first. A run records their versions, and compares
            itself with no run of others.
        requirements: What pip is asked to install for them, in a checkout of this project.
        summary: What it does, in a few words.
        build: The distribution of its library that it needs, if the package's others lack something. Empty otherwise.
    """

    name: str
    target: str
    packages: tuple[Package, ...]
    requirements: str
    summary: str
    build: str = ""

    @property
    def install(self) -> str:
        """The command that installs the packages."""
        return pip_install(self.requirements)


_TORCH: Final = ("torch",)
_TENSORRT: Final = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
_TENSORRT_RTX: Final = ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12")
_EXPORTER: Final = (("onnx",),)
"""What `lenet.export` needs: it makes the graph that a library is given."""

_TABLE: Final = (
    Entry("pytorch", "lenet.backends.pytorch_eager:PyTorchEager", (_TORCH,), "torch", "PyTorch, eager"),
    Entry(
        "pytorch-compile",
        "lenet.backends.pytorch_compile:PyTorchCompile",
        (_TORCH, ("triton",)),
        "torch",
        "torch.compile, max-autotune",
    ),
    Entry(
        "pytorch-cudagraph",
        "lenet.backends.pytorch_cudagraph:PyTorchCudaGraph",
        (_TORCH,),
        "torch",
        "PyTorch, captured CUDA graph",
    ),
    Entry(
        "fused",
        "lenet.backends.fused:Fused",
        (("cuda-core",), ("cuda-bindings",)),
        '-e ".[fused]"',
        "the whole network in one CUDA kernel",
    ),
    Entry(
        "onnxruntime",
        "lenet.backends.onnxruntime:OnnxRuntime",
        (("onnxruntime", "onnxruntime-gpu"), *_EXPORTER),
        '-e ".[onnx]"',
        "ONNX Runtime, CPU or CUDA provider",
    ),
    Entry(
        "onnxruntime-cudagraph",
        "lenet.backends.onnxruntime_cudagraph:OnnxRuntimeCudaGraph",
        (("onnxruntime", "onnxruntime-gpu"), *_EXPORTER),
        '-e ".[onnx-gpu]"',
        "ONNX Runtime, its own CUDA graph",
        build="onnxruntime-gpu",
    ),
    Entry(
        "openvino",
        "lenet.backends.openvino:OpenVINO",
        (("openvino",), *_EXPORTER),
        '-e ".[openvino]"',
        "OpenVINO, on the CPU",
    ),
    Entry(
        "tensorrt",
        "lenet.backends.tensorrt:TensorRT",
        (_TENSORRT, *_EXPORTER),
        '-e ".[tensorrt]"',
        "TensorRT, an engine tuned on this GPU",
    ),
    Entry(
        "tensorrt-rtx",
        "lenet.backends.tensorrt_rtx:TensorRTRTX",
        (_TENSORRT_RTX, *_EXPORTER),
        '-e ".[tensorrt-rtx]"',
        "TensorRT for RTX, kernels compiled on this GPU",
    ),
    Entry(
        "tripy",
        "lenet.backends.tripy:TriPy",
        (("nvtripy",), ("mlir-tensorrt-compiler",), ("mlir-tensorrt-runtime",), _TENSORRT),
        '-e ".[tripy,tensorrt]" -f https://nvidia.github.io/TensorRT-Incubator/packages.html',
        "NVIDIA's Python front end to TensorRT",
    ),
    Entry(
        "pytorch-aot",
        "lenet.backends.pytorch_aot:PyTorchAOT",
        (_TORCH, ("triton",)),
        "torch",
        "torch.export and AOTInductor, max-autotune",
    ),
    Entry(
        "jax",
        "lenet.backends.jax_xla:Jax",
        (("jax",), ("jaxlib",)),
        '-e ".[jax]"',
        "JAX, compiled by XLA",
    ),
    Entry(
        "torch-tensorrt",
        "lenet.backends.torch_tensorrt:TorchTensorRT",
        (("torch-tensorrt",), _TORCH, _TENSORRT),
        '-e ".[torch-tensorrt]"',
        "torch.export and Torch-TensorRT",
    ),
    Entry(
        "torch-tensorrt-rtx",
        "lenet.backends.torch_tensorrt:TorchTensorRTRTX",
        (("torch-tensorrt-rtx",), _TORCH, _TENSORRT_RTX),
        '-e ".[torch-tensorrt-rtx]"',
        "torch.export and Torch-TensorRT, on TensorRT for RTX",
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


def packages() -> dict[str, Package]:
    """The packages of all backends, by name."""
    return {package[0]: package for line in _BY_NAME.values() for package in line.packages}


def distributions() -> tuple[str, ...]:
    """The distributions that may hold a backend's packages, each once."""
    return tuple(dict.fromkeys(name for package in packages().values() for name in package))


def installed_version(line: Entry) -> str | None:
    """Version of a backend's library, or None where it is not installed; nothing is imported."""
    return first_version(line.packages[0])


def missing_packages(line: Entry) -> list[str]:
    """The packages of a backend that are not installed; nothing is imported."""
    return [package[0] for package in line.packages if first_version(package) is None]


def not_installed(line: Entry) -> str | None:
    """Why a backend's library, or the build of it that the backend needs, is not installed; None where it is."""
    version = installed_version(line)
    if version is None:
        return f"not installed: {line.install}"
    if line.build and first_version((line.build,)) is None:
        found = next(name for name in line.packages[0] if first_version((name,)))
        return f"{found} is installed, not {line.build}: {program('pip')} uninstall --yes {found} && {line.install}"
    return None


def load(name: str) -> Backend:
    """Import a backend's module and create the backend.

    Raises:
        BackendError: There is none of this name, or its module cannot be imported or lacks its class.
    """
    line = entry(name)
    module, _, attribute = line.target.partition(":")
    try:
        backend: Backend = getattr(importlib.import_module(module), attribute)()
    except Exception as error:
        raise BackendError(
            f"the backend {name!r} cannot be imported",
            found=f"{type(error).__name__}: {error}",
            wanted=f"the class {attribute} in {module}, as the table in lenet/backends/__init__.py says",
            hint=f"correct the table or the module; if a library is missing: {line.install}",
        ) from error
    return backend
