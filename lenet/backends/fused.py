"""The whole network in one CUDA kernel, `lenet.kernels`, compiled for this GPU and replayed as a CUDA graph.

It shows how far the other backends are from what the hardware can do. Images may stay in pinned host memory, which the
kernel then reads over the bus, each byte once.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import torch

from lenet.architecture import CLASSES
from lenet.backends import entry, installed_version
from lenet.backends.base import Availability, Backend, BuildSpec, InputType, Precision, Runner, new_stream
from lenet.backends.engine_cache import Cached, EngineCache, EngineKey, EngineRefusedError, default_directory
from lenet.errors import BackendError
from lenet.kernels import ENTRY, IMAGES_A_BLOCK, Variant, largest_that_fits, pack
from lenet.kernels.compiler import compile_variant, cuda_core, nvrtc_version

__all__ = ["LARGEST_BATCH", "Fused", "Kernel", "images_a_block", "load_kernel", "shared_memory"]

LARGEST_BATCH: Final = 2**20
MOST_GRAPHS: Final = 16
"""Graphs that a runner keeps, the latest used; each keeps its images' memory alive."""

_OLDEST: Final = (7, 5)
_BF16: Final = (8, 0)
_ALIGNMENT: Final = 16
"""Bytes: the kernel reads images 16 at a time."""


class Fused(Backend):
    """One kernel, for NVIDIA GPUs of compute capability 7.5 or newer."""

    name: ClassVar[str] = "fused"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)

    def probe(self, device: torch.device) -> Availability:
        """Available on a CUDA device that is new enough, where `cuda.core` and NVRTC can be loaded."""
        version = installed_version(entry(self.name))
        if device.type not in self.devices:
            return Availability(version, f"{self.name} runs on cuda alone")
        if not torch.cuda.is_available():
            return Availability(version, "PyTorch sees no CUDA device: check `nvidia-smi`")
        capability = torch.cuda.get_device_capability(device)
        if capability < _OLDEST:
            return Availability(version, f"compute capability {_dotted(capability)}, 7.5 or newer is wanted")
        try:
            cuda_core()
            nvrtc_version()
        except BackendError as error:
            return Availability(version, f"{error.summary}: {error.found}: {error.hint}")
        return Availability(version)

    def executed_precision(self, precision: Precision, device: torch.device) -> str:
        """The precision asked for: fp32 by FFMA alone, fp16 and bf16 (8.0 or newer) on tensor cores; no tf32."""
        if precision is Precision.TF32 or device.type not in self.devices:
            raise self._unsupported(precision, device, "fp32, fp16 or bf16 on an NVIDIA GPU")
        old = torch.cuda.is_available() and torch.cuda.get_device_capability(device) < _BF16
        if precision is Precision.BF16 and old:
            raise self._unsupported(precision, device, "fp32, fp16, or a GPU of compute capability 8.0 or newer")
        return precision

    def _build(self, arrays: Mapping[str, np.ndarray], spec: BuildSpec) -> Runner:
        if spec.batches.maximum > LARGEST_BATCH:
            raise BackendError(
                f"{self.name} does not run so large a batch",
                found=f"{spec.batches.maximum:,} images",
                wanted=f"at most {LARGEST_BATCH:,}",
                hint="split the batch",
            )
        shared_bytes = shared_memory(spec.device)
        most = largest_that_fits(spec.precision, shared_bytes)
        multiprocessors = torch.cuda.get_device_properties(spec.device).multi_processor_count
        choose = functools.partial(images_a_block, multiprocessors=multiprocessors, most=most)
        sizes = range(choose(spec.batches.minimum), choose(spec.batches.maximum) + 1)
        kernels = {}
        for images in sizes:
            if images in IMAGES_A_BLOCK:
                variant = Variant(spec.precision, images, spec.input is InputType.UINT8, shared_bytes)
                kernels[images] = load_kernel(arrays, variant, spec.device)
        return _FusedRunner(spec, kernels, choose)


def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that a block can ask for."""
    properties = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_block_optin)  # type: ignore[attr-defined]


def images_a_block(batch: int, *, multiprocessors: int, most: int) -> int:
    """The fewest images a block with which every block has a multiprocessor of its own, else the most."""
    enough = (n for n in IMAGES_A_BLOCK if n <= most and -(-batch // n) <= multiprocessors)
    return next(enough, most)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A variant on the device, with its weights.

    Attributes:
        variant: What was compiled.
        code: The loaded kernel, and the SHA-256 of its machine code.
        parameters: The packed weights, uint8, on the device.
    """

    variant: Variant
    code: Cached[Any]
    parameters: torch.Tensor

    def launch(self, stream: Any, images: torch.Tensor, logits: torch.Tensor) -> None:
        """Queue it.

        Args:
            stream: Where: a stream of `cuda.core`.
            images: (N, 3, 32, 32), contiguous, of the variant's input type, aligned to 16 bytes, on the device or in
                pinned host memory.
            logits: float32 (N, 10) on the device.
        """
        core = cuda_core()
        batch = len(images)
        config = core.LaunchConfig(
            grid=-(-batch // self.variant.images), block=self.variant.threads, shmem_size=self.variant.shared_bytes
        )
        addresses = [tensor.data_ptr() for tensor in (images, self.parameters, logits)]
        core.launch(stream, config, self.code.value, *addresses, np.int32(batch))


def load_kernel(arrays: Mapping[str, np.ndarray], variant: Variant, device: torch.device) -> Kernel:
    """Compile a variant for a device, or take it from the cache, and load it.

    Raises:
        BackendError: There is no compiler, it failed, or the driver refuses what it made.
    """
    major, minor = torch.cuda.get_device_capability(device)
    architecture = f"sm_{major}{minor}"
    version = nvrtc_version()
    source = json.dumps([variant.source, variant.macros, variant.threads])
    key = EngineKey(
        source=hashlib.sha256(source.encode()).hexdigest(),
        library="nvrtc",
        version=version,
        target=architecture,
        cuda=version.partition(".")[0],
        precision=variant.precision,
        tf32=False,
        batches=(variant.images,) * 3,
        optimization_level=3,
    )
    refusals: list[str] = []
    with torch.cuda.device(device):
        torch.cuda.current_stream()  # PyTorch's context is the one to load into
        try:
            code = EngineCache(default_directory()).load_or_build(
                key,
                lambda: compile_variant(variant, architecture).cubin,
                functools.partial(_load, variant.shared_bytes, device, refusals),
            )
        except EngineRefusedError as error:
            raise BackendError(
                "the driver refuses the kernel",
                found="; ".join(refusals),
                wanted=f"a kernel for {architecture}",
                hint="check that the driver is as new as NVRTC",
            ) from error
        parameters = torch.from_numpy(pack(arrays, variant)).to(device)
    return Kernel(variant, code, parameters)


def _load(shared_bytes: int, device: torch.device, refusals: list[str], cubin: bytes) -> Any | None:
    """The kernel of a cubin, allowed its shared memory; None where the driver refuses, with the reason noted."""
    core = cuda_core()
    driver = importlib.import_module("cuda.bindings.driver")
    try:
        core.Device(device.index or 0).set_current()
        kernel = core.ObjectCode.from_cubin(cubin).get_kernel(ENTRY)
        handle = kernel.handle if hasattr(kernel, "handle") else kernel._handle  # noqa: SLF001 - before cuda.core 1.0
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        (status,) = driver.cuKernelSetAttribute(attribute, shared_bytes, handle, driver.CUdevice(device.index or 0))
    except Exception as error:  # noqa: BLE001 - whatever the binding raises, the cache is to build anew
        refusals.append(str(error))
        return None
    if int(status) != 0:
        refusals.append(f"{shared_bytes} bytes of shared memory: {status}")
        return None
    return kernel


@dataclass(frozen=True, slots=True)
class _Captured:
    replay: Callable[[], None]
    images: torch.Tensor
    logits: torch.Tensor


class _FusedRunner(Runner):
    """Replays a graph of one launch; the first call with a buffer captures it."""

    maps_host_memory: ClassVar[bool] = True

    def __init__(self, spec: BuildSpec, kernels: Mapping[int, Kernel], choose: Callable[[int], int]) -> None:
        super().__init__(spec, new_stream(spec.device))
        self._kernels = kernels
        self._choose = choose
        self._graphs: OrderedDict[tuple[int, int], _Captured] = OrderedDict()
        assert self.stream is not None
        self._queue = cuda_core().Stream.from_handle(self.stream.cuda_stream)
        with self.on_stream():
            self._buffer = torch.empty(spec.batches.maximum, CLASSES, device=spec.device)

    def facts(self) -> dict[str, str]:
        """Images a block, and the SHA-256 of the machine code, at the batch that it is tuned for."""
        kernel = self._kernels[self._choose(self.spec.batches.optimum)]
        return {"images_a_block": str(kernel.variant.images), "kernel_sha256": kernel.code.sha256}

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        key = (images.data_ptr(), images.shape[0])
        captured = self._graphs.get(key)
        if captured is None:
            captured = self._graphs[key] = self._capture(images)
            if len(self._graphs) > MOST_GRAPHS:
                self._graphs.popitem(last=False)
        else:
            self._graphs.move_to_end(key)
        with self.on_stream():
            captured.replay()
        return captured.logits

    def _bare(self, images: torch.Tensor) -> Callable[[], object]:
        return self._graphs[images.data_ptr(), images.shape[0]].replay

    def _capture(self, images: torch.Tensor) -> _Captured:
        if images.data_ptr() % _ALIGNMENT:
            raise BackendError(
                "the images' memory is not aligned",
                found=f"an address of {images.data_ptr() % _ALIGNMENT} modulo {_ALIGNMENT}",
                wanted=f"a multiple of {_ALIGNMENT}",
                hint="allocate the images as a tensor of their own",
            )
        kernel = self._kernels[self._choose(images.shape[0])]
        logits = self._buffer[: images.shape[0]]
        with torch.cuda.device(self.spec.device):
            kernel.launch(self._queue, images, logits)  # what a first launch loads, no graph can hold
            self.synchronize()
            graph = torch.cuda.CUDAGraph()
            # Relaxed to this thread: what other threads ask of CUDA is not captured.
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                kernel.launch(self._queue, images, logits)
        return _Captured(graph.replay, images, logits)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
