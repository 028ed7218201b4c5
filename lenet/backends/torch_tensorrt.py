"""Torch-TensorRT: PyTorch's exported program as one TensorRT engine, which Torch-TensorRT's own module runs.

Two distributions hold the package ``torch_tensorrt``: ``torch-tensorrt`` builds by TensorRT, ``torch-tensorrt-rtx`` by
TensorRT for RTX. Their Python code is the same. Networks are strongly typed: the program says which type an operator
runs in. The builder chooses only whether float32 operands may be rounded to TF32, and it is always told.

The whole program is converted, so no operator falls back to PyTorch. Source: https://docs.pytorch.org/TensorRT/, pages
"Extracting a Raw TensorRT Engine" and "Runtime API", and the Python code of release 2.14.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import torch
from packaging.requirements import Requirement
from torch.export import ExportedProgram

from lenet.architecture import INPUT_SHAPE
from lenet.backends import entry, installed_version, tensorrt_versions
from lenet.backends.base import Availability, BuildSpec, Runner
from lenet.backends.exported import digest_of, export
from lenet.backends.precision import DTYPES
from lenet.backends.pytorch_eager import PyTorchRunner
from lenet.backends.tensorrt import TensorRT
from lenet.backends.tensorrt_api import DEFAULT_LEVEL
from lenet.backends.tensorrt_engine import StronglyTyped, Version, dotted
from lenet.backends.tensorrt_rtx import TensorRTRTX, targets
from lenet.engine_cache import Cached, EngineCache, EngineKey, EngineRefusedError, default_directory
from lenet.errors import BackendError
from lenet.export import INPUT, OUTPUT
from lenet.models.pytorch_lenet import network
from lenet.provenance import package_version, program
from lenet.vocabulary import Precision

__all__ = ["TorchTensorRT", "TorchTensorRTRTX", "convert"]

_DISTRIBUTIONS: Final = ("torch-tensorrt", "torch-tensorrt-rtx")
_OLDEST: Final = (2, 14)
"""The first release whose networks are strongly typed without being told: it has TensorRT 11."""


class TorchTensorRT(StronglyTyped):
    """Torch-TensorRT on TensorRT. A pass runs the engine without a CUDA graph.

    Attributes:
        builder: The backend of the library that builds and runs the engine.
    """

    name: ClassVar[str] = "torch-tensorrt"
    precisions: ClassVar[tuple[str, ...]] = tuple(DTYPES)
    builder: ClassVar[str] = TensorRT.name
    before_ampere: ClassVar[tuple[Precision, ...]] = TensorRT.before_ampere

    def probe(self, device: torch.device) -> Availability:
        """Available on CUDA, where all that its distribution requires is installed and it can be loaded."""
        version = installed_version(entry(self.name))
        # PyTorch finds a GPU, or nothing is imported: the package's import asks the driver for one, and fails.
        if reason := self._other_device(device) or self._not_installed() or self._problem():
            return Availability(version, reason)
        if reason := self._missing_device(device):
            return Availability(version, reason)
        try:
            _library()
        except Exception as error:  # noqa: BLE001 - an installed library can fail to load in any way
            return Availability(version, f"torch_tensorrt cannot be loaded: {error}", broken=True)
        return Availability(version, self._unsupported_gpu(torch.cuda.get_device_capability(device)))

    def _problem(self) -> str | None:
        """What is wrong with the installed distributions, with what to do; None where nothing is."""
        line = entry(self.name)
        own, version = line.packages[0][0], installed_version(line)
        found = [name for name in _DISTRIBUTIONS if package_version(name)]
        if len(found) > 1:
            remove = f"{program('pip')} uninstall --yes {' '.join(found)}"
            return f"{' and '.join(found)} overwrite each other's files: {remove} && {line.install}"
        try:
            tensorrt_versions.refuse_two(replace(entry(self.builder), name=self.name, requirements=line.requirements))
        except BackendError as error:
            return f"{error.found}, {error.wanted} is wanted: {error.hint}"
        if tensorrt_versions.release(version or "") < _OLDEST:
            return f"{own} {version} is too old, at least {dotted(_OLDEST)} is wanted: {line.install}"
        unmet = _unmet(own)
        return f"{own} {version} requires {' and '.join(unmet)}: {line.install}" if unmet else None

    def _unsupported_gpu(self, capability: Version) -> str | None:
        """Why the library does not run on a GPU of this compute capability; None where it does."""
        del capability
        return None

    def _settle(self, library: Any, module: Any) -> None:
        """Choose the settings of a module whose engine is not loaded yet."""

    def _build(self, arrays: Mapping[str, np.ndarray], spec: BuildSpec) -> Runner:
        library = _library()
        lenet = network(arrays, DTYPES[spec.precision], spec.image_dtype)
        exported = export(lenet, spec)
        built_by = installed_version(entry(self.builder)) or ""
        capability = torch.cuda.get_device_capability(spec.device)
        key: EngineKey = {
            "source": digest_of(lenet, exported),
            "library": self.name,
            "version": f"{library.__version__}, torch {torch.__version__}, {self.builder} {built_by}",
            "target": f"{torch.cuda.get_device_name(spec.device)}, compute capability {dotted(capability)}",
            "precision": spec.precision,
            "input": spec.input,
            "batches": (spec.batches.minimum, spec.batches.optimum, spec.batches.maximum),
            "optimization_level": DEFAULT_LEVEL,
        }
        build = functools.partial(convert, library, exported, spec)
        load = _Loader(library, spec.device, self)
        try:
            with torch.cuda.device(spec.device):  # it builds for the current device
                engine = EngineCache(default_directory()).load_or_build(key, build, load)
        except EngineRefusedError as error:
            raise _refusal(library, load.problem, "loads the engine that it just built") from error
        runner = _EngineRunner(engine, built_by, spec)
        with runner.on_stream():  # TensorRT for RTX compiles its kernels in the first pass
            runner.forward(torch.zeros(spec.batches.optimum, *INPUT_SHAPE, dtype=spec.image_dtype, device=spec.device))
        runner.synchronize()
        return runner


class TorchTensorRTRTX(TorchTensorRT):
    """Torch-TensorRT on TensorRT for RTX, which compiles the kernels on the GPU at hand when they are first run."""

    name: ClassVar[str] = "torch-tensorrt-rtx"
    builder: ClassVar[str] = TensorRTRTX.name
    before_ampere: ClassVar[tuple[Precision, ...]] = TensorRTRTX.before_ampere

    def _unsupported_gpu(self, capability: Version) -> str | None:
        known = targets(importlib.import_module(TensorRTRTX.module))
        if f"sm{capability[0]}{capability[1]}" in known:
            return None
        return f"{self.builder} runs on {', '.join(known)}, not on compute capability {dotted(capability)}"

    def _settle(self, library: Any, module: Any) -> None:
        # By default the first passes run on fallback kernels, and compiled ones lie where another user can put some.
        module.runtime_settings = library.runtime.RuntimeSettings(
            dynamic_shapes_kernel_specialization_strategy="eager", runtime_cache=None
        )


class _EngineRunner(PyTorchRunner):
    """Calls Torch-TensorRT's module of an engine, which queues it on PyTorch's current stream."""

    def __init__(self, engine: Cached[Any], built_by: str, spec: BuildSpec) -> None:
        super().__init__(engine.value, spec)
        self._engine = engine
        self._built_by = built_by

    def facts(self, *, zero_copy: bool = False) -> dict[str, str]:
        """The version of TensorRT, and the SHA-256 of the engine: building it again may choose other kernels."""
        del zero_copy
        return {"library_version": self._built_by, "plan_sha256": self._engine.sha256}


class _Loader:
    """Loads an engine into Torch-TensorRT's module; None where it is refused, for the reason ``problem``."""

    def __init__(self, library: Any, device: torch.device, backend: TorchTensorRT) -> None:
        self._library = library
        self._device = device
        self._backend = backend
        self.problem = ""

    def __call__(self, plan: bytes) -> Any | None:
        library = self._library
        settings = library.dynamo.CompilationSettings(device=_device(library, self._device), lazy_engine_init=True)
        with _without_warnings():
            module = library.runtime.TorchTensorRTModule(plan, [INPUT], [OUTPUT], name="lenet", settings=settings)
            self._backend._settle(library, module)  # noqa: SLF001 - a part of it
            try:
                module.setup_engine()
            except RuntimeError as error:
                self.problem = str(error)
                return None
        return module


def convert(library: Any, exported: ExportedProgram, spec: BuildSpec) -> bytes:
    """Build a serialised engine of a whole program for the current GPU.

    Args:
        library: ``torch_tensorrt``.
        exported: The program, on the CPU.
        spec: Names the precision, the batch sizes, and the device.

    Raises:
        BackendError: The library does not know an option, refuses an operator, or cannot build the engine.
    """
    batches = spec.batches
    sizes = {"min": batches.minimum, "opt": batches.optimum, "max": batches.maximum}
    shapes = {f"{name}_shape": (size, *INPUT_SHAPE) for name, size in sizes.items()}
    if batches.static:
        shapes = {"shape": shapes["opt_shape"]}
    build = library.dynamo.convert_exported_program_to_serialized_trt_engine
    with tempfile.TemporaryDirectory(prefix="lenet-") as folder:
        options = {
            "arg_inputs": [library.Input(**shapes, dtype=spec.image_dtype)],
            "device": _device(library, spec.device),
            "disable_tf32": spec.precision is not Precision.TF32,
            "optimization_level": DEFAULT_LEVEL,
            # By default a file of a known name in the temporary directory, which another user can make first.
            "timing_cache_path": str(Path(folder, "timing.cache")),
            "arg_input_binding_names": (INPUT,),
            "output_binding_names": OUTPUT,
        }
        # It takes any name: an option that another release has not would be left out in silence.
        if unknown := options.keys() - inspect.signature(build).parameters.keys():
            raise _refusal(library, f"it has no option {', '.join(sorted(unknown))}", "has the options of 2.14")
        try:
            with _without_warnings():
                return bytes(build(exported, **options))
        except Exception as error:
            cause: BaseException = error
            while cause.__cause__ is not None:  # which names the operator
                cause = cause.__cause__
            raise _refusal(library, str(cause).partition("\n")[0] or repr(cause), "converts as a whole") from error


def _device(library: Any, device: torch.device) -> Any:
    return library.Device(gpu_id=device.index or 0)


def _library() -> Any:
    """Import ``torch_tensorrt``, which prints, logs and takes over Python's warnings while it is imported."""
    logger = logging.getLogger("torch_tensorrt")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)  # what it logs of an error, the error says as well
    with _without_warnings(), redirect_stdout(sys.stderr):
        return importlib.import_module("torch_tensorrt")


@contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _unmet(distribution: str) -> list[str]:
    """What a distribution requires and the environment has not, each with the version that is installed."""
    found = []
    for one in map(Requirement, metadata.requires(distribution) or ()):
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        version = package_version(one.name)
        if version is None or not one.specifier.contains(version, prereleases=True):
            installed = f"{version} is installed" if version else "not installed"
            found.append(f"{one.name}{one.specifier} ({installed})")
    return found


def _refusal(library: Any, found: str, does: str) -> BackendError:
    return BackendError(
        "Torch-TensorRT refuses the network",
        found=found,
        wanted=f"a network that torch_tensorrt {library.__version__} {does}",
        hint="act on TensorRT's messages on standard error, or try another version of torch-tensorrt",
    )
