"""What a round covers, and what a benchmark is called that covers it. No torch here."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Mode"]


class Mode(StrEnum):
    """What a round covers.

    ``FORWARD`` is the forward pass alone, on a batch that is on the device; ``END_TO_END`` begins with the batch on the
    host and ends when the logits are done.
    """

    FORWARD = "forward"
    END_TO_END = "end_to_end"
