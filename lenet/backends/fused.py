"""The whole network in one CUDA kernel, `lenet.kernels`, compiled for this GPU.

It shows how far the other backends are from what the hardware can do. Images may stay in pinned host memory, which the
kernel then reads over the bus, each byte once.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import numpy as np
import torch

from lenet.architecture import CLASSES
from lenet.backends import entry, installed_version
from lenet.backends.base import ADA, AMPERE, Availability, Backend, BuildSpec, Runner, new_stream
from lenet.backends.buffer_cache import BindingRunner, Bound
from lenet.engine_cache import Cached
from lenet.errors import BackendError
from lenet.kernels import ENTRY, IMAGES_A_BLOCK, PRECISIONS, SPLIT, Variant, driver, largest_that_fits, pack
from lenet.kernels.compiler import cuda_core, nvrtc_version
from lenet.kernels.driver import LaunchConfig, prepare_graph, prepare_launch
from lenet.quantization import Scales
from lenet.vocabulary import InputType, Precision

__all__ = [
    "LARGEST_BATCH",
    "Fused",
    "Kernel",
    "images_a_block",
    "largest_split",
    "load_kernel",
    "shared_memory",
]

LARGEST_BATCH: Final = 2**20
"""Images: 12 GiB as float32."""
_HOST_IMAGES: Final = {Precision.FP16: 1, Precision.BF16: 1}
"""The most images a block where they lie in the host's memory, if not 2: small blocks keep the bus busy while others
compute, and what the last one takes comes on top. Of 1, 2, 4 and 8 the fastest at batch 1,000, or within 2 % of it."""
_OLDEST: Final = (7, 5)
_OLDEST_BY_PRECISION: Final = {Precision.BF16: AMPERE, Precision.FP16X2: AMPERE, Precision.FP8: ADA}
_ALIGNMENT: Final = 16
"""Bytes: the kernel reads images 16 at a time."""


class Fused(Backend):
    """One kernel, for NVIDIA GPUs of compute capability 7.5 or newer."""

    name: ClassVar[str] = "fused"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)

    def probe(self, device: torch.device) -> Availability:
        """Available on a CUDA device that is new enough, where `cuda.core` and NVRTC can be loaded."""
        version = installed_version(entry(self.name))
        if absent := self._missing_device(device):
            return Availability(version, absent)
        capability = torch.cuda.get_device_capability(device)
        if capability < _OLDEST:
            return Availability(version, f"compute capability {_dotted(capability)}, 7.5 or newer is wanted")
        try:
            cuda_core()
            nvrtc_version()
            driver.library()
        except BackendError as error:
            return Availability(version, f"{error.summary}: {error.found}: {error.hint}")
        return Availability(version)

    def executed_precision(self, precision: Precision, device: torch.device) -> str:
        """The precision asked for: fp32 by FFMA alone, the others on tensor cores; no tf32.

        bf16 and fp16x2 need compute capability 8.0: older GPUs lack the one, and the shared memory for the other. fp8
        needs 8.9, which rounds to it.
        """
        if precision not in PRECISIONS or device.type not in self.devices:
            raise self._unsupported(precision, device, f"{' or '.join(PRECISIONS)} on an NVIDIA GPU")
        found = torch.cuda.get_device_capability(device) if torch.cuda.is_available() else None
        if found and found < _oldest(precision):
            here = ", ".join(other for other in PRECISIONS if found >= _oldest(other))
            newer = f"a GPU of compute capability {_dotted(_oldest(precision))} or newer"
            raise self._unsupported(precision, device, f"{here}, or {newer}")
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
        if not most:
            raise BackendError(
                f"{self.name} does not run {spec.precision} on this GPU",
                found=f"{shared_bytes:,} bytes of shared memory a block",
                wanted="room for one image and the convolutions' weights",
                hint="choose another precision",
            )
        multiprocessors = torch.cuda.get_device_properties(spec.device).multi_processor_count
        choose = functools.partial(images_a_block, multiprocessors=multiprocessors, most=most)
        fewest, largest = choose(spec.batches.minimum), choose(spec.batches.maximum)
        sizes = {n for n in IMAGES_A_BLOCK if fewest <= n <= largest}
        bytes_in = spec.input is InputType.UINT8
        kernels = {}
        from_host = functools.partial(min, _HOST_IMAGES.get(spec.precision, 2))
        for images in sorted(sizes | {from_host(n) for n in sizes}):
            variant = Variant(spec.precision, images, bytes_in, shared_bytes)
            kernels[images] = load_kernel(arrays, variant, spec.device, spec.batches.maximum, spec.scales)
        variant = Variant(spec.precision, 1, bytes_in, shared_bytes, SPLIT)
        most_split, split = largest_split(variant, multiprocessors), None
        if spec.batches.minimum <= most_split:
            split = load_kernel(arrays, variant, spec.device, min(spec.batches.maximum, most_split))
        return _FusedRunner(spec, choose, from_host, kernels, split)


def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that a block can ask for."""
    properties = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_block_optin)  # type: ignore[attr-defined]


def images_a_block(batch: int, *, multiprocessors: int, most: int) -> int:
    """The fewest images a block with which every block has a multiprocessor of its own, else the most."""
    enough = (n for n in IMAGES_A_BLOCK if n <= most and -(-batch // n) <= multiprocessors)
    return next(enough, most)


def largest_split(variant: Variant, multiprocessors: int) -> int:
    """The largest batch with which every block of a variant whose blocks share images has a multiprocessor of its own.

    0 where there is no such variant: in other precisions, or where a block's shared memory is too small.
    """
    runs = variant.precision == Precision.FP32 and variant.needed_bytes <= variant.shared_bytes
    return multiprocessors // variant.blocks_an_image if runs else 0


@dataclass(frozen=True, slots=True)
class Kernel:
    """A variant on the device, with its weights.

    Attributes:
        variant: What was compiled.
        code: The loaded kernel, and the SHA-256 of its machine code.
        parameters: The packed weights, uint8, on the device.
        workspace: float32 (largest batch, the variant's `workspace`) on the device: where blocks that share an image
            leave their sums. Launches that run at the same time would spoil one another's: one stream has the kernel.
    """

    variant: Variant
    code: Cached[Any]
    parameters: torch.Tensor
    workspace: torch.Tensor

    def bind(
        self, stream: torch.cuda.Stream, images: torch.Tensor, logits: torch.Tensor, *, as_graph: bool = False
    ) -> Callable[[], torch.Tensor]:
        """A call that queues it, with all that can be worked out before. Any thread may make it.

        Args:
            stream: Where.
            images: (N, 3, 32, 32), contiguous, of the variant's input type, aligned to 16 bytes, on the device or in
                pinned host memory.
            logits: float32 (N, 10) on the device.
            as_graph: Whether as a CUDA graph of one launch. Such a call takes 2 us for 3.8
                (docs/results/fused-step2-h200.md), but no capture of a graph can hold it.

        Returns:
            The call, which keeps the tensors and the code alive, and returns the logits. It raises `BackendError` where
            the driver refuses the launch.

        Raises:
            BackendError: The driver refuses to make the graph.
        """
        batch = len(images)
        assert batch <= len(self.workspace)
        tensors = (images, self.parameters, logits, self.workspace)
        for tensor in (self.parameters, self.workspace):
            if tensor.is_cuda:  # not given away while a launch is queued, whatever becomes of the kernel
                tensor.record_stream(stream)
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
        multiprocessors = torch.cuda.get_device_properties(self.parameters.device).multi_processor_count
        config = LaunchConfig(
            blocks=(self.variant.blocks(batch, multiprocessors), 1, 1),
            threads=(self.variant.threads, 1, 1),
            shared_bytes=self.variant.shared_bytes,
            stream=stream.cuda_stream,
        )
        arguments: list[driver.Argument] = [*pointers[:3], ctypes.c_int(batch), pointers[3]]
        prepare = prepare_graph if as_graph else prepare_launch
        return prepare(driver.library(), self.code.value, config, arguments, logits, tensors)


def load_kernel(
    arrays: Mapping[str, np.ndarray],
    variant: Variant,
    device: torch.device,
    largest_batch: int,
    scales: Scales | None = None,
) -> Kernel:
    """Compile a variant for a device, or take it from the cache, and load it, for batches of so many images at most.

    Scales are a quantised precision's; None for the shipped ones.

    Raises:
        BackendError: There is no compiler, it failed, or the driver refuses what it made.
        QuantizationError: The scales do not fit the weights.
    """
    found = driver.load_or_compile(variant.source, variant.macros, {ENTRY: variant.shared_bytes}, device)
    with torch.cuda.device(device):
        # Copies from pageable memory: done when they return, on whatever stream the kernel will run.
        parameters = torch.from_numpy(pack(arrays, variant, scales)).to(device)
        workspace = torch.zeros(largest_batch, variant.workspace).to(device)
    return Kernel(variant, replace(found, value=found.value[ENTRY]), parameters, workspace)


class _FusedRunner(BindingRunner):
    """Launches the kernel; the first call with a buffer binds the launch to it.

    Args:
        spec: What it was built for.
        choose: Images a block, by batch.
        from_host: Images a block where they lie in the host's memory, by those where they lie on the device.
        kernels: By images a block.
        split: That which spreads an image over blocks, for the batches that its workspace holds, if there is one.
    """

    maps_host_memory: ClassVar[bool] = True

    def __init__(
        self,
        spec: BuildSpec,
        choose: Callable[[int], int],
        from_host: Callable[[int], int],
        kernels: Mapping[int, Kernel],
        split: Kernel | None,
    ) -> None:
        super().__init__(spec, new_stream(spec.device))
        self._choose, self._from_host = choose, from_host
        self._kernels = kernels
        self._split = split
        with self.on_stream():
            self._buffer = torch.empty(spec.batches.maximum, CLASSES, device=spec.device)

    def facts(self, *, zero_copy: bool = False) -> dict[str, str]:
        """What runs the batch that it is tuned for, and the SHA-256 of its machine code."""
        kernel = self._kernel(self.spec.batches.optimum, on_device=not zero_copy)
        return {
            "images_a_block": str(kernel.variant.images),
            "blocks_an_image": str(kernel.variant.blocks_an_image),
            "kernel_sha256": kernel.code.sha256,
        }

    def _kernel(self, batch: int, *, on_device: bool) -> Kernel:
        """What runs a batch. Images in the host's memory are read once, by one block each, but for a lone one.

        Blocks that share an image read 80 rows in the place of its 32. A lone one took 17.8 us so on an H200, from the
        launch to the synchronised logits, and 21.8 us in one block (docs/results/latency-h200.md).
        """
        if self._split is not None and batch <= (len(self._split.workspace) if on_device else 1):
            return self._split
        size = self._choose(batch)
        return self._kernels[size if on_device else self._from_host(size)]

    def _bind(self, images: torch.Tensor) -> Bound:
        if images.data_ptr() % _ALIGNMENT:
            raise BackendError(
                "the images' memory is not aligned",
                found=f"an address of {images.data_ptr() % _ALIGNMENT} modulo {_ALIGNMENT}",
                wanted=f"a multiple of {_ALIGNMENT}",
                hint="allocate the images as a tensor of their own",
            )
        assert self.stream is not None
        kernel = self._kernel(images.shape[0], on_device=images.device == self._device)
        logits = self._buffer[: images.shape[0]]
        return Bound(kernel.bind(self.stream, images, logits, as_graph=True), logits)


def _oldest(precision: Precision) -> tuple[int, int]:
    """The first compute capability that has a precision."""
    return _OLDEST_BY_PRECISION.get(precision, _OLDEST)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
