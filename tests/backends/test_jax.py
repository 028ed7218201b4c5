"""JAX: how memory is handed over, what a process keeps as it was, and what is refused."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lenet import backends, parity, weights
from lenet.architecture import INPUT_SHAPE
from lenet.backends import jax_xla
from lenet.backends.base import BatchRange, BuildSpec, Runner
from lenet.errors import BackendError, UnavailableError
from lenet.vocabulary import Precision

CPU = torch.device("cpu")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def runner() -> Runner:
    backend = backends.load("jax")
    if reason := backend.probe(CPU).reason:
        pytest.skip(reason)
    return backend.build(weights.load().arrays, BuildSpec(CPU, Precision.FP32, BatchRange(1, 2, 2)))


def at_offset(images: torch.Tensor, bytes_off: int) -> torch.Tensor:
    """The same images at an address that is off a multiple of 64 bytes by this much."""
    room = torch.empty(images.numel() + 32)
    start = (-room.data_ptr() // 4) % 16 + bytes_off // 4
    view = room[start : start + images.numel()].view(images.shape)
    view.copy_(images)
    return view


@pytest.mark.parametrize("offset", [0, 4, 16, 32])
def test_a_pass_reads_what_the_buffer_holds_then_wherever_it_lies(runner: Runner, offset: int) -> None:
    """XLA copies memory that is not aligned to 64 bytes: once would be wrong at the second pass."""
    arrays = weights.load().arrays
    buffer = at_offset(torch.zeros(2, *INPUT_SHAPE), offset)
    assert buffer.data_ptr() % 64 == offset
    for seed in range(3):
        images = torch.randn(2, *INPUT_SHAPE, generator=torch.Generator().manual_seed(seed))
        buffer.copy_(images)
        logits = runner.forward(buffer)
        assert parity.compare(logits, parity.reference(arrays, images), parity.tolerance(arrays, images, "fp32")).right


def test_logits_outlive_the_next_pass_and_the_runner() -> None:
    backend = backends.load("jax")
    if reason := backend.probe(CPU).reason:
        pytest.skip(reason)
    images = torch.randn(2, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))
    with backend.build(weights.load().arrays, BuildSpec(CPU, Precision.FP32, BatchRange.exactly(2))) as runner:
        logits = runner.forward(images)
        before = logits.clone()
        runner.forward(torch.zeros_like(images))
    assert torch.equal(logits, before)


@pytest.mark.usefixtures("runner")
def test_another_number_of_threads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    said = rf"XLA computes with {threads} threads in this process, not {threads + 1}"
    with pytest.raises(UnavailableError, match=said):
        backends.load("jax").build(weights.load().arrays, BuildSpec(CPU, Precision.FP32, BatchRange.exactly(1)))


class _Bridge:
    """Stands in for JAX's module that makes its clients."""

    def backends_are_initialized(self) -> bool:
        return False


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not yet used JAX."""
    monkeypatch.setattr(jax_xla, "_pool", None)
    monkeypatch.setattr(jax_xla, "importlib", SimpleNamespace(import_module=lambda _: _Bridge()))
    monkeypatch.setenv("NPROC", "77")
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE", raising=False)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("fails", [False, True])
def test_jax_reads_its_variables_and_the_process_keeps_its_own(*, fails: bool) -> None:
    before = dict(os.environ)
    error: Any = None
    try:
        with jax_xla._environment():
            assert os.environ["NPROC"] == str(torch.get_num_threads())
            assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
            if fails:
                raise RuntimeError
    except RuntimeError as caught:
        error = caught
    assert (error is not None) == fails
    assert dict(os.environ) == before
    assert jax_xla._pool == (None if fails else torch.get_num_threads())


@pytest.mark.usefixtures("fresh")
def test_a_user_s_choice_of_allocation_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    with jax_xla._environment():
        assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true"


@pytest.mark.parametrize("precision", [Precision.TF32, Precision.FP16, Precision.BF16])
def test_a_cpu_runs_fp32_alone(precision: Precision) -> None:
    with pytest.raises(BackendError, match=f"jax does not run {precision} on cpu"):
        backends.load("jax").executed_precision(precision, CPU)
