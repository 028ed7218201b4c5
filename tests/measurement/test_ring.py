from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lenet import parity
from lenet.backends import load
from lenet.backends.base import BatchRange, BuildSpec
from lenet.comparison import check_in_flight, reference_of
from lenet.data.synthetic import synthetic
from lenet.measurement.ring import Ring
from lenet.vocabulary import InputType, Precision
from lenet.weights import Arrays
from tests.measurement import fake_streams
from tests.measurement.fake_streams import LateCuda, LateEvent, LateStream, LateTensor, TimedCuda

BATCH = 2


def late_ring(
    cuda: LateCuda, depth: int, network: Callable[[torch.Tensor], torch.Tensor], *, zero_copy: bool = False
) -> Ring:
    runner = cuda.runner(network)
    sources = [torch.zeros(BATCH, 3, 32, 32, dtype=torch.uint8) for _ in range(depth)]
    images: list[Any] = sources if zero_copy else [LateTensor(cuda, *one.shape) for one in sources]
    if zero_copy:
        runner.forward = _reading_the_host(runner, network, cuda)
    return Ring(runner, list(zip(sources, images, strict=True)))


def _reading_the_host(runner: Any, network: Callable[[torch.Tensor], torch.Tensor], cuda: LateCuda) -> Any:
    logits = LateTensor(cuda)

    def forward(source: torch.Tensor) -> LateTensor:
        runner.stream.put(lambda: logits.fill(network(source)))
        return logits

    return forward


@settings(max_examples=40)
@given(st.data(), st.integers(1, 5), st.integers(1, 12), st.booleans(), st.sampled_from([None, "copy", "compute"]))
def test_each_batch_has_its_own_logits_whatever_order_the_streams_run_in(
    data: st.DataObject, depth: int, number: int, zero_copy: bool, held: Any
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        cuda = LateCuda(monkeypatch, lambda many: data.draw(st.integers(0, many - 1)) if many > 1 else 0)
        ring = late_ring(cuda, depth, lambda images: images[:, 0, 0, :10].float(), zero_copy=zero_copy)
        batches = [torch.full((BATCH, 3, 32, 32), one + 1, dtype=torch.uint8) for one in range(number)]
        found = ring.logits(batches, held)
        assert [one.unique().tolist() for one in found] == [[one + 1] for one in range(number)]
        assert not any(stream.work for stream in cuda.streams[:2]), "something is still in flight"


def test_a_stream_is_held_back_for_longer_than_the_host_needs_to_fill_every_slot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = LateCuda(monkeypatch, lambda _: 0)
    ring = late_ring(cuda, 3, lambda images: images[:, 0, 0, :10].float())
    ticks = count(step=2e-3)  # the time of a copy to a slot, in seconds
    monkeypatch.setattr("lenet.measurement.ring.perf_counter", lambda: next(ticks))
    ring.logits([torch.zeros(BATCH, 3, 32, 32, dtype=torch.uint8)] * 4, "copy")
    assert cuda.held == pytest.approx([2 * 3 * 2e-3] * 4)


@pytest.fixture(scope="module")
def reference(arrays: Arrays) -> parity.Reference:
    return reference_of(arrays, synthetic(32).images, InputType.UINT8)


def _ring_of_the_network(monkeypatch: pytest.MonkeyPatch, arrays: Arrays, choose: fake_streams.Choose) -> Ring:
    cuda = LateCuda(monkeypatch, choose)
    return late_ring(cuda, 3, lambda images: parity.reference(arrays, images).float())


ORDERS: dict[str, fake_streams.Choose] = {
    "the first stream first": lambda _: 0,
    "the last first": lambda many: many - 1,
}


@pytest.mark.parametrize("order", ORDERS)
def test_a_right_ring_is_right(
    monkeypatch: pytest.MonkeyPatch, arrays: Arrays, reference: parity.Reference, order: str
) -> None:
    check_in_flight(_ring_of_the_network(monkeypatch, arrays, ORDERS[order]), reference, BATCH, "fp32")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("what", "name"), [(LateStream, "wait_event"), (LateEvent, "synchronize")], ids=["the stream's", "the host's"]
)
def test_a_wait_that_is_missing_is_found_in_any_order(
    monkeypatch: pytest.MonkeyPatch, arrays: Arrays, reference: parity.Reference, what: type, name: str, order: str
) -> None:
    ring = _ring_of_the_network(monkeypatch, arrays, ORDERS[order])
    monkeypatch.setattr(what, name, lambda *_: None)
    with pytest.raises(parity.ParityError, match="with 3 batches in flight the logits of a batch are wrong") as caught:
        check_in_flight(ring, reference, BATCH, "fp32")
    assert "--depth=1" in caught.value.hint


@pytest.mark.parametrize(
    ("depth", "copy", "compute", "seconds", "latency"),
    [
        (1, 2e-3, 1e-3, 3e-3, 3e-3),
        (2, 2e-3, 1e-3, 2e-3, 4e-3),  # a slot waits for its turn to be copied
        (3, 2e-3, 1e-3, 2e-3, 6e-3),
        (3, 1e-3, 2e-3, 2e-3, 6e-3),
    ],
)
def test_copies_and_passes_overlap(
    monkeypatch: pytest.MonkeyPatch, depth: int, copy: float, compute: float, seconds: float, latency: float
) -> None:
    cuda = TimedCuda(monkeypatch, copy=copy, compute=compute)
    ring = Ring(cuda.runner, [(torch.zeros(1), cuda.images) for _ in range(depth)])
    rounds = ring.windows(4, 0.05)
    assert len(rounds) == 4
    for one in rounds:
        assert one.wall == pytest.approx(seconds)
        assert len(one.latencies) * one.wall >= 0.05 - 1e-9
        assert one.latencies == pytest.approx([latency] * len(one.latencies))
    assert [one.wall for one in ring.copies(2, 0.05)] == pytest.approx([copy] * 2)
    assert [one.wall for one in ring.passes(2, 0.05)] == pytest.approx([compute] * 2)


def test_windows_follow_each_other_without_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = TimedCuda(monkeypatch, copy=2e-3, compute=1e-3)
    ring = Ring(cuda.runner, [(torch.zeros(1), cuda.images) for _ in range(3)])
    began = cuda.now
    rounds = ring.windows(10, 0.011)
    batches = sum(len(one.latencies) for one in rounds)
    assert sum(len(one.latencies) * one.wall for one in rounds) == pytest.approx(2e-3 * batches)
    # Before them the ring was filled, and each slot waited for once; after them it ran empty.
    assert cuda.now - began == pytest.approx(2e-3 * (batches + 2 * 3) + 1e-3)


def test_work_counts_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = TimedCuda(monkeypatch, copy=2e-3, compute=1e-3)
    ring = Ring(cuda.runner, [(torch.zeros(1), cuda.images) for _ in range(3)])
    began = cuda.now
    batches = ring.work(0.011)
    assert cuda.now - began == pytest.approx(2e-3 * batches + 1e-3)
    assert batches >= 0.011 / 2e-3


@pytest.fixture
def gpu_ring(arrays: Arrays) -> Iterator[tuple[Ring, parity.Reference]]:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    device = torch.device("cuda", 0)
    spec = BuildSpec(device, Precision.FP32, BatchRange.exactly(1000), InputType.UINT8)
    reference = reference_of(arrays, synthetic(1000).images, InputType.UINT8)
    with load("pytorch").build(arrays, spec) as runner:
        with runner.on_stream():
            batch = reference.images
            slots = [(batch.pin_memory(), torch.empty_like(batch, device=device)) for _ in range(3)]
        with torch.inference_mode(), runner.on_stream():
            yield Ring(runner, slots), reference


def test_a_gpu_s_ring_is_right_and_times_overlap(gpu_ring: tuple[Ring, parity.Reference]) -> None:
    ring, reference = gpu_ring
    check_in_flight(ring, reference, 1000, "fp32")
    rounds = ring.windows(3, 0.02)
    check_in_flight(ring, reference, 1000, "fp32")
    assert all(0 < one.wall <= min(one.latencies) for one in rounds)


@pytest.mark.parametrize(("what", "name"), [("Stream", "wait_event"), ("Event", "synchronize")])
def test_a_gpu_s_missing_wait_is_found(
    monkeypatch: pytest.MonkeyPatch, gpu_ring: tuple[Ring, parity.Reference], what: str, name: str
) -> None:
    ring, reference = gpu_ring
    monkeypatch.setattr(getattr(torch.cuda, what), name, lambda *_: None)
    with pytest.raises(parity.ParityError, match="in flight"):
        check_in_flight(ring, reference, 1000, "fp32")
