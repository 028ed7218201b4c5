from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lenet import weights
from lenet.data import augmentation
from lenet.data.synthetic import synthetic
from lenet.models.pytorch_lenet import LeNet
from lenet.training import cpu_forward, gpu_forward, loop
from lenet.training.batches import draw_epoch, epoch_batches
from lenet.training.ranks import Ranks
from lenet.training.recipe import Recipe
from lenet.training.run import EpochRecord, new_run
from lenet.training.steps import GraphStep, Step, ThreadedStep, exact_float32, step_for

RECIPE = Recipe(batch_size=8, learning_rate=0.02, milestones=(1,))
SPLIT = synthetic(1004, 1)  # so that the last batch is shorter
DRAW = draw_epoch(len(SPLIT), RECIPE, 1)
CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def epochs(step: Step, count: int, images: int = len(SPLIT)) -> list[float]:
    """Loss and accuracy of each, one after the other."""
    split = SPLIT.head(images).to(step.device)
    each = (loop.train_epoch(step, split.images, split.labels, RECIPE, epoch + 1) for epoch in range(count))
    return [measure for measures in each for measure in measures]


def new_steps(device: torch.device) -> tuple[Step, Step]:
    """One that launches and one that replays, from the same weights."""
    launched, replayed = (new_run(RECIPE, SPLIT, device) for _ in range(2))
    return (
        Step(launched.model, launched.optimizer, Ranks()),
        GraphStep(replayed.model, replayed.optimizer, Ranks(), RECIPE.batch_size),
    )


def values(step: Step) -> list[torch.Tensor]:
    return [tensor.detach().cpu().clone() for tensor in step.state()]


@pytest.fixture
def graphs_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stand-ins for CUDA graphs: a capture runs what it captures, and a replay runs that again.

    Returns:
        The replays, to be counted.
    """
    replays: list[int] = []
    open_captures: list[GraphStep] = []

    class Stream:
        def __init__(self, _device: torch.device) -> None: ...
        def wait_stream(self, _other: object) -> None: ...

    class Graph:
        def replay(self) -> None:
            replays.append(1)
            step = open_captures[0]
            step._logits = step._descend(step._images, step._labels)

    @contextmanager
    def anything(*_: object, **__: object) -> Iterator[None]:
        yield

    def capture(step: GraphStep, *arguments: Any) -> None:
        open_captures.append(step)
        original(step, *arguments)

    original = GraphStep._capture
    monkeypatch.setattr(GraphStep, "_capture", capture)
    for name, fake in (("Stream", Stream), ("current_stream", Stream), ("CUDAGraph", Graph)):
        monkeypatch.setattr(torch.cuda, name, fake)
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, anything)
    return replays


def test_a_capture_changes_nothing_and_replays_are_the_same_steps(graphs_on_a_cpu: list[int]) -> None:
    launched, replayed = new_steps(CPU)
    for before, after in zip(launched.parameters, replayed.parameters, strict=True):
        assert torch.equal(before, after), "what the capture changed was put back"
    assert epochs(launched, 2) == epochs(replayed, 2)
    assert len(graphs_on_a_cpu) == 2 * (len(SPLIT) // RECIPE.batch_size), "short batches are launched"
    for one, other in zip(values(launched), values(replayed), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("forward", [gpu_forward.forward, cpu_forward.forward])
def test_other_ways_to_convolve_learn_the_same(forward: Callable[[LeNet, torch.Tensor], torch.Tensor]) -> None:
    """In 20 steps: rounding differs from processor to processor, and grows until a unit turns on in one run alone."""
    plain, other = (new_run(RECIPE, SPLIT, CPU) for _ in range(2))
    steps = (
        Step(plain.model, plain.optimizer, Ranks()),
        Step(other.model, other.optimizer, Ranks(), partial(forward, other.model)),
    )
    assert epochs(steps[0], 1, 160) == pytest.approx(epochs(steps[1], 1, 160), rel=1e-4)
    for one, another in zip(plain.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(one.detach(), another.detach(), rtol=0, atol=1e-4)


def test_a_learning_rate_in_a_tensor_is_set_in_place() -> None:
    run = new_run(RECIPE, SPLIT, CPU)
    rate = run.optimizer.param_groups[0]["lr"] = torch.tensor(RECIPE.learning_rate)
    Step(run.model, run.optimizer, Ranks()).begin_epoch(0.25)
    assert run.optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == 0.25


def test_a_cpu_gets_no_graph() -> None:
    run = new_run(RECIPE, SPLIT, CPU)
    assert type(step_for(run.model, run.optimizer, RECIPE.batch_size, Ranks())) is Step


def test_exact_float32_is_put_back() -> None:
    def flags() -> tuple[bool, bool]:
        return torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic

    before = flags()
    with exact_float32():
        assert flags() == (False, True)
    assert flags() == before


@needs_gpu
def test_on_a_gpu_replays_are_the_same_steps() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    with exact_float32():
        launched, replayed = new_steps(device)
        assert epochs(launched, 2) == pytest.approx(epochs(replayed, 2))
        for one, other in zip(values(launched), values(replayed), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@needs_gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_nothing_waits_for_the_gpu_inside_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lenet.training.batches._GPU_IMAGES_AT_ONCE", 400)
    device = torch.device("cuda", torch.cuda.current_device())
    with exact_float32():
        _, step = new_steps(device)
        split = SPLIT.to(device)
        step.begin_epoch(0.01)
        batches = epoch_batches(split.images, split.labels, RECIPE, DRAW)
        step(*next(batches))  # after the draw was copied to the GPU
        try:
            torch.cuda.set_sync_debug_mode("error")
            for images, labels in batches:
                if len(labels) == RECIPE.batch_size:
                    step(images, labels)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@needs_gpu
def test_a_gpu_sees_the_batches_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lenet.training.batches._GPU_IMAGES_AT_ONCE", 400)
    on_gpu = SPLIT.to(torch.device("cuda", torch.cuda.current_device()))
    batches = (epoch_batches(split.images, split.labels, RECIPE, DRAW) for split in (SPLIT, on_gpu))
    for (images, labels), (others, other_labels) in zip(*batches, strict=True):
        torch.testing.assert_close(images, others.cpu(), rtol=1e-6, atol=1e-6)
        assert torch.equal(labels, other_labels.cpu())


@needs_gpu
def test_a_gpu_learns_as_a_cpu_does() -> None:
    """The same batches and weights, so each tensor ends, within a twentieth of its way, at the same place.

    Rounding alone leaves a millionth. But it may decide which of two nearly equal values a pool takes: one such choice
    in 40 steps leads a tensor away by a hundredth of its way.
    """
    device = torch.device("cuda", torch.cuda.current_device())
    with exact_float32():
        before, for_cpu, for_gpu = (new_run(RECIPE, SPLIT, one) for one in (CPU, CPU, device))
        on_cpu = Step(for_cpu.model, for_cpu.optimizer, Ranks())
        on_gpu = step_for(for_gpu.model, for_gpu.optimizer, RECIPE.batch_size, Ranks())
        assert epochs(on_cpu, 1, 320) == pytest.approx(epochs(on_gpu, 1, 320), rel=1e-3)
        each = zip(*(run.model.parameters() for run in (before, for_cpu, for_gpu)), strict=True)
        for start, one, other in each:
            assert (one - other.cpu()).norm() < 0.05 * (one - start).norm()


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def step_of(count: int, set_threads: Callable[[int], None]) -> Step:
    set_threads(count)
    run = new_run(RECIPE, SPLIT, CPU)
    return step_for(run.model, run.optimizer, RECIPE.batch_size, Ranks())


@pytest.mark.parametrize(("count", "parts"), [(1, None), (2, 2), (3, 3), (64, 4)])
def test_torch_s_threads_up_to_four_take_parts_of_a_batch(
    count: int, parts: int | None, threads: Callable[[int], None]
) -> None:
    step = step_of(count, threads)
    assert isinstance(step, ThreadedStep) == (parts is not None)
    if isinstance(step, ThreadedStep):
        assert len(step._twins) == parts


@pytest.mark.parametrize("count", [2, 3])
def test_threads_train_as_one_but_for_rounding_and_each_time_to_the_same_bits(
    count: int, threads: Callable[[int], None]
) -> None:
    """Batches of 8 in three parts are of 3, 3 and 2; the last batch, of 4, has two parts."""
    one, several, again = (step_of(number, threads) for number in (1, count, count))
    figures = [epochs(step, 2, 100) for step in (one, several, again)]
    assert figures[1] == pytest.approx(figures[0], rel=1e-3)
    assert figures[2] == figures[1]
    for alone, shared, repeated in zip(values(one), values(several), values(again), strict=True):
        torch.testing.assert_close(shared, alone, rtol=1e-3, atol=1e-4)
        assert torch.equal(shared, repeated)


def test_a_batch_of_fewer_images_than_threads_takes_a_step(threads: Callable[[int], None]) -> None:
    one, several = (step_of(number, threads) for number in (1, 3))
    for step in (one, several):
        step.begin_epoch(0.02)
        for rows in (slice(0, 8), slice(8, 9)):
            step(augmentation.normalize(SPLIT.images[rows]), SPLIT.labels[rows])
        step.end_epoch()
    for alone, shared in zip(values(one), values(several), strict=True):
        torch.testing.assert_close(shared, alone, rtol=1e-4, atol=1e-5)


def test_what_fails_in_a_thread_reaches_the_caller(threads: Callable[[int], None]) -> None:
    step = step_of(2, threads)
    step.begin_epoch(0.02)
    step(torch.zeros(8, 3, 31, 31), torch.zeros(8, dtype=torch.int64))
    with pytest.raises(RuntimeError):
        step.end_epoch()


def test_torch_has_its_threads_again_at_an_epoch_s_end(threads: Callable[[int], None]) -> None:
    step = step_of(3, threads)
    epochs(step, 1, 16)
    assert torch.get_num_threads() == 3


def test_a_resumed_run_of_several_threads_has_the_same_bits(tmp_path: Path, threads: Callable[[int], None]) -> None:
    threads(2)
    whole, parted = tmp_path / "whole", tmp_path / "parted"

    def trained(out: Path, epochs: int, *, resume: bool = False) -> None:
        recipe = replace(RECIPE, epochs=epochs, train_images=100)
        loop.train(recipe, SPLIT, SPLIT.head(50), out=out, device=CPU, resume=resume)

    class Stopped(Exception):  # noqa: N818 - no error, but what ends the first part
        pass

    def stop(record: EpochRecord) -> None:
        if record.epoch == 1:
            raise Stopped

    trained(whole, 2)
    recipe = replace(RECIPE, epochs=2, train_images=100)
    with pytest.raises(Stopped):
        loop.train(recipe, SPLIT, SPLIT.head(50), out=parted, device=CPU, on_epoch=stop)
    threads(2)
    trained(parted, 2, resume=True)
    assert weights.digest(weights.load(whole / "weights.safetensors").arrays) == weights.digest(
        weights.load(parted / "weights.safetensors").arrays
    )
