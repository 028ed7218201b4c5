"""Whether every batch in flight gets its own logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lenet import parity
from lenet.measurement.sustained import Held, Pipeline

__all__ = ["check_in_flight"]


def check_in_flight(pipeline: Pipeline, reference: parity.Reference, batch_size: int, executed: str) -> None:
    """Run other images through each slot of a pipeline, twice, and compare all logits.

    Each stream is held back in turn. A pass that does not wait for its copy then gets the slot's last images, and a
    copy that does not wait for the last pass replaces its images. Both give logits of other images.

    Args:
        pipeline: What is timed.
        reference: Of at least a batch of images.
        batch_size: Images a batch.
        executed: The precision that the runners run.

    Raises:
        ParityError: Logits are wrong.
    """
    count = 2 * pipeline.depth
    for held in pipeline.held:
        _check(pipeline, reference, [_indices(reference, batch_size, first) for first in range(count)], executed, held)


def _indices(reference: parity.Reference, batch_size: int, first: int) -> torch.Tensor:
    """The images of a batch: consecutive ones, which go on from the first after the last. No two batches are alike."""
    return (first + 1 + torch.arange(batch_size)) % len(reference.images)


def _check(
    pipeline: Pipeline, reference: parity.Reference, batches: Sequence[torch.Tensor], executed: str, held: Held | None
) -> None:
    wanted, allowed = reference.wanted(executed), reference.tolerance(executed)
    found = pipeline.logits([reference.images[indices] for indices in batches], held)
    for number, (indices, logits) in enumerate(zip(batches, found, strict=True)):
        compared = parity.compare(logits, wanted[indices], allowed[indices])
        if not compared.right:
            raise parity.ParityError(
                f"with {pipeline.depth} batches in flight the logits of a batch are wrong",
                found=f"batch {number + 1} of {len(batches)}: {compared}",
                wanted=f"the logits of one batch at a time, within what {executed} allows",
                hint="measure with --depth=1: if that is right, a copy and a pass use the same memory at a time",
            )
