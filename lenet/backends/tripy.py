"""TriPy, NVIDIA's Python front end to TensorRT: `lenet.models.tripy_lenet`, compiled, on PyTorch's memory.

Nothing of nvtripy is imported before it is used, so that this module can say why it is missing.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
import torch

from lenet import architecture, weights
from lenet.architecture import INPUT_SHAPE
from lenet.backends import entry, tensorrt_versions
from lenet.backends.base import AMPERE, NO_GPU, Availability, Backend, BatchRange, BuildSpec, Runner
from lenet.backends.buffer_cache import BindingRunner, Bound
from lenet.backends.precision import DTYPES
from lenet.engine_cache import Cached, EngineCache, EngineKey, default_directory, problem_of_file
from lenet.errors import BackendError
from lenet.models import byte_input
from lenet.models.byte_input import fold_normalization
from lenet.provenance import package_version
from lenet.vocabulary import InputType, Precision

if TYPE_CHECKING:
    import nvtripy as tp

__all__ = ["TriPy", "TriPyRunner", "cached_executable", "compile_executable"]

_VERSION: Final = "0.1.7"

_TENSORRT: Final = ((10, 15), (11,))
"""The first version of TensorRT that nvtripy 0.1.7 takes by its metadata, and the first that it takes no longer."""

_PYTHON: Final = sys.version_info[:2]

_INSTALL: Final = entry("tripy").install

_LIBRARIES: Final = tuple(package[0] for package in entry("tripy").packages[:3])
"""What compiles, beside TensorRT."""

_OPTIMIZATION_LEVEL: Final = 3
"""TensorRT's own default, of 0 to 5."""


class TriPy(Backend):
    """`lenet.models.tripy_lenet.LeNet`, compiled by TriPy for one range of batch sizes."""

    name: ClassVar[str] = "tripy"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)

    def probe(self, device: torch.device) -> Availability:
        """Available on the first CUDA device, where all of nvtripy 0.1.7 is installed and can be imported."""
        version = package_version("nvtripy")
        return (
            Availability(version, self._unfit_device(device) or _not_installed(version))
            and _imported(version)
            and Availability(version, None if torch.cuda.is_available() else NO_GPU)
        )

    def executed_precision(self, precision: Precision, device: torch.device) -> str:
        """What it really runs: TriPy has no switch for TF32, so float32 is ``tf32`` where the GPU has TF32.

        The one way to switch it off is NVIDIA's: with ``NVIDIA_TF32_OVERRIDE=0`` in the environment of the process,
        NVIDIA documents that none of its libraries uses TF32. Float32 is then labelled ``fp32``, on the word of that
        documentation: it has not been confirmed with TriPy, and parity on a GPU is what can confirm it.

        Raises:
            BackendError: The device is not a GPU.
        """
        if device.type not in self.devices:
            raise self._unsupported(precision, device, "any precision on cuda")
        if precision not in DTYPES:
            raise self._unsupported(precision, device, " or ".join(DTYPES))
        if precision not in {Precision.FP32, Precision.TF32}:
            return precision
        return Precision.TF32 if _float32_uses_tf32(device) else Precision.FP32

    def _build(self, arrays: Mapping[str, np.ndarray], spec: BuildSpec) -> Runner:
        import nvtripy as tp

        executable = cached_executable(arrays, spec).value
        executable.stream = tp.Stream()  # the default one is shared by all executables of the process
        stream = torch.cuda.ExternalStream(executable.stream.ptr, spec.device)
        return TriPyRunner(executable, spec, stream)

    def _unfit_device(self, device: torch.device) -> str | None:
        if reason := self._other_device(device):
            return reason
        if device.index not in {None, 0}:
            return f"TriPy runs on cuda:0 alone, not on {device}: hide the other GPUs with CUDA_VISIBLE_DEVICES"
        return None


class TriPyRunner(BindingRunner):
    """A compiled LeNet on PyTorch's memory, without copies.

    TriPy neither takes an external stream nor synchronises with other frameworks: it is PyTorch that has to use
    TriPy's stream, which is the ``stream`` of this runner.

    Args:
        executable: What `compile_executable` returned, or ``nvtripy.Executable.load`` of what it saved.
        spec: What it was compiled for.
        stream: The executable's stream as PyTorch's; None where the executable runs on a CPU, as only tests have it.
    """

    def __init__(self, executable: tp.Executable, spec: BuildSpec, stream: torch.cuda.Stream | None) -> None:
        super().__init__(spec, stream)
        self._executable = executable
        self._logits: tp.Tensor | None = None
        self._widened: torch.Tensor | None = None
        if spec.input is InputType.UINT8:
            shape = (spec.batches.maximum, *INPUT_SHAPE)
            with self.on_stream():
                self._widened = torch.empty(shape, dtype=DTYPES[spec.precision], device=spec.device)

    def facts(self, *, zero_copy: bool = False) -> dict[str, str]:
        """The SHA-256 of the TensorRT plan, and the level it was optimised at."""
        del zero_copy
        plan: bytes = self._executable.serialized_tensorrt_engine
        return {"plan_sha256": sha256(plan).hexdigest(), "optimization_level": str(_OPTIMIZATION_LEVEL)}

    def _bind(self, images: torch.Tensor) -> Bound:
        if self._widened is None:
            return Bound(_Pass(self._executable, self._view(images)))
        # TriPy has no uint8, so PyTorch widens bytes to the type that the executable takes, on its stream.
        widened = self._widened[: images.shape[0]]
        widen = partial(widened.copy_, images.detach())
        return Bound(_Pass(self._executable, self._view(widened), widen))

    def _run(self, bound: Bound) -> torch.Tensor:
        try:
            with self.on_stream():
                # TriPy allocates the output, and frees it with this object: it is kept until the next call.
                self._logits = logits = bound.bare()
        except _vendor_errors() as error:
            raise _backend_error(
                error, "TriPy cannot run LeNet", wanted="an executable of this runner's spec"
            ) from error
        # Of the capsule, not of the tensor: PyTorch would first try arguments that its `__dlpack__` does not take.
        return torch.from_dlpack(logits.__dlpack__())  # type: ignore[attr-defined]

    def _view(self, images: torch.Tensor) -> tp.Tensor:
        import nvtripy as tp

        return tp.Tensor(images.detach())


class _Pass:
    """A call of an executable with a view of a buffer.

    nvtripy's tensors are in reference cycles, which would keep the buffer's memory until Python's collector runs. A
    pass breaks its view's when it ends.

    Args:
        executable: What to call.
        view: nvtripy's tensor of the buffer.
        fill: Called before, to fill the buffer.
    """

    def __init__(self, executable: tp.Executable, view: tp.Tensor, fill: Callable[[], object] | None = None) -> None:
        self._executable = executable
        self._view = view
        self._fill = fill

    def __call__(self) -> tp.Tensor:
        if self._fill is not None:
            self._fill()
        return self._executable(self._view)

    def __del__(self) -> None:
        for part in (self._view.trace_tensor.producer, self._view):
            vars(part).clear()


def cached_executable(arrays: Mapping[str, np.ndarray], spec: BuildSpec) -> Cached[tp.Executable]:
    """The executable of `compile_executable`: from the engine cache where it is there, else compiled, and stored.

    What is stored is what ``nvtripy.Executable.save`` writes.

    Args:
        arrays: float32 weights by parameter name.
        spec: What it is compiled for.

    Raises:
        BackendError: As `compile_executable`, or the cache's directory is not safe to load from.
        OutputError: The cache's directory cannot be written.

    Warns:
        EngineCacheWarning: There was an entry that cannot be used.
    """
    import nvtripy as tp

    with TemporaryDirectory(prefix="lenet-tripy-") as directory:  # nvtripy saves to files and loads from files alone
        path = Path(directory) / "executable.json"
        compiled: dict[bytes, tp.Executable] = {}

        def build() -> bytes:
            executable = compile_executable(arrays, spec.precision, spec.batches, spec.input)
            try:
                executable.save(str(path))
            except _vendor_errors() as error:
                raise _backend_error(error, "TriPy cannot save LeNet", wanted="an executable that it loads") from error
            content = path.read_bytes()
            compiled[content] = executable
            return content

        def accept(content: bytes) -> tp.Executable | None:
            if content in compiled:
                return compiled[content]
            path.write_bytes(content)
            try:
                loaded = tp.Executable.load(str(path))
            except Exception:  # noqa: BLE001 - JSON, base64 or a vendor's library refuse it, each in its own way
                return None
            return loaded if isinstance(loaded, tp.Executable) else None  # it loads any JSON

        return EngineCache(default_directory()).load_or_build(_key(arrays, spec), build, accept)


def _key(arrays: Mapping[str, np.ndarray], spec: BuildSpec) -> EngineKey:
    """All that an executable depends on; of ``NVIDIA_TF32_OVERRIDE``, whether it leaves TF32 on."""
    tensorrt = importlib.import_module("tensorrt")
    versions = [f"{name} {package_version(name)}" for name in _LIBRARIES]
    gpu = "no GPU"
    if spec.device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(spec.device)
        gpu = f"{torch.cuda.get_device_name(spec.device)}, compute capability {major}.{minor}"
    return {
        "source": _source(arrays),
        "library": "nvtripy",
        "version": ", ".join([*versions, f"tensorrt {tensorrt.__version__}"]),
        "target": gpu,
        "cuda": str(torch.version.cuda).partition(".")[0],
        "precision": spec.precision,
        "tf32": _float32_uses_tf32(spec.device),
        "input": spec.input,
        "batches": (spec.batches.minimum, spec.batches.optimum, spec.batches.maximum),
        "optimization_level": _OPTIMIZATION_LEVEL,
    }


def _source(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of what is compiled: the modules that define the network and how it is compiled, and the weights."""
    from lenet.models import tripy_lenet

    digest = sha256()
    for path in (architecture.__file__, byte_input.__file__, tripy_lenet.__file__, __file__):
        digest.update(sha256(Path(path).read_bytes()).digest())
    digest.update(weights.digest(arrays).encode())
    return digest.hexdigest()


def compile_executable(
    arrays: Mapping[str, np.ndarray],
    precision: Precision,
    batches: BatchRange,
    input_type: InputType = InputType.FLOAT32,
) -> tp.Executable:
    """Compile LeNet, whatever is in the cache; the result can be saved, and loaded by ``nvtripy.Executable.load``.

    What it depends on besides its arguments: the GPU, the versions of the libraries, the optimisation level of this
    module, and ``NVIDIA_TF32_OVERRIDE``.

    Args:
        arrays: float32 weights by parameter name.
        precision: Of weights and activations; logits are float32 in any.
        batches: The batch sizes that it takes; a range of one size compiles to static shapes.
        input_type: Normalised images are taken as float32, bytes as the precision's type, to which they were widened.

    Raises:
        BackendError: The weights do not fit, or TriPy cannot compile them, or the directory of its timing cache, which
            is the engine cache's, is not safe.
        OutputError: That directory cannot be made.
    """
    import nvtripy as tp

    from lenet.models.tripy_lenet import from_weights

    dtype = {Precision.FP16: tp.float16, Precision.BF16: tp.bfloat16}.get(precision, tp.float32)
    size = batches.minimum if batches.static else (batches.minimum, batches.optimum, batches.maximum)
    of_bytes = input_type is InputType.UINT8
    images = tp.InputInfo(shape=(size, *INPUT_SHAPE), dtype=dtype if of_bytes else tp.float32)
    if of_bytes:
        arrays = fold_normalization(arrays)
    tp.config.timing_cache_file_path = str(_timing_cache())
    try:
        with _standard_error_kept():
            return tp.compile(from_weights(arrays, dtype), optimization_level=_OPTIMIZATION_LEVEL, args=[images])
    except _vendor_errors() as error:
        wanted = "the parameters of LeNet, and a graph that TensorRT builds"
        raise _backend_error(error, "TriPy cannot compile LeNet", wanted=wanted) from error


def _timing_cache() -> Path:
    """TensorRT's timing cache, a file for each GPU and TensorRT: a build fails on a cache of another."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{gpu} tensorrt {package_version('tensorrt-cu12')}")
    cache = EngineCache(default_directory())
    cache.make_directory()
    path = cache.directory / f"{name}.timing-cache"
    if problem := problem_of_file(path):
        raise BackendError(
            "TensorRT's timing cache is not safe to load",
            found=f"{path} is {problem}",
            wanted="a file of your own that nobody else can write",
            hint="delete it: it only saves time",
        )
    return path


@contextmanager
def _standard_error_kept() -> Iterator[None]:
    """Put standard error back: nvtripy redirects descriptor 2 while it compiles, and leaves another `sys.stderr`."""
    stream, descriptor = sys.stderr, os.dup(2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it drops what it redirects to without closing it
            yield
    finally:
        left, sys.stderr = sys.stderr, stream
        if left is not stream:
            left.close()
        os.dup2(descriptor, 2)
        os.close(descriptor)


def _not_installed(version: str | None) -> str | None:
    if _PYTHON > (3, 12):
        running = ".".join(map(str, _PYTHON))
        return f"nvtripy's compiled half has wheels for Python 3.9 to 3.12, this is {running}: use Python 3.12"
    if version is None:
        return f"nvtripy is not installed: {_INSTALL}"
    if version != _VERSION:
        return f"nvtripy {version} is installed, this backend is written for {_VERSION}: {_INSTALL}"
    return _unfit_tensorrt()


def _unfit_tensorrt() -> str | None:
    """Why the installed TensorRT is not one for nvtripy. That it is missing shows at the import."""
    try:
        tensorrt_versions.refuse_two(entry("tensorrt"))
    except BackendError as error:
        return f"{error.found}, {error.wanted} is wanted: {error.hint}"
    first, end = _TENSORRT
    for name, version in tensorrt_versions.installed(entry("tensorrt")).items():
        if not first <= tensorrt_versions.release(version) < end:
            return f"nvtripy {_VERSION} wants TensorRT >= 10.15, < 11, {name} {version} is installed: {_INSTALL}"
    return None


def _imported(version: str | None) -> Availability:
    """Whether all of it that is installed can be imported."""
    try:
        import mlir_tensorrt
        import nvtripy  # noqa: F401 - the import is what is tried
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"mlir_tensorrt", "tensorrt"}:
            missing = f"nvtripy is installed without its compiled half (no module {error.name}): {_INSTALL}"
            return Availability(version, missing)
        return Availability(version, f"nvtripy cannot be imported: {error}: {_INSTALL}", broken=True)
    except Exception as error:  # noqa: BLE001 - a vendor's import can fail in any way, and each is a reason
        return Availability(version, f"nvtripy cannot be imported: {type(error).__name__}: {error}", broken=True)
    if getattr(mlir_tensorrt, "IS_CPU_STANDIN", False):
        found = f"the compiled half is a CPU stand-in for tests, {mlir_tensorrt.__version__}, not NVIDIA's"
        return Availability(version, f"{found}: {_INSTALL}")
    return Availability(version)


def _float32_uses_tf32(device: torch.device) -> bool:
    if os.environ.get("NVIDIA_TF32_OVERRIDE") == "0":
        return False
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= AMPERE


def _vendor_errors() -> tuple[type[Exception], ...]:
    from mlir_tensorrt.runtime.api import MTRTException
    from nvtripy import TripyException

    return TripyException, MTRTException


def _backend_error(error: Exception, summary: str, *, wanted: str) -> BackendError:
    """A vendor's error as one of this project's, its text without terminal colours."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    hint = "`TRIPY_EXTRA_ERROR_INFORMATION=all` makes nvtripy say more"
    return BackendError(summary, found=text, wanted=wanted, hint=hint)
