"""JAX: the network compiled by XLA through ``jax.jit``, with its images and logits in memory shared by DLPack.

XLA compiles for one batch size. The build compiles for the optimum, and the first pass of another size for that one.

On CUDA, XLA has streams of its own. DLPack's protocol orders them with the runner's stream by events: a pass waits for
what was queued before it, and what is queued after it waits for the logits. The host waits for neither.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Final

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from lenet.architecture import INPUT_SHAPE
from lenet.backends import entry, installed_version
from lenet.backends.base import AMPERE, Availability, Backend, BuildSpec, Runner, new_stream
from lenet.backends.buffer_cache import Bound, GraphRunner
from lenet.backends.precision import DTYPES, check_override
from lenet.backends.refusal import refusal_of
from lenet.errors import UnavailableError
from lenet.models.jax_lenet import network
from lenet.provenance import pip_install
from lenet.vocabulary import Precision

__all__ = ["Jax"]

_OLDEST: Final = (0, 6)
_THREADS: Final = "NPROC"
"""The variable that XLA's CPU client takes the size of its thread pool from."""
_PREALLOCATE: Final = "XLA_PYTHON_CLIENT_PREALLOCATE"
"""The variable that keeps JAX from taking three quarters of the GPU's memory at once."""

_pool: int | None = None


class Jax(Backend):
    """``jax.jit``, compiled ahead of the first pass, with the weights as constants."""

    name: ClassVar[str] = "jax"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    def probe(self, device: torch.device) -> Availability:
        """Available where JAX is installed; on CUDA where its plugin for CUDA is, too, and finds a GPU."""
        version = installed_version(entry(self.name))
        if reason := self._other_device(device) or self._not_installed() or self._missing_device(device):
            return Availability(version, reason)
        assert version is not None
        if tuple(map(int, version.split(".")[:2])) < _OLDEST:
            return Availability(version, f"jax {version} is too old: at least {'.'.join(map(str, _OLDEST))}")
        try:
            _device(device)
        except Exception as error:  # noqa: BLE001 - an installed library can fail to load in any way
            if device.type == "cuda":
                plugin = pip_install('-e ".[jax-cuda]"')
                return Availability(version, f"jax finds no CUDA device ({error}): {plugin}")
            return Availability(version, f"jax cannot be loaded: {error}", broken=True)
        return Availability(version)

    def executed_precision(self, precision: Precision, device: torch.device) -> str:
        """The precision asked for: fp32 on a CPU; fp32, tf32, fp16 or bf16 on CUDA."""
        if precision not in DTYPES or (device.type == "cpu" and precision is not Precision.FP32):
            raise self._unsupported(precision, device, "fp32" if device.type == "cpu" else " or ".join(DTYPES))
        narrow = precision in {Precision.TF32, Precision.BF16}
        if narrow and torch.cuda.is_available() and torch.cuda.get_device_capability(device) < AMPERE:
            raise self._unsupported(precision, device, "a GPU of compute capability 8.0 or newer")
        check_override(precision, device)
        return precision

    def _build(self, arrays: Mapping[str, np.ndarray], spec: BuildSpec) -> Runner:
        if spec.device.type == "cpu":
            _check_threads()
        exact = spec.precision is Precision.FP32
        runner = _JaxRunner(network(arrays, DTYPES[spec.precision], spec.image_dtype, exact=exact), spec)
        with runner.on_stream():
            runner.forward(torch.zeros(spec.batches.optimum, *INPUT_SHAPE, dtype=spec.image_dtype, device=spec.device))
        runner.synchronize()
        return runner


class _JaxRunner(GraphRunner):
    """An executable for each batch size that it has met, and a pass for each buffer of images."""

    def __init__(self, function: Callable[[Any], Any], spec: BuildSpec) -> None:
        super().__init__(spec, new_stream(spec.device))
        self._function = function
        self._executables: dict[int, Any] = {}

    def _bind(self, images: torch.Tensor) -> Bound:
        size = images.shape[0]
        if size not in self._executables:
            self._executables[size] = _compile(self._function, self.spec, size)
        return Bound(_pass(self._executables[size], images))

    def _run(self, bound: Bound) -> torch.Tensor:
        with self.on_stream():
            logits = bound.bare()
        assert isinstance(logits, torch.Tensor)
        return logits


def _pass(executable: Any, images: torch.Tensor) -> Callable[[], torch.Tensor]:
    """The call that runs an executable on a buffer, and gives the logits as PyTorch's.

    A CPU's executable reads the buffer itself. Where the buffer is not aligned as XLA wants it (64 bytes), and on CUDA,
    where the streams have to be ordered, each pass hands it over anew; the former copies it.
    """
    take, give = importlib.import_module("jax.dlpack").from_dlpack, from_dlpack
    if images.device.type == "cuda":
        return lambda: give(executable(take(images)))
    shared = take(images)
    if shared.unsafe_buffer_pointer() == images.data_ptr():
        return lambda: give(executable(shared).block_until_ready())
    return lambda: give(executable(take(images)).block_until_ready())


def _compile(function: Callable[[Any], Any], spec: BuildSpec, size: int) -> Any:
    """The executable of a batch size.

    Raises:
        BackendError: XLA refuses the network.
    """
    jax = _library()
    where = jax.sharding.SingleDeviceSharding(_device(spec.device))
    images = jax.ShapeDtypeStruct((size, *INPUT_SHAPE), str(spec.input), sharding=where)
    with refusal_of("XLA", "jax", jax.__version__, f"compiles for {spec.device}"):
        return jax.jit(function).lower(images).compile()


def _device(device: torch.device) -> Any:
    """JAX's name for a device; its clients are made by the first call.

    Raises:
        RuntimeError: JAX has no such device.
    """
    with _environment():
        found = _library().local_devices(backend=device.type)
    index = device.index or 0
    for one in found:
        if device.type == "cpu" or one.local_hardware_id == index:
            return one
    raise RuntimeError(f"no local hardware id {index} among {found}")


@contextmanager
def _environment() -> Iterator[None]:
    """Variables for JAX to read when it makes its clients, which a process does once; they are put back after it.

    The pool on a CPU gets as many threads as PyTorch uses. GPU memory is allocated when it is needed, unless the user
    chose otherwise.
    """
    global _pool  # noqa: PLW0603 - it mirrors state that is XLA's, and as wide
    if _pool is not None:
        yield
        return
    bridge = importlib.import_module("jax._src.xla_bridge")
    if bridge.backends_are_initialized():  # by other code, with XLA's default: a thread for each CPU
        _pool = int(os.environ.get(_THREADS, "0")) or len(os.sched_getaffinity(0))
        yield
        return
    before = {name: os.environ.get(name) for name in (_THREADS, _PREALLOCATE)}
    os.environ[_THREADS] = str(torch.get_num_threads())
    os.environ.setdefault(_PREALLOCATE, "false")
    try:
        yield
        _pool = torch.get_num_threads()
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _check_threads() -> None:
    """Refuse a number of threads other than XLA's, which it chose when JAX made its clients.

    Raises:
        UnavailableError: PyTorch uses another number.
    """
    threads = torch.get_num_threads()
    if threads != _pool:
        raise UnavailableError(
            "XLA's thread pool was made when JAX was first used, and stays",
            found=f"XLA computes with {_pool} threads in this process, not {threads}",
            wanted="as many threads as PyTorch uses",
            hint="run each number of threads in a process of its own",
        )


def _library() -> Any:
    return importlib.import_module("jax")
