"""Compare a backend's logits with the reference: with the tolerance, and with the arithmetic that the backend names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch

from lenet.errors import WeightsError
from lenet.parity.network import EXACT, Overflow, forward, overflow, reference, variants
from lenet.parity.quantized import quantized_reference
from lenet.parity.tolerance import SIGMAS, tolerance
from lenet.quantization import Scales, quantize, quantized_precision, resolve
from lenet.vocabulary import Precision

__all__ = ["Closeness", "Comparison", "Reference", "compare"]

ENOUGH_IMAGES: Final = 32
"""The fewest images for a root mean square to be meaningful. Every unit that ever fires does so for one of them."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far logits may be from the nearest allowed arithmetic, in standard deviations of the tolerance.

    Attributes:
        rms: Bound of the root mean square over all logits.
        largest: Bound of each logit.
    """

    rms: float
    largest: float


_BOUNDS: Final[Mapping[str, Bounds]] = {
    # A right runtime may choose another variant in each layer, with an rms of up to 0.23. Sums rounded to 16 bits every
    # 16 products give 0.31 or more, a layer of a coarser format 0.45. Source: docs/results/parity-faults.md.
    Precision.FP16: Bounds(0.3, 3.0),
    Precision.BF16: Bounds(0.3, 3.0),
    # Truncation in some layers is a bias, which no standard deviation describes. It gives an rms of 0.95.
    Precision.TF32: Bounds(1.2, SIGMAS),
}
_BY_THE_MODEL: Final = Bounds(1.0, SIGMAS)
"""For other precisions: what the tolerance's model says of independent errors."""

FINER: Final = 0.15
"""A row did not run its precision if its error is below this share of the error that the precision's rounding makes.

bfloat16's rounding error is 8 times float16's. If only some layers run a precision, as cuDNN may choose, the share is
larger.
"""

_CHUNK: Final = 50
"""Images processed at once. Their float64 activations fit in a cache, and take half the time of 1000 images at once."""

_ROUNDED: Final = 1000
"""Images that rounded references are computed for, at most. They take time."""


@dataclass(frozen=True, slots=True)
class Closeness:
    """How near logits are to the nearest arithmetic that a precision allows.

    Attributes:
        arithmetic: The name of that arithmetic.
        rms: Root mean square of the distances to its logits, in standard deviations of the tolerance.
        largest: The largest such distance.
        bounds: Bounds of ``rms`` and ``largest``.
        finer: Whether the logits lack the precision's rounding, and so are nearly exact.
    """

    arithmetic: str
    rms: float
    largest: float
    bounds: Bounds
    finer: bool

    @property
    def share(self) -> float:
        """``rms`` or ``largest`` over its bound, whichever is larger. At most 1 is right."""
        return max(self.rms / self.bounds.rms, self.largest / self.bounds.largest)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A backend's logits against the float64 reference's.

    Attributes:
        max_abs_delta: Largest ``|logit - reference|``. Infinite if a logit is not finite.
        max_share: Largest ``|logit - reference|`` over that logit's tolerance. At most 1 is right.
        top1_agreement: Share of images with the same largest logit, 0-1.
        flips: Images with another largest logit although the reference's lead exceeds both logits' tolerances.
        images: Number of images.
        closeness: To the precision's arithmetic. None if there are too few images to tell.
        overflow: Why logits are beyond their tolerance, if the weights do not fit the precision.
    """

    max_abs_delta: float
    max_share: float
    top1_agreement: float
    flips: int
    images: int
    closeness: Closeness | None = None
    overflow: Overflow | None = None

    @property
    def right(self) -> bool:
        """Whether every logit is within its tolerance, no image flips, and the closeness is within its bounds."""
        near = self.closeness is None or self.closeness.share <= 1
        return self.max_share <= 1 and self.flips == 0 and near

    def __str__(self) -> str:
        near = ""
        if self.closeness is not None:
            near = f", {self.closeness.share:.3g} of the bounds around {self.closeness.arithmetic}"
        return (
            f"max |delta logit| {self.max_abs_delta:.2e}, {self.max_share:.3g} of the tolerance{near}, "
            f"top-1 agreement {self.top1_agreement:.4f} over {self.images:,} images"
            f"{f'; {self.overflow}' if self.overflow else ''}"
        )


def compare(logits: torch.Tensor, wanted: torch.Tensor, allowed: torch.Tensor) -> Comparison:
    """Compare each logit with the reference.

    Args:
        logits: (N, 10), of any float dtype, on any device.
        wanted: `reference` of the same images, float64 (N, 10).
        allowed: `tolerance` of the same images, float64 (N, 10).
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
    """``delta / allowed``, and 0 for an exact logit. With weights of zero both are zero, and the logit is right."""
    return torch.where(delta == 0, 0.0, delta / allowed)


def _refuse_too_large(logits: torch.Tensor) -> None:
    largest = logits.abs().nan_to_num(nan=math.inf).max().item()
    if largest > torch.finfo(torch.float32).max:
        raise WeightsError(
            "the weights' logits overflow",
            found=f"a logit of {largest:.3g} in float64",
            wanted="logits that float32 can hold, as those of a trained network",
            hint="name other weights with --weights, or train again with `lenet train`",
        )


class Reference:
    """The reference logits of some images. Tolerances and rounded logits are computed on first use and kept.

    Args:
        arrays: float32 weights by parameter name.
        images: As the attribute.
        scales: Of a quantised precision's network. None for the shipped ones.

    Raises:
        WeightsError: A logit is beyond float32, whatever computes it.

    Attributes:
        images: (N, 3, 32, 32), on the CPU: normalised float32, or uint8 bytes.
        logits: `reference` of them, float64 (N, 10).
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        images: torch.Tensor,
        scales: Callable[[Precision], Scales | None] = lambda _: None,
    ) -> None:
        self.images = images
        self.logits = torch.cat([reference(arrays, chunk) for chunk in images.split(_CHUNK)])
        _refuse_too_large(self.logits)
        self._arrays = arrays
        self._scales = scales
        self._quantized: dict[Precision, torch.Tensor] = {}
        self._tolerances: dict[str, torch.Tensor] = {}
        self._rounded: dict[str, dict[str, torch.Tensor]] = {}

    def wanted(self, executed: str) -> torch.Tensor:
        """The logits that a precision's are compared with, float64 (N, 10): its quantised network's, or `logits`.

        Raises:
            QuantizationError: The scales of a quantised precision do not fit the weights.
        """
        precision = quantized_precision(executed)
        if precision is None:
            return self.logits
        if precision not in self._quantized:
            scales = resolve(self._arrays, precision, self._scales(precision))
            network = quantize(self._arrays, scales)
            found = [quantized_reference(network, scales, chunk) for chunk in self.images.split(_CHUNK)]
            self._quantized[precision] = torch.cat([logits for logits, _ in found])
            self._tolerances[precision] = torch.cat([allowed for _, allowed in found])
        return self._quantized[precision]

    def tolerance(self, executed: str) -> torch.Tensor:
        """`tolerance` of the images at a precision, or that of `quantized_reference`."""
        self.wanted(executed)
        if executed not in self._tolerances:
            chunks = self.images.split(_CHUNK)
            self._tolerances[executed] = torch.cat([tolerance(self._arrays, chunk, executed) for chunk in chunks])
        return self._tolerances[executed]

    def compare(self, logits: torch.Tensor, executed: str, first: int = 0) -> Comparison:
        """`compare` logits with the reference. From `ENOUGH_IMAGES` on, the result has their closeness too.

        Args:
            logits: (n, 10), of n consecutive images.
            executed: The precision that the backend ran.
            first: Index of the first of these images.
        """
        part = slice(first, first + len(logits))
        wanted, allowed = self.wanted(executed)[part], self.tolerance(executed)[part]
        found = compare(logits, wanted, allowed)
        if found.max_share > 1:
            found = replace(found, overflow=self._overflow(logits, wanted, allowed, executed, self.images[part]))
        few = slice(first, min(part.stop, _ROUNDED))
        if few.stop - first < ENOUGH_IMAGES or not math.isfinite(found.max_abs_delta):
            return found
        return replace(found, closeness=self._closeness(logits[: few.stop - first], executed, few))

    def _overflow(
        self, logits: torch.Tensor, wanted: torch.Tensor, allowed: torch.Tensor, executed: str, images: torch.Tensor
    ) -> Overflow | None:
        """Of the first images whose logits are wrong."""
        if quantized_precision(executed) is not None:
            return None
        wrong = ~((logits.detach().cpu().double() - wanted).abs() <= allowed).all(1)
        return overflow(self._arrays, images[wrong.to(images.device)][:_CHUNK], executed)

    def _closeness(self, logits: torch.Tensor, executed: str, part: slice) -> Closeness:
        sigma = self.tolerance(executed)[part] / SIGMAS
        exact = self.wanted(executed)[part]
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
        """The logits of the first images under each arithmetic of a precision, by its name."""
        if executed not in self._rounded:
            chunks = self.images[:_ROUNDED].split(_CHUNK)
            allowed = variants(executed, of_bytes=self.images.dtype is torch.uint8)
            self._rounded[executed] = {
                one.name: torch.cat([forward(self._arrays, chunk, one) for chunk in chunks]) for one in allowed
            }
        return self._rounded[executed]
