"""The training step of our own kernels, emulated on a CPU, against PyTorch's."""

from __future__ import annotations

import pytest
import torch

from lenet.data.synthetic import synthetic
from lenet.training import loop
from lenet.training.ranks import Ranks
from lenet.training.recipe import Recipe
from lenet.training.run import Run, new_run
from lenet.training.steps import FusedStep, Step
from tests.kernels.emulated_step import kernels
from tests.kernels.emulation import COMPILER

pytestmark = pytest.mark.skipif(COMPILER is None, reason="the emulator is compiled by g++, which is not installed")

RECIPE = Recipe(batch_size=6, learning_rate=0.02, milestones=(1,))
SPLIT = synthetic(15, 1)  # two full batches, and one of three
CPU = torch.device("cpu")


def fused(run: Run) -> FusedStep:
    run.optimizer.param_groups[0]["lr"] = torch.tensor(run.recipe.learning_rate)
    return FusedStep(run.model, run.optimizer, run.recipe.batch_size, kernels())


def test_steps_are_pytorch_s() -> None:
    plain, ours = (new_run(RECIPE, SPLIT, CPU) for _ in range(2))
    steps = Step(plain.model, plain.optimizer, Ranks()), fused(ours)
    for epoch in (1, 2):
        one, other = (loop.train_epoch(step, SPLIT.images, SPLIT.labels, RECIPE, epoch) for step in steps)
        assert one == pytest.approx(other, rel=1e-5)
    for expected, found in zip(steps[0].state(), steps[1].state(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
