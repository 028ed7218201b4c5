from __future__ import annotations

import os
import queue
import re
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed

from lenet import weights
from lenet.data import cifar10
from lenet.data.synthetic import synthetic
from lenet.errors import RankError, RecipeError
from lenet.training import loop, ranks
from lenet.training.batches import draw_epoch, epoch_batches
from lenet.training.ranks import Ranks
from lenet.training.recipe import Recipe
from lenet.training.run import new_run
from lenet.training.steps import Step
from tests import preloaded
from tests.forked import fork_ranks

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
RECIPE = Recipe(epochs=6, batch_size=100, learning_rate=0.00005, train_images=1000, test_images=50)
OPTIONS = "--epochs 6 --batch-size 100 --learning-rate 0.00005 --train-images 1000 --test-images 50"
OPTIONS += " --device cpu --threads 1"
# Each of 60 steps rounds a weight, below 0.25 here, by at most u = 2^-24 of it. And the mean of 100 images' gradients,
# summed in another order, is off by at most 99 u times the mean of their sizes (Higham, Accuracy and Stability of
# Numerical Algorithms, section 4.2), below 0.25 too, which counts by the learning rate over (1 - momentum), 0.0005.
# About once a run that puts a pixel on the other side of a ReLU's or a pool's edge; then the gradient leaps, and at a
# larger rate so do the steps after it: at 0.005 weights differed by 1e-4 to 1e-3 for most seeds, here by 1e-7 at most.
TOLERANCE = 60 * 2.0**-24 * 0.25 * (1 + 0.0005 * 99)

SLOW_DOWNLOAD = """
import os, sys, time
from datetime import timedelta
from pathlib import Path
import click
from lenet import cli
from lenet.cli import progress
from lenet.training import loop, ranks
from lenet.data import cifar10
from lenet.report import curves

def train(*_, ranks, **__):
    os.write(1, f"rank {ranks.rank} has its data\\n".encode())  # in one write: print() may take two, which mix
    raise click.exceptions.Exit(0)

meeting = Path(sys.argv.pop(1))
(meeting / os.environ["RANK"]).touch()
while len(list(meeting.iterdir())) < 2:
    time.sleep(0.01)
loop.train, cifar10.download, ranks.PATIENCE = train, lambda _: time.sleep(3), timedelta(seconds=2)
cli.main()
"""
"""Ranks that have met take longer to fetch the data than they wait for one another elsewhere."""

DEAF = """
import ctypes, os, signal, sys, time
from datetime import timedelta
from pathlib import Path
from lenet import cli
from lenet.training import loop, ranks

deaf = Path(sys.argv.pop(1))

def train(*_, ranks, **__):
    if ranks.rank == 1:
        while not deaf.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    deaf.touch()
    mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)  # as behind a GPU's full queue: it never returns, and no handler of Python's runs

loop.train, ranks.GRACE = train, timedelta(seconds=0.5)
cli.main()
"""


def train_command(noise_directory: Path, out: Path) -> list[str]:
    """What Python is given to train with two ranks."""
    files = ["--accept-unknown-data", "--data", str(noise_directory), "--out", str(out)]
    return [*TORCHRUN, "-m", "lenet", "train", *files, *OPTIONS.split()]


@pytest.mark.programs
def test_a_rank_is_killed_and_a_resumed_run_gives_the_weights_of_one_process(
    noise_directory: Path, tmp_path: Path
) -> None:
    out = tmp_path / "two"
    command = train_command(noise_directory, out)
    with preloaded.start(*command, cwd=tmp_path, env=os.environ, prepare=fork_ranks) as torchrun:
        while not (out / "history.csv").exists():
            assert torchrun.is_running()
            time.sleep(0.01)
        _, second = sorted(psutil.Process(torchrun.pid).children(), key=lambda rank: (rank.create_time(), rank.pid))
        second.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        done = torchrun.finish()
    assert time.monotonic() - killed < 30
    assert done.returncode != 0
    assert "lenet (rank 0): rank 0 cannot go on: another rank has ended or is silent\n  found: " in done.stderr
    assert "--resume goes on from the last checkpoint, which is whole" in done.stderr
    assert not (out / "weights.safetensors").exists()

    done = preloaded.run(*command, "--resume", cwd=tmp_path, env=os.environ, prepare=fork_ranks)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"\n +6 +5e-05 ", done.stderr)) == 1, "one rank alone shows progress"

    splits = [cifar10.load(name, noise_directory, accept_unknown=True) for name in ("train", "test")]
    loop.train(RECIPE, *splits, out=tmp_path / "one", device=torch.device("cpu"))
    one, two = (weights.load(tmp_path / name / "weights.safetensors").arrays for name in ("one", "two"))
    for name, array in one.items():
        np.testing.assert_allclose(two[name], array, rtol=0, atol=TOLERANCE, err_msg=name)


@pytest.mark.programs
def test_a_slow_download_is_waited_for(noise_directory: Path, tmp_path: Path) -> None:
    script, meeting = tmp_path / "slow.py", tmp_path / "meeting"
    script.write_text(SLOW_DOWNLOAD, encoding="utf-8")
    meeting.mkdir()
    command = [*TORCHRUN, str(script), str(meeting), "train", "--download"]
    command += ["--accept-unknown-data", "--data", str(noise_directory), "--device", "cpu"]
    done = preloaded.run(*command, cwd=tmp_path, env=os.environ, prepare=fork_ranks)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")) == ["", "rank 0 has its data", "rank 1 has its data"]


@pytest.mark.programs
def test_a_rank_says_why_it_ends_even_where_its_main_thread_hears_no_signal(
    noise_directory: Path, tmp_path: Path
) -> None:
    script = tmp_path / "deaf.py"
    script.write_text(DEAF, encoding="utf-8")
    command = [
        *TORCHRUN,
        str(script),
        str(tmp_path / "deaf"),
        "train",
        "--accept-unknown-data",
        "--data",
        str(noise_directory),
    ]
    command += ["--device", "cpu", "--out", str(tmp_path / "run")]
    done = preloaded.run(*command, cwd=tmp_path, env=os.environ, prepare=fork_ranks)
    assert done.returncode != 0
    assert "lenet (rank 0): rank 0 cannot go on: another rank has ended or is silent\n" in done.stderr
    assert "found:  torchrun asks this one to end, and it waits in a call that hears no signal" in done.stderr
    assert re.search(r"rank +: 0 .*\n +exitcode +: 2 ", done.stderr), "torchrun had to kill it"


@pytest.mark.parametrize(
    ("asked", "gives_up", "said"),
    [
        (True, False, "torchrun asks this one to end, and it waits in a call that hears no signal"),
        (True, True, "it hangs on its way out"),
        (False, True, "it hangs on its way out"),
    ],
    ids=["deaf", "asked", "by itself"],
)
def test_a_rank_that_does_not_end_is_ended(
    monkeypatch: pytest.MonkeyPatch, *, asked: bool, gives_up: bool, said: str
) -> None:
    """The signal's handler may not be reached, or what it raises may not come to the message."""
    left: queue.Queue[RankError] = queue.Queue()
    monkeypatch.setattr(ranks, "_leave", left.put)
    monkeypatch.setattr(ranks, "GRACE", timedelta(milliseconds=300))
    monkeypatch.setattr(ranks, "_giving_up", threading.Event())
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    before, handler = signal.set_wakeup_fd(-1), signal.getsignal(signal.SIGTERM)
    try:
        ranks._hear_sigterm()
        signal.signal(signal.SIGTERM, lambda *_: None)
        time.sleep(1.5)
        assert left.empty(), "nobody asked"
        began = time.monotonic()
        if gives_up:
            ranks._giving_up.set()
        if asked:
            os.kill(os.getpid(), signal.SIGTERM)
        error = left.get(timeout=10)
    finally:
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGTERM, handler)
    assert time.monotonic() - began > (0.6 if gives_up else 0.3)
    assert error.found == said


def test_on_a_gpu_a_rank_that_gives_up_ends_at_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Python's end would wait for the GPU, and the GPU for the rank that is gone."""
    monkeypatch.setattr(distributed, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(ranks, "_hear_sigterm", lambda: None)
    monkeypatch.setattr(os, "_exit", Mock(side_effect=SystemExit))
    for name in ("init_process_group", "destroy_process_group", "get_rank", "get_world_size"):
        monkeypatch.setattr(distributed, name, Mock(return_value=0))
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("TORCHELASTIC_RUN_ID", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit), ranks.join(torch.device("cuda")):
        raise ranks._lost("NCCL")
    os._exit.assert_called_once_with(2)  # type: ignore[attr-defined]
    distributed.destroy_process_group.assert_not_called()  # type: ignore[attr-defined]
    assert capfd.readouterr().err.startswith(
        "lenet (rank 0): rank 0 cannot go on: another rank has ended or is silent\n"
    )
    with pytest.raises(RankError), ranks.join(torch.device("cpu")):
        raise ranks._lost("gloo")
    os._exit.assert_called_once()  # type: ignore[attr-defined]


def test_a_rank_never_queues_an_epoch_without_a_look_at_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's queue holds about a thousand launches. A look waits for the one before, so the GPU has work meanwhile."""
    split, recipe = synthetic(70), Recipe(batch_size=10)
    run = new_run(recipe, split, torch.device("cpu"))
    step = Step(run.model, run.optimizer, Ranks())
    waited: list[tuple[object, int]] = []
    monkeypatch.setattr(Ranks, "mark", lambda _self, _device: len(step._seen))
    monkeypatch.setattr(Ranks, "wait", lambda _self, done: waited.append((done, len(step._seen))))
    monkeypatch.setattr(loop, "_STEPS_A_LOOK", 2)
    loop.train_epoch(step, split.images, split.labels, recipe, 1)
    assert waited == [(None, 2), (2, 4), (4, 6), (7, 7)]


@pytest.mark.parametrize(("images", "batch_size"), [(300, 100), (299, 99), (200, 150)])
def test_ranks_that_share_no_batch_equally_are_refused(tmp_path: Path, images: int, batch_size: int) -> None:
    many = Ranks(0, 2 if batch_size == 99 else 3)
    split = synthetic(images)
    recipe = Recipe(batch_size=batch_size)
    with pytest.raises(RecipeError, match=rf"--batch-size .*\n.*{batch_size}\n.*a multiple of {many.size}, the ranks"):
        loop.train(recipe, split, split, out=tmp_path / "run", device=torch.device("cpu"), ranks=many)
    assert not (tmp_path / "run").exists()


def test_gradients_are_the_mean_over_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the other rank had three times this one's."""
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor: tensor.mul_(4))
    gradients = [torch.full((2, 3), 1.0), torch.full((4,), -2.0)]
    Ranks(0, 2, joined=True).average(gradients)
    assert torch.equal(gradients[0], torch.full((2, 3), 2.0))
    assert torch.equal(gradients[1], torch.full((4,), -4.0))


def test_ranks_that_would_do_different_things_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(told: list[str], _: str) -> None:
        told[:] = ["seed 0", "seed 1"]

    monkeypatch.setattr(distributed, "all_gather_object", gather)
    with pytest.raises(RankError, match=r"(?s)rank 1 would do something else.*found:  seed 1\n  wanted: seed 0"):
        Ranks(0, 2, joined=True).agree("seed 0")


@pytest.mark.parametrize(
    ("query", "reason"),
    [(lambda: False, "silent for 0:00:00.010000"), (Mock(side_effect=RuntimeError("unhandled NCCL error")), "NCCL")],
    ids=["never done", "fails"],
)
def test_a_gpu_that_waits_for_a_dead_rank_is_given_up(
    monkeypatch: pytest.MonkeyPatch, query: Callable[[], bool], reason: str
) -> None:
    monkeypatch.setattr(torch.cuda, "Event", lambda: SimpleNamespace(record=lambda: None, query=query))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(ranks, "PATIENCE", timedelta(milliseconds=10))
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    two = Ranks(0, 2, joined=True)
    mark = two.mark(torch.device("cuda"))
    with pytest.raises(RankError, match=rf"another rank has ended or is silent\n  found:  .*{reason}"):
        two.wait(mark)


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 5), st.integers(0, 5))
def test_the_ranks_parts_make_up_each_batch(size: int, part: int, full: int, rest: int) -> None:
    batch = size * part
    images = full * batch + size * min(rest, part - 1)
    parts = [Ranks(rank, size).rows(images, batch).split(part) for rank in range(size)]
    for number, whole in enumerate(torch.arange(images).split(batch) if images else ()):
        assert torch.equal(torch.cat([rows[number] for rows in parts]), whole)


def test_ranks_that_see_the_same_images_make_the_same_batches_of_them() -> None:
    split, recipe = synthetic(90), Recipe(batch_size=40)
    alone, *shared = (
        epoch_batches(split.images, split.labels, recipe, draw_epoch(90, recipe, 1, each), each)
        for each in (Ranks(), Ranks(0, 2), Ranks(1, 2))
    )
    for whole, *parts in zip(alone, *shared, strict=True):
        for of_one, of_two in zip(whole, zip(*parts, strict=True), strict=True):
            assert torch.equal(of_one, torch.cat(of_two))
