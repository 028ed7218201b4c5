"""The pipeline of a throughput row: its depth, what does not fit, and the number of runners on a CPU."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import psutil
import pytest
import torch

from lenet.backends import load
from lenet.backends.base import Backend, BatchRange, BuildSpec, Runner
from lenet.backends.buffer_cache import MOST_BUFFERS
from lenet.comparison import reference_of
from lenet.data.synthetic import synthetic
from lenet.errors import UnavailableError
from lenet.measurement import ring, rounds
from lenet.measurement.host_state import IdleHostWatch
from lenet.measurement.memory import PeakMemory
from lenet.measurement.parallel import threads
from lenet.measurement.protocol import Coursework
from lenet.measurement.recorder import Round
from lenet.results import Case
from lenet.suite import sustained
from lenet.suite.builds import Built
from lenet.suite.energy import CHUNK
from lenet.suite.instruments import Instruments
from lenet.suite.options import check_depth
from lenet.vocabulary import InputType, Mode, Precision
from lenet.weights import Arrays
from tests.measurement.fake_streams import TimedCuda

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
SPEC = BuildSpec(CPU, Precision.FP32, BatchRange.exactly(2), InputType.UINT8)
IMAGES = torch.ones(2, 3, 32, 32, dtype=torch.uint8)
HOST = IMAGES.clone()
BATCHES: Any = SimpleNamespace(on_host=lambda *_: HOST, reference=lambda *_: SimpleNamespace(images=IMAGES))
CASE = Case(
    "x", Mode.THROUGHPUT, "fp32", "fp32", 2, "a GPU", "images", "pinned", cold_cache=False, protocol="adaptive", depth=3
)


class Idle(Runner):
    """Gives its images back."""

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


def config(*modes: Mode, depth: int | None, numbers: tuple[int, ...] = ()) -> pytest.Config:
    options: Any = {"--depth": depth, "--mode": modes, "--threads": numbers}
    return SimpleNamespace(getoption=options.get)  # type: ignore[return-value]


def test_a_depth_is_for_throughput_and_for_as_many_buffers_as_a_runner_prepares() -> None:
    check_depth(config(depth=None), GPU)
    check_depth(config(Mode.FORWARD, Mode.THROUGHPUT, depth=MOST_BUFFERS), GPU)
    with pytest.raises(pytest.UsageError, match="--depth=2 is for throughput: add --mode=throughput"):
        check_depth(config(Mode.FORWARD, depth=2), GPU)
    with pytest.raises(pytest.UsageError, match=f"choose --depth={MOST_BUFFERS} or less"):
        check_depth(config(Mode.THROUGHPUT, depth=MOST_BUFFERS + 1), GPU)


def test_on_a_cpu_a_depth_is_within_the_cores_of_every_row() -> None:
    with threads(2):
        check_depth(config(Mode.THROUGHPUT, depth=2), CPU)
        with pytest.raises(pytest.UsageError, match="torch uses 2: choose --depth=2 or less"):
            check_depth(config(Mode.THROUGHPUT, depth=3), CPU)
    check_depth(config(Mode.THROUGHPUT, depth=3, numbers=(4, 3)), CPU)
    with pytest.raises(pytest.UsageError, match="--threads=1 gives a row 1: choose --depth=1, or more threads by"):
        check_depth(config(Mode.THROUGHPUT, depth=3, numbers=(4, 1)), CPU)


def test_the_number_of_runners_on_a_cpu_is_found_if_none_is_asked_for() -> None:
    assert [sustained.depth_of(config(depth=depth), CPU) for depth in (None, 1, 2)] == [None, 1, 2]
    assert [sustained.depth_of(config(depth=depth), GPU) for depth in (None, 9)] == [3, 9]


def test_the_slots_hold_copies_of_the_batch_and_the_first_is_the_runner_s_buffer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = TimedCuda(monkeypatch, copy=1e-3, compute=1e-3)
    given: list[Any] = []

    def noting(_runner: Runner, slots: list[Any]) -> ring.Ring:
        given.extend(slots)
        return ring.Ring(cuda.runner, [(source, cuda.images) for source, _ in slots])

    monkeypatch.setattr(sustained, "Ring", noting)
    built = Built(Idle(SPEC, None), 0)
    with sustained._ring(CASE, built, BATCHES) as opened:
        assert opened.depth == 3
        HOST.zero_()  # as a check does
    assert torch.equal(HOST, IMAGES), "the row's own check after its rounds finds what it left"
    assert given[0][0] is HOST
    assert given[0][1] is built.buffer(HOST)
    assert all(torch.equal(source, IMAGES) for source, _ in given)
    assert len({one.data_ptr() for slot in given for one in slot}) == 6
    given.clear()
    zero_copy = Case(**{name: getattr(CASE, name) for name in CASE.__slots__} | {"host_memory": "zero-copy"})
    with sustained._ring(zero_copy, built, BATCHES):
        assert all(source is images for source, images in given)


def test_a_depth_that_does_not_fit_the_host_s_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 2 * HOST.nbytes - 1
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    said = r"--depth=3 does not fit at batch 2: 12,288 bytes more for its batches, 12,287 free in the host's memory"
    with pytest.raises(pytest.fail.Exception, match=said), sustained._ring(CASE, Built(Idle(SPEC, None), 0), BATCHES):
        pass


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "batch 2: CUDA out of memory: choose"),
        (RuntimeError("CUDA error: out of memory"), "batch 2: CUDA error: out of memory: choose a smaller --depth"),
        (RuntimeError("CUDA error: an illegal access"), None),
    ],
    ids=["the GPU's", "pinned", "another error"],
)
def test_a_depth_that_does_not_fit_the_gpu_is_refused(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError, said: str | None
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(sustained, "Ring", fails)
    kind, match = (pytest.fail.Exception, said) if said else (RuntimeError, "an illegal access")
    with pytest.raises(kind, match=match), sustained._ring(CASE, Built(Idle(SPEC, None), 0), BATCHES):
        pass


class Counted:
    """Runners side by side that take a known time."""

    seconds: ClassVar[dict[int, float]] = {1: 1.0}
    opened: ClassVar[list[Counted]] = []

    def __init__(self, runners: list[Runner], _batch: torch.Tensor, share: int) -> None:
        self.number, self.share, self.is_open = len(runners), share, True
        self.opened.append(self)

    def windows(self, count: int, _seconds: float) -> list[Round]:
        return [Round(None, self.seconds[self.number], 0.0, launch_bound=False)] * count

    def close(self) -> None:
        self.is_open = False


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> type[Counted]:
    """`Counted` in the place of real runners."""
    monkeypatch.setattr(Counted, "opened", [])
    monkeypatch.setattr(sustained, "ParallelRunners", Counted)
    return Counted


OPEN = replace(CASE, depth=None, host_memory=None)
"""A row of a CPU whose number of runners is to be found."""
ONE = Built(Idle(SPEC, None), 0)


@pytest.mark.parametrize(
    ("seconds", "fastest"),
    [({1: 1.0, 2: 2.0, 4: 3.0}, 1), ({1: 3.0, 2: 1.0, 4: 2.0}, 2), ({1: 3.0, 2: 2.0, 4: 1.0}, 4)],
)
def test_the_fastest_number_of_runners_is_measured(
    monkeypatch: pytest.MonkeyPatch, counted: type[Counted], seconds: dict[int, float], fastest: int
) -> None:
    monkeypatch.setattr(counted, "seconds", seconds)
    built_with: list[int] = []

    def build(*_: object) -> Runner:
        built_with.append(torch.get_num_threads())
        return Idle(SPEC, None)

    backend: Any = SimpleNamespace(build=build)
    with threads(4):
        with sustained._runners(OPEN, backend, ONE, {}, BATCHES) as found:
            assert found.number == fastest  # type: ignore[attr-defined]
            assert [one.number for one in counted.opened if one.is_open] == [fastest]
        assert not any(one.is_open for one in counted.opened)
        assert sorted(built_with) == [1] * 4 + [2] * 2 + [4]
        assert {one.number: one.share for one in counted.opened} == {1: 4, 2: 2, 4: 1}
        with sustained._runners(CASE, backend, ONE, {}, BATCHES) as found:
            assert (found.number, found.share) == (3, 1)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("counted")
def test_a_library_whose_threads_are_fixed_has_one_runner() -> None:
    def build(*_: object) -> Runner:
        if torch.get_num_threads() != 4:
            raise UnavailableError("no", found="4 threads, not fewer", wanted="as before", hint="x")
        return Idle(SPEC, None)

    backend: Any = SimpleNamespace(build=build)
    with threads(4):
        with sustained._runners(OPEN, backend, ONE, {}, BATCHES) as found:
            assert found.number == 1  # type: ignore[attr-defined]
        said = "4 threads, not fewer: choose --depth=1"
        with pytest.raises(pytest.skip.Exception, match=said), sustained._runners(CASE, backend, ONE, {}, BATCHES):
            pass


def test_a_row_of_a_gpu_is_checked_measured_and_taken_apart(monkeypatch: pytest.MonkeyPatch, arrays: Arrays) -> None:
    """Streams keep time, and the tensors are the host's: a copy takes a millisecond, a pass two."""
    cuda = TimedCuda(monkeypatch, copy=0.0, compute=2e-3)
    compute = cuda.runner.stream
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: stream.take(0.0 if stream is compute else 1e-3))
    reference = reference_of(arrays, synthetic(32).images, InputType.UINT8)
    host = reference.images[:2].clone()
    batches: Any = SimpleNamespace(on_host=lambda *_: host, reference=lambda *_: reference)
    spec: Any = SimpleNamespace(device=SimpleNamespace(type="cuda"), input=InputType.UINT8)
    with load("pytorch").build(arrays, SPEC) as network:

        def forward(images: torch.Tensor) -> torch.Tensor:
            cuda.runner.forward(images)
            return network.forward(images)

        runner: Any = SimpleNamespace(stream=compute, spec=spec, forward=forward, on_stream=nullcontext)
        empty_like = torch.empty_like
        monkeypatch.setattr(torch, "empty_like", lambda batch, device: empty_like(batch) if device else None)
        peak = PeakMemory(allocated=1, outside=2)
        monkeypatch.setattr(rounds, "sm_clock_hz", lambda stream: stream.take(0.0))
        monkeypatch.setattr(ring, "hold", lambda stream, _: stream.take(1e-3))
        monkeypatch.setattr(sustained, "peak_memory", lambda lap, _: lap() or peak)
        sampler: Any = SimpleNamespace(throttling=tuple)
        protocol = Coursework(warmups=1, rounds=10)
        built, backend = Built(runner, 0), cast("Backend", None)
        meter: Any = lambda work, *_: {"images": work()}  # noqa: E731
        instruments = Instruments(protocol, sampler, IdleHostWatch(), meter)
        found = sustained.run_sustained(CASE, backend, built, arrays, batches, instruments)
    assert found.throughput is not None
    assert found.samples.seconds == pytest.approx([2e-3] * 10)
    assert found.samples.latency.size >= 10 * 0.1 / 2e-3
    seconds = {"latency_p50": 6e-3, "latency_p95": 6e-3, "latency_p99": 6e-3}
    seconds |= {"copy_alone": 1e-3, "forward_alone": 2e-3}
    assert {name: getattr(found.throughput, name) for name in seconds} == pytest.approx(seconds)
    assert (found.throughput.depth, found.peak) == (3, peak)
    batches = found.energy["images"] / 2 - 2 * 3  # without those that fill the ring
    assert batches * 2e-3 == pytest.approx(CHUNK, abs=2e-3)
    assert torch.equal(host, reference.images[:2])
