"""PyTorch ahead of time: ``torch.export`` and a package that AOTInductor compiles, loaded without Python code in it."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import platform
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import torch
import torch._inductor
from torch._inductor import config as inductor
from torch.export import ExportedProgram

from lenet.architecture import INPUT_SHAPE
from lenet.backends.base import Availability, BuildSpec, Runner
from lenet.backends.exported import digest_of, export
from lenet.backends.inductor import advice, cpp_compiler, keep_caches_private, keep_quiet, shortened
from lenet.backends.precision import allow_tf32
from lenet.backends.pytorch_eager import PyTorchBackend, PyTorchRunner, build_network
from lenet.engine_cache import Cached, EngineCache, EngineKey, EngineRefusedError, default_directory
from lenet.errors import BackendError
from lenet.models.pytorch_lenet import Network
from lenet.provenance import package_version, python
from lenet.vocabulary import Precision

__all__ = ["PyTorchAOT"]

_OPTIONS: Final = {"max_autotune": True}
"""What TorchInductor is asked for, beside its defaults: as `pytorch-compile`, to choose kernels by timing them."""

_NO_SETTINGS: Final = frozenset({"aot_inductor.metadata", "compile_threads", "triton.cudagraph_or_error"})
"""Settings that PyTorch and `pytorch-compile` change while they compile. No package depends on them."""


_LOAD: Final = """
import contextlib, sys
import torch._inductor
with contextlib.suppress(ImportError):  # on Windows; a dump of the memory of a process with a GPU takes a minute
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
torch._inductor.aoti_load_package(sys.argv[1], run_single_threaded=True, device_index=int(sys.argv[2]))
"""

_LOAD_SECONDS: Final = 120.0
"""How long that may take: it imports PyTorch and starts CUDA."""


class PyTorchAOT(PyTorchBackend):
    """A package of machine code that AOTInductor compiles for one batch size or for a range, kept in the engine cache.

    A pass launches its kernels one by one. AOTInductor captures no CUDA graph.
    """

    name: ClassVar[str] = "pytorch-aot"

    def probe(self, device: torch.device) -> Availability:
        """As PyTorch; AOTInductor needs a C++ compiler for every device."""
        availability = super().probe(device)
        if availability and not cpp_compiler():
            return Availability(availability.version, "AOTInductor needs a C++ compiler: install g++")
        return availability

    def _build(self, arrays: Mapping[str, np.ndarray], spec: BuildSpec) -> Runner:
        keep_caches_private()
        keep_quiet()
        allow_tf32(spec.precision is Precision.TF32)  # Triton's templates take it over while they are compiled
        network = build_network(arrays, spec)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's own, about its own modules and about TF32
            program = export(network, spec)
            key = _key(network, program, spec)
            load = _Loader(spec.device)
            try:
                package = EngineCache(default_directory()).load_or_build(
                    key, lambda: _compile(program, spec.device), load
                )
            except EngineRefusedError as error:
                raise _failure("AOTInductor's package cannot be loaded", load.problem) from error
        runner = _PackageRunner(package, spec)
        with runner.on_stream():
            runner.forward(torch.zeros(spec.batches.optimum, *INPUT_SHAPE, dtype=spec.image_dtype, device=spec.device))
        runner.synchronize()
        return runner


class _PackageRunner(PyTorchRunner):
    """Runs a package by its loader: the model's own call would also look through Python's trees of arguments."""

    def __init__(self, package: Cached[Any], spec: BuildSpec) -> None:
        super().__init__(_entry_point(package.value), spec)
        self._package = package

    def facts(self, *, zero_copy: bool = False) -> dict[str, str]:
        """The SHA-256 of the package: compiling it again may choose other kernels."""
        del zero_copy
        return {"package_sha256": self._package.sha256}


class _Loader:
    """Loads a package onto a device; None where PyTorch refuses it, for the reason ``problem``."""

    def __init__(self, device: torch.device) -> None:
        self._index = device.index or 0 if device.type == "cuda" else -1
        self.problem = ""

    def __call__(self, content: bytes) -> Any | None:
        try:
            # One stream runs all passes of a runner: without this, a pass would wait for the last one on the host.
            return torch._inductor.aoti_load_package(  # noqa: SLF001
                io.BytesIO(content), run_single_threaded=True, device_index=self._index
            )
        except RuntimeError as error:
            self.problem = str(error)
            return None


def _entry_point(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    run = model.loader.boxed_run

    def call(images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = run([images])[0]
        return logits

    return call


def _compile(program: ExportedProgram, device: torch.device) -> bytes:
    """The package of a graph.

    Raises:
        BackendError: TorchInductor or the C++ compiler failed, or the package crashes on a GPU.
    """
    with tempfile.TemporaryDirectory(prefix="lenet-") as folder:
        path = Path(folder) / "package.pt2"
        try:
            torch._inductor.aoti_compile_and_package(  # noqa: SLF001
                program, package_path=str(path), inductor_configs=dict(_OPTIONS)
            )
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            raise _failure("AOTInductor failed", str(error)) from error
        if device.type == "cuda":
            _try_loading(path, device.index or 0)
        return path.read_bytes()


def _try_loading(package: Path, index: int) -> None:
    """Load a package for a GPU in a process of its own, as a crash of PyTorch's loader would end this one."""
    command = [*python(), "-c", _LOAD, str(package), str(index)]
    variables = os.environ | {"TMPDIR": str(package.parent)}  # where the loader leaves what it unpacks, if it crashes
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=False, timeout=_LOAD_SECONDS, env=variables
        )
    except subprocess.TimeoutExpired as error:
        ended = f"a process that loaded it did not end within {_LOAD_SECONDS:g} s"
        raise _failure("AOTInductor's package cannot be loaded", ended) from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        ended = f"a process that loaded it ended with {done.returncode}"
        raise _failure("AOTInductor's package cannot be loaded", "\n".join([ended, *said[-1:]]))


def _failure(problem: str, found: str) -> BackendError:
    return BackendError(
        problem,
        found=shortened(found),
        wanted="a package that TorchInductor compiles and loads on this machine",
        hint=advice(),
    )


def _key(network: Network, program: ExportedProgram, spec: BuildSpec) -> EngineKey:
    """All that a package depends on; its code is compiled for this very processor, and knows the number of threads."""
    settings = [item for item in sorted(inductor.save_config_portable().items()) if item[0] not in _NO_SETTINGS]
    return {
        "source": digest_of(network, program),
        "library": "torch",
        "version": f"{torch.__version__}, {torch.version.git_version}",
        "target": _target(spec.device),
        "triton": package_version("triton") or "",
        "compiler": _compiler(),
        "settings": hashlib.sha256(repr([settings, sorted(_OPTIONS.items())]).encode()).hexdigest(),
        "threads": torch.get_num_threads(),
        "precision": spec.precision,
        "tf32": spec.precision is Precision.TF32,
        "input": spec.input,
        "batches": (spec.batches.minimum, spec.batches.optimum, spec.batches.maximum),
    }


def _target(device: torch.device) -> str:
    if device.type == "cpu":
        return f"cpu, {platform.machine()}"
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}, {device}"


@functools.cache
def _compiler() -> str:
    """SHA-256 of what the C++ compiler says it would do: its version, and its flags for this very processor."""
    found = cpp_compiler()
    assert found is not None  # by `probe`
    command = [found, "-march=native", "-S", "-###", "-x", "c++", "/dev/null"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stderr  # noqa: S603
    return hashlib.sha256(f"{found}\n{said}".encode()).hexdigest()
