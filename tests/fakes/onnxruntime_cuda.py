"""ONNX Runtime's sessions as they are on CUDA, with CUDA graphs: the same calls, computed on the CPU.

It is no GPU: it tells nothing of kernels, streams or speed. What it imitates is documented under "Using CUDA Graphs" at
https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html: a graph is looked up by the run option
``gpu_graph_id``, and its replay uses the addresses and shapes of its capture, whatever is bound.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any, ClassVar

import numpy as np

__all__ = ["FakeBinding", "FakeCudaSession", "FakeStream", "imitation_of"]

_REGULAR_RUNS = 2
"""Runs that ONNX Runtime makes before it captures."""


class FakeStream:
    """Stands where a `torch.cuda.Stream` would; its work is done when it is queued."""

    cuda_stream = 0x57EA

    def synchronize(self) -> None:
        """Nothing is queued."""


class FakeBinding:
    """The addresses of one input and one output, in host memory."""

    def __init__(self) -> None:
        self.bound: dict[str, tuple[Any, tuple[int, ...], int]] = {}

    def bind_input(self, name: str, kind: str, index: int, element: Any, shape: tuple[int, ...], address: int) -> None:
        del kind, index
        self.bound[name] = element, shape, address

    bind_output = bind_input


class FakeCudaSession:
    """A session that says that it runs on the provider that it was asked for.

    Attributes:
        library: The real ``InferenceSession``, which computes.
        in_one_call: Whether the first call with a number makes all the runs up to the capture.
        opened: The sessions that were opened.
        settings: The options of the provider.
        calls: What each call did, with its number: ``run``, ``capture`` or ``replay``.
        options: The run options of each call.
        refused: What a capture fails with.
    """

    library: ClassVar[Any]
    in_one_call: ClassVar[bool] = True
    opened: ClassVar[list[FakeCudaSession]]

    def __init__(self, model: bytes, options: Any, providers: list[tuple[str, Mapping[str, str]]]) -> None:
        ((self._provider, self.settings),) = providers
        self._session = self.library(model, options, providers=["CPUExecutionProvider"])
        self._graphs: dict[int, Callable[[], None]] = {}
        self._runs: Counter[int] = Counter()
        self.calls: list[tuple[str, int]] = []
        self.options: list[Any] = []
        self.refused = ""
        self.opened.append(self)

    def get_providers(self) -> list[str]:
        return [self._provider]

    def io_binding(self) -> FakeBinding:
        return FakeBinding()

    def run_with_iobinding(self, binding: FakeBinding, options: Any) -> None:
        self.options.append(options)
        compute = partial(_compute, self._session, dict(binding.bound))
        if self.settings.get("enable_cuda_graph") != "1":
            compute()
            return
        number = int(options.get_run_config_entry("gpu_graph_id"))
        while number not in self._graphs:
            if self._runs[number] == _REGULAR_RUNS:
                if self.refused:
                    raise RuntimeError(self.refused)
                self._graphs[number] = compute
                self.calls.append(("capture", number))
                break
            self._runs[number] += 1
            self.calls.append(("run", number))
            compute()
            if not self.in_one_call:
                return
        else:
            self.calls.append(("replay", number))
        self._graphs[number]()

    def release_captured_graph(self, number: int = 0) -> None:
        del self._graphs[number]
        self.calls.append(("release", number))

    def take_calls(self) -> list[tuple[str, int]]:
        """What was done since the last time this was asked."""
        calls, self.calls = self.calls, []
        return calls


def imitation_of(library: Any) -> type[FakeCudaSession]:
    """A class to put in the place of the library's ``InferenceSession``."""
    return type("FakeCudaSession", (FakeCudaSession,), {"library": library.InferenceSession, "opened": []})


def _compute(session: Any, bound: Mapping[str, tuple[Any, tuple[int, ...], int]]) -> None:
    images, logits = (_at(address, shape, element) for element, shape, address in bound.values())
    logits[...] = session.run(None, {next(iter(bound)): images})[0]


def _at(address: int, shape: tuple[int, ...], element: Any) -> np.ndarray:
    kind = np.dtype(element)
    buffer = (ctypes.c_byte * (prod(shape) * kind.itemsize)).from_address(address)
    return np.frombuffer(buffer, kind).reshape(shape)
