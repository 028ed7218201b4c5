"""Processes that train together: what ``torchrun`` started, each with its share of every batch."""

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
"""How long it waits where one works for all: 170 MB come at 50 kB/s within it. One that ends is noticed at once."""
GRACE: Final = timedelta(seconds=5)
"""How long the main thread of a rank that torchrun asks to end may take until it hears of it, and half of how long it
may then take to say why and end; after that another thread does. torchrun kills the rank after 30 s."""

_ASKED: Final = "torchrun asks this one to end"

_giving_up = threading.Event()
"""Set when the main thread is about to say why this rank ends."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train together; the default trains alone.

    Every rank draws the same permutation and the same crops, takes its own part of each batch, and ends up with the
    mean of all ranks' gradients. So all hold the same weights, and no rank needs to be sent any.

    Attributes:
        rank: This process's number, from 0; rank 0 alone writes files and shows progress.
        size: How many there are.
        joined: Whether they are connected, which one alone may be too.
    """

    rank: int = 0
    size: int = 1
    joined: bool = False

    def rows(self, images: int, batch_size: int) -> torch.Tensor:
        """The places in an epoch's order that this rank takes: its part of each batch, one batch after the other.

        Args:
            images: Images in an epoch.
            batch_size: Images a step over all ranks; ``size`` divides it, and the rest that is the last batch.

        Returns:
            int64 (images / size,), rising.
        """
        place = torch.arange(images)
        within = place % batch_size
        length = (images - place + within).clamp(max=batch_size)
        return place[within * self.size // length == self.rank]

    def average(self, gradients: Sequence[torch.Tensor]) -> None:
        """Replace each gradient by its mean over the ranks, in one all-reduce of one flat buffer."""
        if not self.joined:
            return
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        self.add(flat)
        flat /= self.size
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def add(self, tensor: torch.Tensor) -> None:
        """Replace a tensor by its sum over the ranks: on a CPU at once, on a GPU when its stream comes to it.

        Raises:
            RankError: On a CPU, another rank has ended, or is silent for longer than `PATIENCE`; else see `wait`.
        """
        if self.joined:
            with _others_there():
                distributed.all_reduce(tensor)

    def agree(self, what: str) -> None:
        """Wait until every rank is here, and make sure that all are about to do the same thing.

        Args:
            what: That thing, in words that differ where it does.

        Raises:
            RankError: They are not, or another rank has ended.
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
        """Let rank 0 work while the others wait, for `LONG_PATIENCE` at most.

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
        """What a GPU has to do up to here, to `wait` for; None on a CPU, and for one that trains alone."""
        if not self.joined or device.type != "cuda":
            return None
        with _others_there():
            mark = torch.cuda.Event()
            mark.record()
        return mark

    def wait(self, done: torch.cuda.Event | None) -> None:
        """Wait until a GPU has done what it had to at a `mark`, for `PATIENCE` at most: a dead rank never lets it.

        In turns, so that a signal is heard meanwhile. What NCCL noticed of the sums before shows here, if NCCL's own
        watchdog has not ended the process.

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
    """Connect to the other processes that ``torchrun`` started, by NCCL on CUDA and by gloo on a CPU.

    Where torchrun started nothing, this process trains alone. When a rank has ended, torchrun asks the others to end
    too, by SIGTERM, and makes them 30 seconds later: a rank says why it ends before that, even if its main thread waits
    in a call that hears no signal (but lets other threads run), or hangs on its way out. On CUDA it then ends at once.

    Raises:
        RankError: On a CPU, the others cannot be reached, or what is done inside raised it.
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
        # Nothing is taken down: NCCL would wait for the rank that is gone, and Python's end for the GPU, which does.
        if device.type == "cuda":
            _leave(error)
        raise
    distributed.destroy_process_group()


def _hear_sigterm() -> None:
    """Let the main thread give up at SIGTERM, and another in its place where it does not come to it."""
    signal.signal(signal.SIGTERM, lambda *_: _give_up(_ASKED))
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)  # written to when the signal comes; the handler waits for the main thread

    def watch() -> None:
        asked = False
        while not (asked or _giving_up.is_set()):
            if select.select([reader], [], [], 1)[0]:
                asked = os.read(reader, 1) == bytes([signal.SIGTERM])
        reason = f"{_ASKED}, and it waits in a call that hears no signal"
        if _giving_up.wait(GRACE.total_seconds()):  # so it ends by itself, unless something is in its way
            time.sleep(2 * GRACE.total_seconds())
            reason = "it hangs on its way out"
        _leave(_lost(reason))

    threading.Thread(target=watch, daemon=True).start()


def _leave(error: RankError) -> NoReturn:
    """End the process as the command line does, but now."""
    os.write(2, f"{error.told}\n".encode())
    os._exit(error.exit_code)


@contextmanager
def _others_there() -> Iterator[None]:
    """What fails in it fails for another rank has ended or is silent."""
    try:
        yield
    except RuntimeError as error:
        _give_up(str(error).strip().splitlines()[0])


def _give_up(reason: str) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # or torchrun's would cut the message short
    _giving_up.set()
    raise _lost(reason)


def _lost(reason: str) -> RankError:
    return RankError(
        f"rank {os.environ['RANK']} cannot go on: another rank has ended or is silent",
        found=reason,
        wanted=f"all {os.environ['WORLD_SIZE']} ranks until the end",
        hint="see what the other rank said; --resume goes on from the last checkpoint, which is whole",
    )
