"""Batches from the host through a GPU, with several in flight: a ring of slots, a stream for the copies, and events.

A slot holds a batch in the host's memory and the memory on the device that it is copied to. For each batch the host
waits until the slot's last logits are ready. Then it queues the copy on one stream, lets the runner's stream wait for
it, and queues the forward pass there. So one slot is computed while the next is copied.

The wait of the host does two things: it bounds the batches in flight, and no copy overwrites images that are still
read. The wait of the stream keeps a pass from reading images that are not there yet.

A batch's latency is the time between two events, so it holds no delay of the host that looks for them. One is recorded
on a stream of its own, which is idle, when the batch is submitted. The other follows the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import ClassVar

import torch

from lenet.backends.base import Runner
from lenet.measurement.held_start import hold, timing_event
from lenet.measurement.recorder import Round
from lenet.measurement.sustained import Held

__all__ = ["Ring"]


@dataclass(eq=False, slots=True)
class _Slot:
    """One batch in flight.

    Attributes:
        source: The batch in the host's memory.
        images: What the forward pass reads: memory on the device, or ``source`` itself.
        submitted: Recorded when the host begins to queue the batch.
        copied: Recorded after the copy.
        done: Recorded after the forward pass.
        logits: Of the last forward pass, valid on the runner's stream until the next one.
    """

    source: torch.Tensor
    images: torch.Tensor
    submitted: torch.cuda.Event
    copied: torch.cuda.Event
    done: torch.cuda.Event
    logits: torch.Tensor | None = None


class Ring:
    """A pipeline on a GPU. Use it under ``torch.inference_mode()`` and the runner's `on_stream`.

    Args:
        runner: Computes the logits.
        slots: For each batch in flight, its images in the host's memory and on the device. The two are the same tensor
            if the device reads the host's memory.
    """

    chunk: ClassVar[float] = 0.05

    def __init__(self, runner: Runner, slots: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        assert runner.stream is not None
        self._runner = runner
        self._compute = runner.stream
        self._copies = torch.cuda.Stream(runner.spec.device)
        self._arrivals = torch.cuda.Stream(runner.spec.device)
        self._slots = [_Slot(*memory, timing_event(), torch.cuda.Event(), timing_event()) for memory in slots]
        self._copying = self._slots[0].images is not self._slots[0].source
        self._next = 0
        self._synchronize()  # earlier work may still use memory that a slot was given

    @property
    def depth(self) -> int:
        """The number of batches in flight."""
        return len(self._slots)

    @property
    def _filling(self) -> int:
        """Batches before the first window: they fill the ring, and then wait once for each slot."""
        return 2 * len(self._slots)

    @property
    def held(self) -> Sequence[Held | None]:
        """Each stream in turn, and none."""
        return ("copy", "compute", None)

    def windows(self, count: int, seconds: float) -> list[Round]:
        """Run so many windows, each of at least so many seconds, and then run empty."""
        return self._windows(self._submit, count, seconds)

    def work(self, seconds: float) -> int:
        """Run for at least so many seconds, and then run empty. Returns the number of batches."""
        (window,) = self.windows(1, seconds)
        return self._filling + len(window.latencies)

    def copies(self, count: int, seconds: float) -> list[Round]:
        """The same for the copies alone. Empty if nothing is copied."""
        return self._windows(self._copy_alone, count, seconds) if self._copying else []

    def passes(self, count: int, seconds: float) -> list[Round]:
        """The same for the forward passes alone, on the images that lie there."""
        return self._windows(self._compute_alone, count, seconds)

    def lap(self) -> None:
        """Run as many batches as are in flight at a time."""
        for _ in self._slots:
            self._submit(self._free_slot())
        self._synchronize()

    def logits(self, batches: Sequence[torch.Tensor], held: Held | None = None) -> list[torch.Tensor]:
        """Run other batches, each from the next slot.

        Args:
            batches: Each (batch, 3, 32, 32) on the CPU, of the runner's input type.
            held: The stream to hold back for each batch.

        Returns:
            The logits (batch, 10) of each, on the CPU.
        """
        found = []
        longest = 0.0
        for batch in batches:
            slot = self._free_slot()
            began = perf_counter()
            slot.source.copy_(batch)
            longest = max(longest, perf_counter() - began)
            if held is not None:  # until the host, were it not to wait, has filled every slot anew
                hold(self._copies if held == "copy" else self._compute, 2 * self.depth * longest)
            self._submit(slot)
            assert slot.logits is not None
            found.append(slot.logits.clone())
        self._synchronize()
        return [one.cpu() for one in found]

    def close(self) -> None:
        """Wait for what is in flight, and drop the slots."""
        self._synchronize()
        self._slots.clear()

    def _windows(self, work: Callable[[_Slot], None], count: int, seconds: float) -> list[Round]:
        for _ in range(self._filling):
            work(self._free_slot())
        rounds = []
        began = perf_counter()
        for _ in range(count):
            found, began = self._window(work, began, seconds)
            rounds.append(found)
        self._synchronize()
        return rounds

    def _window(self, work: Callable[[_Slot], None], began: float, seconds: float) -> tuple[Round, float]:
        """A window that begins with the last one's end, and its own end."""
        latencies: list[float] = []
        queueing = 0.0
        ended = began
        while ended < began + seconds:
            slot = self._free_slot()
            ended = perf_counter()
            slot.submitted.synchronize()  # long done, but in the order of another stream
            latencies.append(slot.submitted.elapsed_time(slot.done) / 1e3)
            work(slot)
            queueing += perf_counter() - ended
        batches = len(latencies)
        return Round(
            None, (ended - began) / batches, queueing / batches, launch_bound=False, latencies=latencies
        ), ended

    def _free_slot(self) -> _Slot:
        """The slot whose batch is the oldest, when its logits are ready."""
        slot = self._slots[self._next]
        self._next = (self._next + 1) % len(self._slots)
        slot.done.synchronize()
        return slot

    def _submit(self, slot: _Slot) -> None:
        slot.submitted.record(self._arrivals)
        if self._copying:
            self._copy(slot)
            self._compute.wait_event(slot.copied)
        slot.logits = self._runner.forward(slot.images)
        slot.done.record(self._compute)

    def _copy(self, slot: _Slot) -> None:
        # A context manager would take several times as long.
        torch.cuda.set_stream(self._copies)
        slot.images.copy_(slot.source, non_blocking=True)
        slot.copied.record(self._copies)
        torch.cuda.set_stream(self._compute)

    def _copy_alone(self, slot: _Slot) -> None:
        slot.submitted.record(self._arrivals)
        self._copy(slot)
        slot.done.record(self._copies)

    def _compute_alone(self, slot: _Slot) -> None:
        slot.submitted.record(self._arrivals)
        slot.logits = self._runner.forward(slot.images)
        slot.done.record(self._compute)

    def _synchronize(self) -> None:
        self._copies.synchronize()
        self._compute.synchronize()
