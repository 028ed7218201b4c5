"""A backend's logits against the reference: within the tolerance, and near the arithmetic that it says it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch

from lenet.parity.network import EXACT, forward, reference, variants
from lenet.parity.tolerance import SIGMAS, tolerance
from lenet.vocabulary import Precision

__all__ = ["Closeness", "Comparison", "Reference", "compare"]

ENOUGH_IMAGES: Final = 32
"""Images from which on the root mean square says something, and every unit that ever fires does so for some image."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far from the nearest allowed arithmetic logits may be, in standard deviations of the tolerance.

    Attributes:
        rms: Root mean square over all logits.
        largest: Of any logit.
    """

    rms: float
    largest: float


_BOUNDS: Final[Mapping[str, Bounds]] = {
    # Right runtimes whose layers each choose one of the variants are at an rms of up to 0.23. Sums rounded to 16
    # bits every 16 products are at 0.31 or more, a layer of a coarser format at 0.45: docs/results/parity-faults.md.
    Precision.FP16: Bounds(0.3, 3.0),
    Precision.BF16: Bounds(0.3, 3.0),
    # Truncation in part of the layers is a bias, which no standard deviation describes: it comes to an rms of 0.95.
    Precision.TF32: Bounds(1.2, SIGMAS),
}
_BY_THE_MODEL: Final = Bounds(1.0, SIGMAS)
"""What the tolerance's own model says of independent errors."""

FINER: Final = 0.15
"""Below this share of the error that a precision's rounding makes, a row did not run that precision. bfloat16's
rounding is 8 times float16's. Where some layers alone run it, as cuDNN's choice of kernels has it, more is left."""

_CHUNK: Final = 1000
"""Images that are worked on at once: float64 activations of more would take gigabytes."""


@dataclass(frozen=True, slots=True)
class Closeness:
    """How near logits are to the nearest of the variants that a precision allows.

    Attributes:
        arithmetic: That arithmetic's name.
        rms: Root mean square of |logit - its logit|, in standard deviations of the tolerance.
        largest: Largest of these.
        bounds: Of the two.
        finer: Whether the logits lack the precision's rounding: they are nearly those of exact arithmetic.
    """

    arithmetic: str
    rms: float
    largest: float
    bounds: Bounds
    finer: bool

    @property
    def share(self) -> float:
        """The larger of both over its bound; at most 1 where all is right."""
        return max(self.rms / self.bounds.rms, self.largest / self.bounds.largest)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A backend's logits against the float64 reference's.

    Attributes:
        max_abs_delta: Largest |logit - reference|; infinite where a logit is not finite.
        max_share: Largest |logit - reference| over its own tolerance; at most 1 where all is right.
        top1_agreement: Share of images with the same largest logit, 0-1.
        flips: Images whose largest logit differs although the reference's lead is wider than both logits' tolerances.
        images: Number of images.
        closeness: To the arithmetic of the precision; None where the images are too few to tell.
    """

    max_abs_delta: float
    max_share: float
    top1_agreement: float
    flips: int
    images: int
    closeness: Closeness | None = None

    @property
    def right(self) -> bool:
        """Whether every logit is within its tolerance, no image changed its class beyond doubt, and all are near."""
        near = self.closeness is None or self.closeness.share <= 1
        return self.max_share <= 1 and self.flips == 0 and near

    def __str__(self) -> str:
        near = ""
        if self.closeness is not None:
            near = f", {self.closeness.share:.3g} of the bounds around {self.closeness.arithmetic}"
        return (
            f"max |delta logit| {self.max_abs_delta:.2e}, {self.max_share:.3g} of the tolerance{near}, "
            f"top-1 agreement {self.top1_agreement:.4f} over {self.images:,} images"
        )


def compare(logits: torch.Tensor, wanted: torch.Tensor, allowed: torch.Tensor) -> Comparison:
    """Compare logits with the reference, one by one.

    Args:
        logits: (N, 10), any float type, any device.
        wanted: `reference` of the same images.
        allowed: `tolerance` of the same images.
    """
    found = logits.detach().cpu().double()
    delta = (found - wanted).abs().nan_to_num(nan=math.inf, posinf=math.inf)
    best, found_best = wanted.argmax(1), found.argmax(1)
    rows = torch.arange(len(wanted))
    lead = wanted[rows, best] - wanted[rows, found_best]
    doubt = allowed[rows, best] + allowed[rows, found_best]
    return Comparison(
        max_abs_delta=delta.max().item(),
        max_share=_over(delta, allowed).max().item(),
        top1_agreement=(best == found_best).double().mean().item(),
        flips=int(((best != found_best) & (lead > doubt)).sum()),
        images=len(wanted),
    )


def _over(delta: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """A quotient, and 0 for an exact logit: it is right where nothing is allowed either, as with weights of zero."""
    return torch.where(delta == 0, 0.0, delta / allowed)


class Reference:
    """The reference logits of some images, and what each precision makes of them, once it is asked for.

    Attributes:
        images: (N, 3, 32, 32), on the CPU: normalised float32, or uint8 bytes.
        logits: `reference` of them.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], images: torch.Tensor) -> None:
        self.images = images
        self.logits = torch.cat([reference(arrays, chunk) for chunk in images.split(_CHUNK)])
        self._arrays = arrays
        self._tolerances: dict[str, torch.Tensor] = {}
        self._rounded: dict[str, dict[str, torch.Tensor]] = {}

    def tolerance(self, executed: str) -> torch.Tensor:
        """`tolerance` of the images at a precision."""
        if executed not in self._tolerances:
            chunks = self.images.split(_CHUNK)
            self._tolerances[executed] = torch.cat([tolerance(self._arrays, chunk, executed) for chunk in chunks])
        return self._tolerances[executed]

    def compare(self, logits: torch.Tensor, executed: str, first: int = 0) -> Comparison:
        """`compare` logits of these images, computed at a precision; from `ENOUGH_IMAGES` on, their closeness too.

        Args:
            logits: (n, 10) of n of the images, one after the other.
            executed: The precision.
            first: Which image is the first.
        """
        part = slice(first, first + len(logits))
        wanted, allowed = self.logits[part], self.tolerance(executed)[part]
        found = compare(logits, wanted, allowed)
        # The rounded references are worth their time for some images, not for all of a large batch.
        few = slice(first, min(part.stop, _CHUNK))
        if few.stop - first < ENOUGH_IMAGES or not math.isfinite(found.max_abs_delta):
            return found
        return replace(found, closeness=self._closeness(logits[: few.stop - first], executed, few))

    def _closeness(self, logits: torch.Tensor, executed: str, part: slice) -> Closeness:
        sigma = self.tolerance(executed)[part] / SIGMAS
        exact = self.logits[part]
        rounded = {name: one[part] for name, one in self._rounded_of(executed).items()}
        found = logits.detach().cpu().double()

        def rms(delta: torch.Tensor) -> float:
            return _over(delta, sigma).square().mean().sqrt().item()

        allowed = {EXACT.name: exact, **rounded}
        distances = {name: rms(found - one) for name, one in allowed.items()}
        nearest = min(distances, key=distances.__getitem__)
        usual = min((rms(one - exact) for one in rounded.values()), default=0.0)
        return Closeness(
            arithmetic=nearest,
            rms=distances[nearest],
            largest=_over(found - allowed[nearest], sigma).abs().max().item(),
            bounds=_BOUNDS.get(executed, _BY_THE_MODEL),
            finer=distances[EXACT.name] < FINER * usual,
        )

    def _rounded_of(self, executed: str) -> dict[str, torch.Tensor]:
        """Logits by the name of each arithmetic of a precision, of the first images."""
        if executed not in self._rounded:
            images = self.images[:_CHUNK]
            allowed = variants(executed, of_bytes=images.dtype is torch.uint8)
            self._rounded[executed] = {one.name: forward(self._arrays, images, one) for one in allowed}
        return self._rounded[executed]
