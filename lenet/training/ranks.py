"""Processes that ``torchrun`` started to train together. Each takes its part of every batch."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, NoReturn

import torch
from torch import distributed

from lenet.errors import RankError

__all__ = ["GRACE", "LONG_PATIENCE", "PATIENCE", "Ranks", "join"]

PATIENCE: Final = timedelta(minutes=2)
"""How long a rank waits for the others before it gives up."""
LONG_PATIENCE: Final = timedelta(hours=1)
"""How long a rank waits while one works for all: enough for 170 MB at 50 kB/s. A rank that ends is noticed at once."""
GRACE: Final = timedelta(seconds=5)
"""How long the main thread may take to hear that torchrun asks its rank to end.

It may then take twice as long to say why and to end. After that another thread ends the process. torchrun kills it
after 30 s.
"""

_ASKED: Final = "torchrun asks this one to end"

_giving_up = threading.Event()
"""Set when the main thread is about to say why this rank ends."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train together. By default it trains alone.

    Every rank draws the same order and crops, takes its own part of each batch, and applies the mean of all gradients.
    So all ranks hold the same weights without sending them.

    Attributes:
        rank: This process's number, from 0. Rank 0 alone writes files and shows progress.
        size: Number of processes.
        joined: Whether they are connected. A single process of torchrun is connected too.
    """

    rank: int = 0
    size: int = 1
    joined: bool = False

    def rows(self, images: int, batch_size: int) -> torch.Tensor:
        """The positions in an epoch's order that this rank takes: its part of each batch.

        Args:
            images: Images in an epoch.
            batch_size: Images a step over all ranks. ``size`` divides it, and the size of a shorter last batch.

        Returns:
            int64 (images / size,), ascending.
        """
        place = torch.arange(images)
        within = place % batch_size
        length = (images - place + within).clamp(max=batch_size)
        return place[within * self.size // length == self.rank]

    def average(self, gradients: Sequence[torch.Tensor]) -> None:
        """Replace each gradient by its mean over the ranks, with one all-reduce of a flat buffer."""
        if not self.joined:
            return
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        self.add(flat)
        flat /= self.size
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def add(self, tensor: torch.Tensor) -> None:
        """Replace a tensor by its sum over the ranks: at once on a CPU, in the stream's order on a GPU.

        Raises:
            RankError: On a CPU, another rank has ended or is silent for longer than `PATIENCE`. On a GPU, `wait`
                raises it.
        """
        if self.joined:
            with _others_there():
                distributed.all_reduce(tensor)

    def agree(self, what: str) -> None:
        """Wait for every rank, and check that all are about to do the same thing.

        Args:
            what: A text about it, which must be equal on all ranks.

        Raises:
            RankError: The texts differ, or another rank has ended.
        """
        if not self.joined:
            return
        told = [""] * self.size
        with _others_there():
            distributed.all_gather_object(told, what)
        for rank, other in enumerate(told):
            if other != told[0]:
                raise RankError(
                    f"rank {rank} would do something else than rank 0",
                    found=other,
                    wanted=told[0],
                    hint="give every rank the same options, data and run directory",
                )

    def first(self, work: Callable[[], object]) -> None:
        """Let rank 0 work while the others wait, for at most `LONG_PATIENCE`.

        Raises:
            RankError: Another rank has ended, or is silent for longer than that.
        """
        if not self.joined:
            work()
            return
        with _others_there():
            group: Any = distributed.new_group(timeout=LONG_PATIENCE, backend="gloo")
        if self.rank == 0:
            work()
        with _others_there():
            distributed.barrier(group)

    def mark(self, device: torch.device) -> torch.cuda.Event | None:
        """Mark what a GPU has queued so far, for `wait`. None on a CPU, or where this process trains alone."""
        if not self.joined or device.type != "cuda":
            return None
        with _others_there():
            mark = torch.cuda.Event()
            mark.record()
        return mark

    def wait(self, done: torch.cuda.Event | None) -> None:
        """Wait until a GPU has done what was queued at a `mark`, for at most `PATIENCE`.

        With a dead rank a GPU never gets there. The wait polls, so that signals are heard meanwhile. An error that NCCL
        found in an earlier sum is raised here, unless NCCL's watchdog has ended the process.

        Raises:
            RankError: Another rank has ended, or is silent for longer than `PATIENCE`.
        """
        if done is None:
            return
        end = time.monotonic() + PATIENCE.total_seconds()
        with _others_there():
            while not done.query() and time.monotonic() < end:
                time.sleep(1e-4)
            late = not done.query()
        if late:
            _give_up(f"the GPU waits for the others, which are silent for {PATIENCE}")


@contextmanager
def join(device: torch.device) -> Iterator[Ranks]:
    """Connect to the other processes that ``torchrun`` started: by NCCL on CUDA, by gloo on a CPU.

    If torchrun started nothing, this process trains alone.

    When a rank has ended, torchrun sends SIGTERM to the others, and kills them 30 seconds later. A rank says why it
    ends before that. It does so even if its main thread hangs, as long as other threads can run. On CUDA it then ends
    at once.

    Raises:
        RankError: On a CPU, the others cannot be reached, or the body raised it.
    """
    if not (distributed.is_available() and distributed.is_torchelastic_launched()):
        yield Ranks()
        return
    _hear_sigterm()
    try:
        with _others_there():
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        yield Ranks(distributed.get_rank(), distributed.get_world_size(), joined=True)
    except RankError as error:
        # Leave without a clean-up: NCCL would wait for the lost rank, and Python's exit for the GPU, which waits too.
        if device.type == "cuda":
            _leave(error)
        raise
    distributed.destroy_process_group()


def _hear_sigterm() -> None:
    """Make the main thread give up at SIGTERM. If it hangs, another thread ends the process."""
    signal.signal(signal.SIGTERM, lambda *_: _give_up(_ASKED))
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)  # written to at once; the handler runs when the main thread can

    def watch() -> None:
        asked = False
        while not (asked or _giving_up.is_set()):
            if select.select([reader], [], [], 1)[0]:
                asked = os.read(reader, 1) == bytes([signal.SIGTERM])
        reason = f"{_ASKED}, and it waits in a call that hears no signal"
        if _giving_up.wait(GRACE.total_seconds()):  # it ends by itself, unless its clean-up hangs
            time.sleep(2 * GRACE.total_seconds())
            reason = "it hangs on its way out"
        _leave(_lost(reason))

    threading.Thread(target=watch, daemon=True).start()


def _leave(error: RankError) -> NoReturn:
    """End the process at once, with the command line's message and exit code."""
    os.write(2, f"{error.told}\n".encode())
    os._exit(error.exit_code)


@contextmanager
def _others_there() -> Iterator[None]:
    """Turn a `RuntimeError` of the body into a `RankError`: another rank has ended or is silent."""
    try:
        yield
    except RuntimeError as error:
        _give_up(str(error).strip().splitlines()[0])


def _give_up(reason: str) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # else torchrun's SIGTERM could cut the message short
    _giving_up.set()
    raise _lost(reason)


def _lost(reason: str) -> RankError:
    return RankError(
        f"rank {os.environ['RANK']} cannot go on: another rank has ended or is silent",
        found=reason,
        wanted=f"all {os.environ['WORLD_SIZE']} ranks until the end",
        hint="see what the other rank said; --resume goes on from the last checkpoint, which is whole",
    )
