"""Whether the call that a row times gives right logits, before its rounds and after them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lenet import parity
from lenet.backends.base import Runner
from lenet.errors import LenetError, WeightsError

__all__ = ["RowParity"]


class RowParity:
    """Whether the very call that a row times gives right logits: before its rounds, after them, and for other images.

    Args:
        call: What is timed; it returns the logits.
        place: Where the call takes its images from: (batch, 3, 32, 32), on the device, or in the host's memory.
        runner: Whose call it is.
        reference: Of whole batches. The first is the one that is timed.
        executed: The precision that the backend runs.
    """

    def __init__(
        self,
        call: Callable[[], torch.Tensor],
        place: torch.Tensor,
        runner: Runner,
        reference: parity.Reference,
        executed: str,
    ) -> None:
        self._call = call
        self._place = place
        self._runner = runner
        self._reference = reference
        self._executed = executed
        self._firsts = range(0, len(reference.images), len(place))

    def check_before(self) -> parity.Comparison:
        """Run every batch of the reference; the one that is to be timed comes last and stays in its place.

        Raises:
            ParityError: Logits are wrong.
            WeightsError: They are wrong because a layer's output overflows, whatever computes it.
        """
        logits = [self._logits_of(first) for first in reversed(self._firsts)]
        compared = self._reference.compare(torch.cat(logits[::-1]), self._executed)
        if not compared.right:
            raise self._wrong("the logits are wrong, so nothing is timed", compared)
        return compared

    def check_after(self) -> None:
        """Run the timed batch again as it lies there, then other images in its place.

        Raises:
            ParityError: Logits that were right before the rounds are wrong after them.
        """
        compared = self._reference.compare(self._run(), self._executed)
        if not compared.right:
            raise self._wrong("the logits were right before the rounds and are wrong after them", compared)
        if len(self._firsts) > 1:
            first = self._firsts[1]
            compared = self._reference.compare(self._logits_of(first), self._executed, first)
        else:
            compared = self._reference.compare(self._logits_of(0, backwards=True).flip(0), self._executed)
        if not compared.right:
            raise self._wrong("the logits are wrong once other images lie in the same memory", compared)

    def _logits_of(self, first: int, *, backwards: bool = False) -> torch.Tensor:
        batch = self._reference.images[first : first + len(self._place)]
        with torch.inference_mode(), self._runner.on_stream():
            self._place.copy_(batch.flip(0) if backwards else batch)
        return self._run()

    def _run(self) -> torch.Tensor:
        with torch.inference_mode(), self._runner.on_stream():
            logits = self._call()
        self._runner.synchronize()
        return logits.cpu().clone()

    def _wrong(self, summary: str, compared: parity.Comparison) -> LenetError:
        if compared.overflow is not None:
            return WeightsError(
                f"the weights do not fit {self._executed}, so nothing is timed",
                found=str(compared.overflow),
                wanted="weights with which no layer's output overflows",
                hint="choose another precision, or other weights",
            )
        return parity.ParityError(
            summary,
            found=str(compared),
            wanted=f"at most 1 of the tolerance, and of what {self._executed} allows",
            hint="`lenet evaluate --backend all` names the layer",
        )
