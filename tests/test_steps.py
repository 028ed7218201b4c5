from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch

from lenet import training
from lenet.data.synthetic import synthetic
from lenet.models import paired_lenet, windowed_lenet
from lenet.models.pytorch_lenet import LeNet
from lenet.ranks import Ranks
from lenet.steps import GraphStep, Step, exact_float32, step_for
from lenet.training import Recipe

RECIPE = Recipe(batch_size=8, learning_rate=0.02, milestones=(1,))
SPLIT = synthetic(1004, 1)  # so that the last batch is shorter
DRAW = training.draw_epoch(len(SPLIT), RECIPE, 1)
CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def epochs(step: Step, count: int, images: int = len(SPLIT)) -> list[float]:
    """Loss and accuracy of each, one after the other."""
    split = SPLIT.head(images).to(step.device)
    each = (training.train_epoch(step, split.images, split.labels, RECIPE, epoch + 1) for epoch in range(count))
    return [measure for measures in each for measure in measures]


def new_steps(device: torch.device) -> tuple[Step, Step]:
    """One that launches and one that replays, from the same weights."""
    launched, replayed = (training.new_run(RECIPE, SPLIT, device) for _ in range(2))
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


@pytest.mark.parametrize("forward", [windowed_lenet.forward, paired_lenet.forward])
def test_other_ways_to_convolve_learn_the_same(forward: Callable[[LeNet, torch.Tensor], torch.Tensor]) -> None:
    """In 20 steps: rounding differs from processor to processor, and grows until a unit turns on in one run alone."""
    plain, other = (training.new_run(RECIPE, SPLIT, CPU) for _ in range(2))
    steps = (
        Step(plain.model, plain.optimizer, Ranks()),
        Step(other.model, other.optimizer, Ranks(), partial(forward, other.model)),
    )
    assert epochs(steps[0], 1, 160) == pytest.approx(epochs(steps[1], 1, 160), rel=1e-4)
    for one, another in zip(plain.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(one.detach(), another.detach(), rtol=0, atol=1e-4)


def test_a_learning_rate_in_a_tensor_is_set_in_place() -> None:
    run = training.new_run(RECIPE, SPLIT, CPU)
    rate = run.optimizer.param_groups[0]["lr"] = torch.tensor(RECIPE.learning_rate)
    Step(run.model, run.optimizer, Ranks()).begin_epoch(0.25)
    assert run.optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == 0.25


def test_a_cpu_gets_no_graph() -> None:
    run = training.new_run(RECIPE, SPLIT, CPU)
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
    monkeypatch.setattr(training, "_GPU_IMAGES_AT_ONCE", 400)
    device = torch.device("cuda", torch.cuda.current_device())
    with exact_float32():
        _, step = new_steps(device)
        split = SPLIT.to(device)
        step.begin_epoch(0.01)
        batches = training._batches(split.images, split.labels, RECIPE, DRAW)
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
    monkeypatch.setattr(training, "_GPU_IMAGES_AT_ONCE", 400)
    on_gpu = SPLIT.to(torch.device("cuda", torch.cuda.current_device()))
    batches = (training._batches(split.images, split.labels, RECIPE, DRAW) for split in (SPLIT, on_gpu))
    for (images, labels), (others, other_labels) in zip(*batches, strict=True):
        torch.testing.assert_close(images, others.cpu(), rtol=1e-6, atol=1e-6)
        assert torch.equal(labels, other_labels.cpu())


@needs_gpu
def test_a_gpu_learns_as_a_cpu_does() -> None:
    """The same batches and weights; from there on only rounding differs, which 40 steps do not amplify much."""
    device = torch.device("cuda", torch.cuda.current_device())
    with exact_float32():
        for_cpu, for_gpu = training.new_run(RECIPE, SPLIT, CPU), training.new_run(RECIPE, SPLIT, device)
        on_cpu = Step(for_cpu.model, for_cpu.optimizer, Ranks())
        on_gpu = step_for(for_gpu.model, for_gpu.optimizer, RECIPE.batch_size, Ranks())
        assert epochs(on_cpu, 1, 320) == pytest.approx(epochs(on_gpu, 1, 320), rel=1e-3)
        for one, other in zip(for_cpu.model.parameters(), for_gpu.model.parameters(), strict=True):
            torch.testing.assert_close(one.detach(), other.detach().cpu(), rtol=0, atol=1e-4)
