from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lenet.measurement import limits as module
from lenet.measurement.floor import Limits
from lenet.measurement.limits import measure_limits
from lenet.vocabulary import Precision

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def measured() -> Limits:
    """Once: it measures a busy machine up to three times, and the tests allow a factor of 100."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_AGAIN", 0)
        return measure_limits(CPU)


def test_a_cpu_has_every_limit_but_those_of_a_copy_and_of_tf32(measured: Limits) -> None:
    assert set(measured.arithmetic) == {"fp32", "fp16", "bf16"}
    assert all(rate >= measured.arithmetic["fp32"] for rate in measured.arithmetic.values())
    assert measured.copy == {}
    assert [size for size, _ in measured.memory] == [2**power for power in range(16, 28)]
    assert 0 < measured.launch < 1e-3


def test_the_rates_are_those_of_an_independent_look(measured: Limits) -> None:
    """Within a factor of 100: a wrong unit or a forgotten factor is off by more, a busy machine by less."""
    left, right = torch.rand(256, 256), torch.rand(256, 256)
    source = torch.rand(2**22)
    multiply = min(_seconds(lambda: left @ right) for _ in range(20))
    copy = min(_seconds(source.clone) for _ in range(20))
    assert 1e-2 < measured.arithmetic["fp32"] / (2 * 256**3 / multiply) < 1e2
    assert 1e-2 < max(rate for _, rate in measured.memory) / (2 * 4 * 2**22 / copy) < 1e2


class Traffic(TorchDispatchMode):
    """Bytes that copies read and write."""

    moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.copy_.default:
            self.moved += sum(tensor.nbytes for tensor in args[:2])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.BF16])
def test_a_rate_is_what_a_call_does_over_its_seconds(monkeypatch: pytest.MonkeyPatch, precision: Precision) -> None:
    """By PyTorch's own count of operations, and by the sizes of the tensors that are copied."""

    def shortest(call: Callable[[], object], *_: object) -> float:
        call()
        return 1e-3

    monkeypatch.setattr(module, "_shortest", shortest)
    with FlopCounterMode(display=False) as counter:
        rate = module._arithmetic(CPU, precision)
    assert rate == pytest.approx(counter.get_total_flops() / 1e-3)
    with Traffic() as traffic:  # type: ignore[no-untyped-call]
        rate = module._memory(CPU, 2**16)
    assert traffic.moved == 2**16
    assert rate == pytest.approx(traffic.moved / 1e-3)


@pytest.mark.parametrize(("capability", "known"), [((7, 5), {"int8"}), ((8, 9), {"int8", "fp8"})])
def test_products_of_bytes_are_those_that_a_gpu_has(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], known: set[str]
) -> None:
    """PyTorch's own products, on a CPU: each is made of bytes, and counted as so many operations."""
    made = []

    def shortest(call: Callable[[], object], *_: object) -> float:
        made.append(call())
        return 1e-3

    monkeypatch.setitem(module._MATRIX, "cpu", 64)
    monkeypatch.setattr(module, "_shortest", shortest)
    assert module._arithmetic_of_bytes(CPU, capability) == dict.fromkeys(known, pytest.approx(2 * 64**3 / 1e-3))
    assert [tuple(one.shape) for one in made if isinstance(one, torch.Tensor)] == [(64, 64)] * len(known)


def test_a_build_without_a_product_of_bytes_leaves_the_other_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise NotImplementedError("no kernel")

    monkeypatch.setitem(module._MATRIX, "cpu", 64)
    monkeypatch.setattr(torch, "_int_mm", missing)
    assert set(module._arithmetic_of_bytes(CPU, (9, 0))) == {"fp8"}


def _seconds(call: object) -> float:
    assert callable(call)
    began = perf_counter()
    call()
    return perf_counter() - began


def test_a_series_counts_as_one_call_s_share(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([1.0, 3.0])
    monkeypatch.setattr(module, "perf_counter", lambda: next(moments))
    calls: list[None] = []
    assert module._seconds(lambda: calls.append(None), CPU, 4) == 0.5
    assert len(calls) == 4


def test_the_least_of_several_looks_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of 2 us among slower ones; so many calls fill a look of a millisecond."""
    looks = iter([9e-3, 5e-6, 2e-6, *[7e-6] * 1000])
    series: list[int] = []

    def look(call: object, device: torch.device, calls: int) -> float:
        del call, device
        series.append(calls)
        return next(looks)

    monkeypatch.setattr(module, "_seconds", look)
    assert module._shortest(lambda: None, CPU, 1e-4) == 2e-6
    assert series[:4] == [1, 1, 200, 500]
    assert len(series) >= module._FEWEST_LOOKS
