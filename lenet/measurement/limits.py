"""The machine's limits, measured: what `lenet.measurement.floor` holds rows to.

Each is the best of a few repetitions of work that does one thing only: the product of two large matrices, the copy of a
buffer on the device, the copy of one from the host, a CUDA graph of one tiny kernel. On a CPU all of it takes a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from time import perf_counter
from typing import Final

import torch

from lenet import devices
from lenet.backends.base import ADA, AMPERE
from lenet.backends.precision import DTYPES, allow_tf32
from lenet.measurement.floor import Limits, Rates
from lenet.measurement.protocol import Coursework
from lenet.measurement.readiness import OtherWork
from lenet.measurement.rounds import measure
from lenet.vocabulary import HostMemory, Mode, Precision

__all__ = ["measure_limits"]

_MATRIX: Final = {"cuda": 4096, "cpu": 512}
"""Rows and columns of the matrices: large enough for the full rate, small enough for milliseconds."""

_SIZES: Final = {"cuda": tuple(2**power for power in range(20, 30)), "cpu": tuple(2**power for power in range(16, 28))}
"""Bytes that are moved, from what fits in a cache to what fits in none."""

_GRAPH_BYTES: Final = 2**31
_MOST_COPIES: Final = 500
"""Bytes and copies in one launch of copies on a GPU: a copy of a megabyte is shorter than its launch."""

_SECONDS: Final = 0.02
_ARITHMETIC_SECONDS: Final = 0.1
"""How long the best of each limit is looked for: longer where two threads must find the machine free at once."""

_FEWEST_LOOKS: Final = 5
"""Looks at the clock that each limit is the best of, unless they take five times as long."""

_AGAIN: Final = 2
"""How often the limits of a busy CPU are measured again."""

_LAUNCHES: Final = 200
"""Launches, each looked at by itself, of which the shortest counts."""

_LOOK_SECONDS: Final = 1e-3
"""As many calls as fill this are made between two looks, so that neither the clock nor a launch is what is measured."""


def measure_limits(device: torch.device) -> Limits:
    """Measure what a device can do. Where other work disturbs a CPU, the best of up to three measurements counts.

    Args:
        device: A GPU, with its index, or the CPU with torch's present number of threads.
    """
    work = OtherWork()
    found = _measure(device)
    for _ in range(_AGAIN):
        if device.type != "cpu" or not work.disturbs(work.look()):
            break
        found = _best(found, _measure(device))
    return found


def _best(one: Limits, other: Limits) -> Limits:
    """The higher rates and the shorter launches of two measurements of a device."""

    def rates(first: Rates, second: Rates) -> Rates:
        return tuple((size, max(rate, again)) for (size, rate), (_, again) in zip(first, second, strict=True))

    return Limits(
        arithmetic={name: max(rate, other.arithmetic[name]) for name, rate in one.arithmetic.items()},
        memory=rates(one.memory, other.memory),
        copy={kind: rates(found, other.copy[kind]) for kind, found in one.copy.items()},
        launch=min(one.launch, other.launch),
        launch_wall=min(one.launch_wall, other.launch_wall),
    )


def _measure(device: torch.device) -> Limits:
    with torch.inference_mode(), torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        rates = {str(asked): _arithmetic(device, asked) for asked in DTYPES if _has(device, asked)}
        # Operands can be widened: a precision whose own products are slow, or slowly written, has a wider one's rate.
        rates = {name: max(rate, rates[Precision.FP32]) for name, rate in rates.items()}
        if device.type == "cuda":
            of_bytes = _arithmetic_of_bytes(device, torch.cuda.get_device_capability(device))
            rates |= {name: max(rate, rates[Precision.FP16]) for name, rate in of_bytes.items()}
        launch, launch_wall = _launch(device)
        return Limits(
            arithmetic=rates,
            memory=tuple((size, _memory(device, size)) for size in _SIZES[device.type]),
            copy=_copies(device),
            launch=launch,
            launch_wall=launch_wall,
        )


def _has(device: torch.device, precision: Precision) -> bool:
    if device.type == "cuda":
        return precision in {Precision.FP32, Precision.FP16} or torch.cuda.get_device_capability(device) >= AMPERE
    return precision is not Precision.TF32


def _arithmetic(device: torch.device, precision: Precision) -> float:
    """Floating-point operations a second of a matrix product."""
    size = _MATRIX[device.type]
    allow_tf32(precision is Precision.TF32)
    left, right, product = (torch.rand(size, size, device=device).to(DTYPES[precision]) for _ in range(3))
    seconds = _shortest(lambda: torch.mm(left, right, out=product), device, _ARITHMETIC_SECONDS)
    return 2 * size**3 / seconds


def _arithmetic_of_bytes(device: torch.device, capability: tuple[int, int]) -> dict[str, float]:
    """Operations a second of int8 and of e4m3 matrix products, of those that a GPU of the compute capability has.

    PyTorch's int8 product on a CPU is a plain loop, slower than its float32 one: a CPU has no such limit.
    """
    size = _MATRIX[device.type]
    left, right = (torch.randint(-127, 128, (size, size), dtype=torch.int8, device=device) for _ in range(2))
    # PyTorch has no public int8 product, and a public e4m3 one only from 2.10 on.
    calls: dict[str, Callable[[], object]] = {Precision.INT8.value: lambda: torch._int_mm(left, right.t())}  # noqa: SLF001
    if capability >= ADA:
        wide = torch.rand(size, size, device=device)
        narrow, one = wide.to(torch.float8_e4m3fn), torch.ones((), device=device)
        calls[Precision.FP8.value] = lambda: torch._scaled_mm(  # noqa: SLF001
            narrow, narrow.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16
        )
    found = {}
    for name, call in calls.items():
        with suppress(RuntimeError):  # a build of PyTorch without the kernel: rows of the precision have no floor
            found[name] = 2 * size**3 / _shortest(call, device, _ARITHMETIC_SECONDS)
    return found


def _memory(device: torch.device, moved: int) -> float:
    """Bytes a second that are read and written when half as many are copied; on a GPU, of many copies in one launch."""
    source, target = (torch.zeros(moved // 2, dtype=torch.uint8, device=device) for _ in range(2))
    if device.type == "cpu":
        return moved / _shortest(lambda: target.copy_(source), device)
    copies = min(max(_GRAPH_BYTES // moved, 1), _MOST_COPIES)
    graph = torch.cuda.CUDAGraph()
    with devices.capturing(graph, None):
        for _ in range(copies):
            target.copy_(source)
    return copies * moved / _shortest(graph.replay, device)


def _copies(device: torch.device) -> dict[str, Rates]:
    """Bytes a second from the host; the pageable copy waits for itself, the pinned one is queued."""
    if device.type == "cpu":
        return {}
    rates: dict[HostMemory, list[tuple[int, float]]] = {HostMemory.PINNED: [], HostMemory.PAGEABLE: []}
    for size in (2**20, 2**22, 2**24, 2**26, 2**28):
        target = torch.empty(size, dtype=torch.uint8, device=device)
        for kind, measured in rates.items():
            source = torch.zeros(size, dtype=torch.uint8, pin_memory=kind == HostMemory.PINNED)
            copy = partial(target.copy_, source, non_blocking=True)
            measured.append((size, size / _shortest(copy, device)))
    return {kind: tuple(measured) for kind, measured in rates.items()}


def _launch(device: torch.device) -> tuple[float, float]:
    """The shortest forward round, and the shortest end-to-end one: of a graph of one tiny kernel, or of an operator."""
    if device.type == "cpu":
        tiny = torch.zeros(1).zero_
        shortest = min(_seconds(tiny, device, 1) for _ in range(_LAUNCHES))
        return shortest, shortest
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        one = torch.zeros(1, device=device)
        one.add_(1)  # loads the kernel
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with devices.capturing(graph, stream):
            one.add_(1)
        rounds = measure(graph.replay, mode=Mode.FORWARD, stream=stream, protocol=Coursework(rounds=_LAUNCHES))
    return float(rounds.seconds.min()), float(rounds.wall.min())


def _shortest(call: Callable[[], object], device: torch.device, seconds: float = _SECONDS) -> float:
    """Seconds of a call, the least of several looks at a series of calls."""
    if device.type == "cuda":
        _seconds(call, device, 1)  # loads libraries and kernels
    best, calls, looks, elapsed, began = math.inf, 1, 0, 0.0, perf_counter()
    while elapsed < (seconds if looks >= _FEWEST_LOOKS else 5 * seconds):
        best = min(best, _seconds(call, device, calls))
        calls = max(round(_LOOK_SECONDS / best), 1)
        looks += 1
        elapsed = perf_counter() - began
    return best


def _seconds(call: Callable[[], object], device: torch.device, calls: int) -> float:
    """Seconds of a call in a series of so many, until the device is done."""
    began = perf_counter()
    for _ in range(calls):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (perf_counter() - began) / calls
