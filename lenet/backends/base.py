"""What a backend is: one way to run a trained LeNet, behind one contract.

A `Backend` says whether it can run here and builds a `Runner` from named weights. A runner turns images on its device
into logits on its device; copies from the host, timing and checking are written once, for all backends, elsewhere.

The contract of input and output is the same at every precision, so that rows can be compared: images (N, 3, 32, 32),
contiguous, of the asked `InputType`, in; float32 logits (N, 10) out. A backend that computes in another type casts
inside, and normalises bytes inside.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Final, Self, final

import numpy as np
import torch

from lenet import weights
from lenet.architecture import INPUT_SHAPE
from lenet.backends import entry, missing_packages
from lenet.backends.precision import QUANTIZED
from lenet.errors import BackendError, PrecisionError, UnavailableError
from lenet.quantization import Scales
from lenet.vocabulary import InputType, Precision

__all__ = [
    "ADA",
    "AMPERE",
    "NO_GPU",
    "Availability",
    "Backend",
    "BatchRange",
    "BuildSpec",
    "Runner",
    "new_stream",
]


@dataclass(frozen=True, slots=True)
class BatchRange:
    """The batch sizes that a runner is built for.

    Attributes:
        minimum: The smallest, at least 1.
        optimum: The one to tune for.
        maximum: The largest.
    """

    minimum: int
    optimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise BackendError(
                "the batch range cannot be built",
                found=f"minimum {self.minimum}, optimum {self.optimum}, maximum {self.maximum}",
                wanted="1 <= minimum <= optimum <= maximum",
                hint="choose other batch sizes",
            )

    @classmethod
    def exactly(cls, size: int) -> BatchRange:
        """The range of one size."""
        return cls(size, size, size)

    @property
    def static(self) -> bool:
        """Whether it holds one size alone."""
        return self.minimum == self.maximum

    def __contains__(self, size: int) -> bool:
        return self.minimum <= size <= self.maximum


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """What a runner is built for.

    Attributes:
        device: Where it runs.
        precision: What is asked of its arithmetic.
        batches: The batch sizes that it must take.
        input: What its images are handed over as.
        scales: Of the weights at a quantised precision. None for the shipped ones.
    """

    device: torch.device
    precision: Precision
    batches: BatchRange
    input: InputType = InputType.FLOAT32
    scales: Scales | None = None

    @property
    def image_dtype(self) -> torch.dtype:
        """PyTorch's name for the input type."""
        return torch.uint8 if self.input is InputType.UINT8 else torch.float32


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a backend can run here.

    Attributes:
        version: Of its library, where that could be told.
        reason: Why it cannot run, with what to do; None where it can.
        broken: Whether that is because its library is installed and cannot be loaded.
    """

    version: str | None
    reason: str | None = None
    broken: bool = False

    def __bool__(self) -> bool:
        return self.reason is None


AMPERE: Final = (8, 0)
"""The first compute capability with TF32 and bfloat16."""

ADA: Final = (8, 9)
"""The first compute capability whose tensor cores have e4m3 numbers."""

NO_GPU: Final = "PyTorch sees no CUDA device: check `nvidia-smi`"

_NO_SWITCH: Final = nullcontext()
"""One for all, for `Runner.on_stream` is entered at each call."""


def new_stream(device: torch.device) -> torch.cuda.Stream | None:
    """A CUDA stream of its own for a runner on a GPU; None on a CPU."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None


class Runner(ABC):
    """A LeNet that is built and ready.

    A runner is a context manager: `close` ends it, and gives back the memory that it holds. A closed runner raises
    `BackendError` when it is used.

    Attributes:
        maps_host_memory: Whether `forward` also takes images in pinned host memory, which the device then reads there
            (zero-copy).
        spec: What it was built for.
        stream: The CUDA stream that its work is queued on; None on a CPU.
    """

    maps_host_memory: ClassVar[bool] = False

    def __init__(self, spec: BuildSpec, stream: torch.cuda.Stream | None) -> None:
        self.spec = spec
        self.stream = stream
        # What `forward` compares every call's images with. The shape is the last one that fitted.
        self._device, self._dtype = spec.device, spec.image_dtype
        self._shape: torch.Size | None = None

    def __enter__(self) -> Self:
        if not vars(self):
            raise _closed()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @final
    def close(self) -> None:
        """Wait until the queued passes are done, then drop everything that the runner holds.

        Copy logits before: `forward`'s may lie in the runner's memory. A call that `bare` returned keeps what it uses
        alive. A second `close` does nothing.
        """
        if not vars(self):
            return
        try:
            self.synchronize()
        finally:
            vars(self).clear()
            self.__class__ = _ClosedRunner

    @final
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Queue one forward pass and return at once.

        The images must be ready on the runner's stream: fill them under `on_stream`, or synchronise before. On a CPU
        the pass is done when this returns.

        Args:
            images: (N, 3, 32, 32) of the spec's input type, contiguous, on the runner's device, or where it
                `maps_host_memory` in pinned host memory; N within its batch range.

        Returns:
            float32 logits (N, 10) on the runner's device, valid on its stream. The next call may overwrite them.

        Raises:
            BackendError: The images are of another dtype, shape, layout or device, the batch is out of range, or the
                runner is closed.
        """
        if not (
            images.dtype is self._dtype
            and (images.device == self._device or (self.maps_host_memory and self._is_pinned(images)))
            and (images.shape == self._shape or self._is_of_shape(images.shape))
            and images.is_contiguous()
        ):
            raise self._unfit(images)
        return self._forward(images)

    def _is_pinned(self, images: torch.Tensor) -> bool:
        """Whether images are in pinned host memory."""
        return images.device.type == "cpu" and images.is_pinned()

    def _is_of_shape(self, shape: torch.Size) -> bool:
        """Whether a shape other than the last call's fits."""
        if shape[1:] != INPUT_SHAPE or shape[0] not in self.spec.batches:
            return False
        self._shape = shape
        return True

    @abstractmethod
    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        """`forward` for images that were checked."""

    def on_stream(self) -> AbstractContextManager[object]:
        """A context in which torch's work is queued on the runner's stream.

        Where it is already, entering costs next to nothing: whoever calls `forward` many times enters it once around
        them all, and so spares each call the switch there and back, tens of microseconds on a slow host.
        """
        return _NO_SWITCH if self.stream is None or self.is_current() else torch.cuda.stream(self.stream)

    def is_current(self) -> bool:
        """Whether torch's work is queued on the runner's stream as it is; always on a CPU."""
        if self.stream is None:
            return True
        if self._device.type != "cuda":
            return False
        # What TorchInductor's generated code asks before each launch, for the same reason: it allocates nothing.
        raw: int = torch._C._cuda_getCurrentRawStream(self._device.index or 0)  # noqa: SLF001
        return raw == self.stream.cuda_stream

    def synchronize(self) -> None:
        """Wait until everything queued on the runner's stream is done."""
        if self.stream is not None:
            self.stream.synchronize()

    @final
    def bare(self, images: torch.Tensor) -> Callable[[], object] | None:
        """The library call that `forward` comes down to, without what `forward` adds: for measuring just that.

        One pass is run first, in which whatever belongs to these images is bound, captured or compiled.

        Args:
            images: As `forward` takes them. They must live as long as the call is used, and no pass with other images
                may come in between: a library that is told addresses would then use those.

        Returns:
            The call, which reads the images' memory anew each time, or None where there is none to tell apart from
            `forward`. It is to be made under ``torch.inference_mode()`` and `on_stream`, and what it returns is to be
            kept until the stream is synchronised.

        Raises:
            BackendError: As `forward`.
        """
        self.forward(images)
        self.synchronize()
        return self._bare(images)

    def _bare(self, images: torch.Tensor) -> Callable[[], object] | None:
        """`bare` after a pass with these images."""
        del images
        return None

    def facts(self, *, zero_copy: bool = False) -> dict[str, str]:
        """What a row of measurements should record of this build, such as an engine's hash; nothing by default.

        Args:
            zero_copy: The row's images are read in the host's memory.
        """
        del zero_copy
        return {}

    def _unfit(self, images: torch.Tensor) -> BackendError:
        batches = self.spec.batches
        layout = "contiguous" if images.is_contiguous() else "not contiguous"
        pixels = ", ".join(map(str, INPUT_SHAPE))
        size = str(batches.minimum) if batches.static else f"{batches.minimum} to {batches.maximum}"
        pinned = mapped = ""
        if self.maps_host_memory:
            mapped = " or in pinned host memory"
            if images.device.type == "cpu":
                pinned = ", pinned" if images.is_pinned() else ", not pinned"
        return BackendError(
            "the images do not fit this runner",
            found=f"{images.dtype} {tuple(images.shape)} on {images.device}{pinned}, {layout}",
            wanted=f"{self._dtype} ({size}, {pixels}) on {self._device}{mapped}, contiguous",
            hint="convert the images, or build the backend for this batch size and input type",
        )


class _ClosedRunner(Runner):
    """What `Runner.close` turns a runner into, so that an open one need not check at each call whether it is closed."""

    def __getattribute__(self, name: str) -> object:
        """Everything but a second `close` is refused."""
        if name == "close" or name.startswith("__"):
            return super().__getattribute__(name)
        raise _closed()

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


def _closed() -> BackendError:
    return BackendError(
        "this runner was closed and cannot be used again",
        found="a closed runner",
        wanted="a runner that is open",
        hint="build another with `Backend.build`; a `with` block closes its runner at its end",
    )


class Backend(ABC):
    """One way to run LeNet.

    Attributes:
        name: Its name in the table of `lenet.backends`.
        devices: The types of device that it can run on.
    """

    name: ClassVar[str]
    devices: ClassVar[tuple[str, ...]]

    @abstractmethod
    def probe(self, device: torch.device) -> Availability:
        """Whether it can run on this device here; imports its library, and raises nothing."""

    @abstractmethod
    def executed_precision(self, precision: Precision, device: torch.device) -> str:
        """What it really runs when asked for a precision: the label of its rows.

        Raises:
            BackendError: It cannot run this precision on this device.
        """

    @final
    def build(self, arrays: Mapping[str, np.ndarray], spec: BuildSpec) -> Runner:
        """Build a runner.

        Args:
            arrays: Weights by parameter name.
            spec: What to build it for.

        Raises:
            WeightsError: The arrays do not fit the architecture.
            UnavailableError: It cannot run on this device here.
            BackendError: It cannot be built for this, or its library refused.
        """
        availability = self.probe(spec.device)
        if not availability:
            raise UnavailableError(
                f"{self.name} cannot run on {spec.device} here",
                found=availability.reason or "",
                wanted=f"a machine that {self.name} runs on",
                hint="`lenet backends` lists what can run here",
            )
        self.executed_precision(spec.precision, spec.device)
        weights.check(arrays, "the weights")
        return self._build(arrays, spec)

    @abstractmethod
    def _build(self, arrays: Mapping[str, np.ndarray], spec: BuildSpec) -> Runner:
        """`build` for a spec that was checked."""

    def _other_device(self, device: torch.device) -> str | None:
        """Why it does not run on this type of device; None where it does."""
        return None if device.type in self.devices else f"{self.name} runs on {' and '.join(self.devices)} alone"

    def _missing_device(self, device: torch.device) -> str | None:
        """Why there is no device of this type for it here; None where there is."""
        no_gpu = NO_GPU if device.type == "cuda" and not torch.cuda.is_available() else None
        return self._other_device(device) or no_gpu

    def _not_installed(self) -> str | None:
        """Which of the packages that the table names for it are missing, with the command; None where none is."""
        line = entry(self.name)
        missing = missing_packages(line)
        verb = "is" if len(missing) == 1 else "are"
        return f"{' and '.join(missing)} {verb} not installed: {line.install}" if missing else None

    def _unsupported(self, precision: Precision, device: torch.device, supported: str) -> PrecisionError:
        others = f": {QUANTIZED[precision]} run it" if precision in QUANTIZED else ""
        return PrecisionError(
            f"{self.name} does not run {precision} on {device.type}",
            found=self._other_device(device) or f"no {precision} on {device.type}{others}",
            wanted=supported,
            hint="choose another precision or device",
        )
