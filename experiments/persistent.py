"""A kernel and the host that talk through pinned memory: the kernel's variants, the mailbox, a persistent kernel.

`latency.py` measures them. ``persistent.cu`` is the device's half.

A persistent kernel occupies multiprocessors until it is told to end, or until no request comes for its patience.
Whatever waits for the whole device (`torch.cuda.synchronize`, loading a kernel, `cudaFree`) waits for it as well. Load
and allocate everything before it starts, and wait for streams alone.
"""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeAlias

import torch

from lenet.architecture import CLASSES
from lenet.errors import BackendError
from lenet.kernels import Variant

Ask: TypeAlias = Callable[[], object]
"""A call for its effect on the GPU."""

PATIENCE: Final = 2.0
"""Seconds that a persistent kernel waits for a request, and the host for an answer."""

WORDS: Final = 48
"""4-byte words of a mailbox."""
RESPONSE, REQUEST, PATIENCE_AT, STOP = 15, 16, 32, 2**32 - 1
"""Places in it, and the request to end, as in ``persistent.cu``."""

_ABSENT, _ABSENT_BYTES = 2**32 - 1, b"\xff" * 4 * CLASSES
_SPINS: Final = 200
"""Looks at a word between two at the clock: about 10 us."""
_KERNEL: Final = re.compile(r'extern "C" __global__ void __launch_bounds__\([^)]*\)\s+lenet\(')


@dataclass(frozen=True)
class Told(Variant):
    """A variant that stores its logits, and then a number, in a mailbox.

    Attributes:
        serve: Whether it stays and answers requests; else a launch is one answer.
        network: Whether there is a network; without one an answer takes no work.
        flag: Whether a number tells that the logits are there. Else the host looks at the logits themselves.
    """

    serve: bool = False
    network: bool = True
    flag: bool = True

    @property
    def macros(self) -> dict[str, str]:
        """What the source is told."""
        own: dict[str, str] = Variant.macros.fget(self)  # type: ignore[attr-defined]
        told = {"SERVE": self.serve, "NETWORK": self.network, "FLAG": self.flag}
        return own | {name: str(value).lower() for name, value in told.items()}

    @property
    def source(self) -> str:
        """``persistent.cu`` behind the variant's own source, whose kernel is a function there."""
        own: str = Variant.source.fget(self)  # type: ignore[attr-defined]
        before, kernel = _KERNEL.split(own)
        body = kernel.rstrip().removesuffix("}").replace("return;", "return false;")
        function = f"{before}__device__ __forceinline__ bool network({body}    return true;\n}}\n"
        return function + Path(__file__).with_suffix(".cu").read_text(encoding="utf-8")


class Mailbox:
    """Pinned memory that the host and a kernel read and write; ``persistent.cu`` says what is where.

    It counts on a host whose stores become visible in order, as on x86-64.

    Args:
        memory: float32 (`WORDS`,), in pinned memory.
    """

    def __init__(self, memory: torch.Tensor) -> None:
        self.memory = memory
        self.logits = memory.numpy()[:CLASSES]
        words = [ctypes.c_uint32.from_address(memory.data_ptr() + 4 * word) for word in range(WORDS)]
        self.response, self.request, self.patience = (words[at] for at in (RESPONSE, REQUEST, PATIENCE_AT))
        self._words, self._bytes = words[CLASSES - 1 :: -1], self.logits.data.cast("B")

    def clear(self) -> None:
        """Make the logits a NaN that no arithmetic of a GPU gives: its NaN is 0x7FFFFFFF."""
        self._bytes[:] = _ABSENT_BYTES

    def wait(self, number: int, seconds: float, state: Callable[[], str]) -> None:
        """Poll until the answer has a number.

        Raises:
            BackendError: It does not come within so many seconds. The error tells the `state` then.
        """
        response, deadline = self.response, time.perf_counter() + seconds
        while True:
            for _ in range(_SPINS):
                if response.value == number:
                    return
            if time.perf_counter() > deadline:
                raise _no_answer(seconds, state)

    def wait_for_logits(self, seconds: float, state: Callable[[], str]) -> None:
        """Poll until there are logits in the place of what `clear` left.

        Raises:
            BackendError: They do not come within so many seconds. The error tells the `state` then.
        """
        deadline = time.perf_counter() + seconds
        for word in self._words:
            while word.value == _ABSENT:
                if time.perf_counter() > deadline:
                    raise _no_answer(seconds, state)


def _no_answer(seconds: float, state: Callable[[], str]) -> BackendError:
    return BackendError(
        "the kernel does not answer",
        found=f"no answer in {seconds:g} s; {state()}",
        wanted="an answer within microseconds",
        hint="start the kernel again; `nvidia-smi` shows whether the GPU is well",
    )


class Server:
    """A persistent kernel while it runs: a context manager that ends it.

    Args:
        mailbox: Where it is asked and answers.
        launch: Queues the kernel.
        ended: Whether its stream has nothing left to do.
        patience: Seconds that it waits for a request before it ends, and the host for an answer; at most 4.
        flag: Whether the kernel's variant has a `Told.flag`.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        launch: Ask,
        ended: Callable[[], bool],
        patience: float = PATIENCE,
        *,
        flag: bool = True,
    ) -> None:
        self._mailbox, self._launch, self._ended, self._seconds = mailbox, launch, ended, patience
        self._flag, self._number = flag, 0

    def __enter__(self) -> Self:
        mailbox = self._mailbox
        mailbox.request.value = mailbox.response.value = 0
        mailbox.patience.value = round(1e9 * self._seconds)
        self._launch()
        return self

    def ask(self) -> None:
        """Request an answer for what lies in the pinned image, and wait for it.

        Raises:
            BackendError: None comes in time.
        """
        self._number += 1
        if self._flag:
            self._mailbox.request.value = self._number
            self._mailbox.wait(self._number, self._seconds, self._state)
        else:
            self._mailbox.clear()
            self._mailbox.request.value = self._number
            self._mailbox.wait_for_logits(self._seconds, self._state)

    def skip(self) -> None:
        """Leave a number out, so that the kernel waits for it in vain."""
        self._number += 1

    def _state(self) -> str:
        return "the kernel has ended" if self._ended() else "the kernel runs"

    def __exit__(self, *_: object) -> None:
        """End the kernel and wait for its end.

        Raises:
            BackendError: It runs on for twice its patience.
        """
        self._mailbox.request.value = STOP
        deadline = time.perf_counter() + 2 * self._seconds
        while not self._ended():
            if time.perf_counter() > deadline:
                raise BackendError(
                    "the persistent kernel does not end",
                    found=f"it runs {2 * self._seconds:g} s after the request to end",
                    wanted=f"an end within its patience of {self._seconds:g} s",
                    hint="end this process, which ends the kernel",
                )


def pinned(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, if a kernel can read it in the host's memory.

    Raises:
        BackendError: It is not in pinned host memory.
    """
    if not tensor.is_pinned():
        raise BackendError(
            "a kernel cannot read this memory",
            found=f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}, not pinned",
            wanted="pinned host memory",
            hint="allocate it with `torch.empty(..., pin_memory=True)`, or pin a copy with `Tensor.pin_memory()`",
        )
    return tensor
