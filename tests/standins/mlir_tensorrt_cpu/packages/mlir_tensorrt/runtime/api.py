"""The runtime: memory that is all the CPU's, part of it called a device's, and sessions that interpret programs."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any, Self

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from .._interpreter import DTYPES, Program


class MTRTException(Exception):
    """The runtime's error."""


class PointerType(Enum):
    """Whose memory a memref is in."""

    host = "host"
    device = "device"


class ScalarTypeCode(Enum):
    """Type of a memref's elements, by MLIR's name."""

    f8e4m3fn = "f8e4m3fn"
    f16 = "f16"
    f32 = "f32"
    bf16 = "bf16"
    i1 = "i1"
    i4 = "i4"
    i8 = "i8"
    i32 = "i32"
    i64 = "i64"


_TYPE_CODES = {dtype: ScalarTypeCode(name) for name, dtype in DTYPES.items()}

_device_addresses: set[int] = set()


@contextmanager
def device_memory(tensor: torch.Tensor) -> Iterator[None]:
    """A context in which views of this CPU tensor count as device memory.

    nvtripy takes inputs from device memory alone, and here there is none: this says which buffers to take for it.
    """
    _device_addresses.add(tensor.data_ptr())
    try:
        yield
    finally:
        _device_addresses.discard(tensor.data_ptr())


class MemRefValue(np.ndarray):
    """A tensor in memory; an array so that `memoryview` takes it (on Python 3.11 no other class can offer that).

    Attributes:
        tensor: torch's view of the same memory.
        address_space: Whose memory it counts as.
    """

    tensor: torch.Tensor
    address_space: PointerType

    @classmethod
    def of(cls, tensor: torch.Tensor, address_space: PointerType) -> Self:
        """A view of a CPU tensor."""
        # NumPy has no bfloat16; its bits serve, as nvtripy casts before it looks at the elements
        elements = tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor
        memref = elements.detach().numpy().view(cls)
        memref.tensor = tensor
        memref.address_space = address_space
        return memref

    @property
    def dtype(self) -> ScalarTypeCode:  # type: ignore[override]  # the runtime's property
        return _TYPE_CODES[self.tensor.dtype]

    def __dlpack__(self, **_: Any) -> Any:
        return self.tensor.__dlpack__()

    def __dlpack_device__(self) -> Any:
        return self.tensor.__dlpack_device__()


class Stream:
    """A stream on which everything is done at once."""

    ptr = 0

    def sync(self) -> None:
        """There is nothing to wait for."""


class Device:
    """The one device there claims to be."""


class RuntimeClient:
    """Owner of memory."""

    def __init__(self) -> None:
        self._devices = [Device()]

    def get_devices(self) -> list[Device]:
        return self._devices

    def create_stream(self) -> Stream:
        return Stream()

    def create_memref(
        self,
        values: array[Any] | None = None,
        /,
        *,
        shape: Sequence[int],
        dtype: ScalarTypeCode,
        device: Device | None = None,
        stream: Stream | None = None,
    ) -> MemRefValue:
        """Memory of its own, filled from an array or with zeros."""
        del stream
        torch_dtype = DTYPES[dtype.value]
        if values is None:
            tensor = torch.zeros(tuple(shape), dtype=torch_dtype)
        else:
            tensor = torch.tensor(values.tolist(), dtype=torch_dtype).reshape(tuple(shape))
        return MemRefValue.of(tensor, PointerType.host if device is None else PointerType.device)

    def create_memref_view_from_dlpack(self, capsule: Any, *, assert_canonical_strides: bool) -> MemRefValue:
        """A view of someone else's memory."""
        tensor = from_dlpack(capsule)
        if assert_canonical_strides and not tensor.is_contiguous():
            wanted = torch.empty(tensor.shape, device="meta").stride()
            raise MTRTException(
                f"Given strides {list(tensor.stride())} do not match canonical strides {list(wanted)} "
                f"for shape {list(tensor.shape)}"
            )
        on_device = tensor.data_ptr() in _device_addresses
        return MemRefValue.of(tensor, PointerType.device if on_device else PointerType.host)

    def copy_to_host(self, *, device_memref: MemRefValue) -> MemRefValue:
        return MemRefValue.of(device_memref.tensor.clone(), PointerType.host)

    def copy_to_device(self, *, host_memref: MemRefValue, device: Device) -> MemRefValue:
        del device
        return MemRefValue.of(host_memref.tensor.clone(), PointerType.device)


class Signature:
    """What a function returns."""

    def __init__(self, results: int) -> None:
        self._results = results

    def get_num_results(self) -> int:
        return self._results


class Executable:
    """A program, from its bytes."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.program = Program.from_bytes(content)

    def get_signature(self, function: str) -> Signature:
        assert function == "main"
        return Signature(len(self.program.results))

    def serialize(self) -> bytes:
        return self._content

    def get_data_segments(self) -> list[tuple[str, bytes]]:
        """One segment, which holds the program where the real one holds a TensorRT plan."""
        return [("cpu_standin_program", self._content)]


class RuntimeSessionOptions:
    """Where a session runs."""

    def __init__(self, *, num_devices: int, device_id: int) -> None:
        self.num_devices = num_devices
        self.device_id = device_id


class RuntimeSession:
    """Runs a program."""

    def __init__(self, options: RuntimeSessionOptions, executable: Executable) -> None:
        del options
        self._program = executable.program

    def execute_function(
        self, name: str, *, in_args: Sequence[MemRefValue], stream: Stream, client: RuntimeClient
    ) -> list[MemRefValue]:
        """Run main on its inputs.

        Raises:
            MTRTException: An input is of another type, or of a shape outside its range; nvtripy knows both messages.
        """
        del name, stream, client
        for wanted, argument in zip(self._program.inputs, in_args, strict=True):
            if argument.dtype.value != wanted.element_type:
                raise MTRTException(
                    f"InvalidArgument: function expects a memref type with element type {wanted.element_type} but "
                    f"received {argument.dtype.value}"
                )
            if not _within(argument.shape, wanted.minimum, wanted.maximum):
                raise MTRTException(f"InternalError: failed to set input shape {list(argument.shape)}")
        with torch.no_grad():
            results = self._program.run([argument.tensor for argument in in_args])
        return [MemRefValue.of(result, PointerType.device) for result in results]


def _within(shape: Sequence[int], minimum: Sequence[int], maximum: Sequence[int]) -> bool:
    return len(shape) == len(minimum) and all(
        low <= size <= high for low, size, high in zip(minimum, shape, maximum, strict=True)
    )
