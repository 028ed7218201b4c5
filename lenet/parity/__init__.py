"""Whether logits are right: a float64 reference, the tolerance of each precision, and the layer that diverges."""

from __future__ import annotations

from lenet.parity.comparison import ENOUGH_IMAGES, Bounds, Closeness, Comparison, Reference, compare
from lenet.parity.diverging_layer import diverging_layer, probing_scales
from lenet.parity.network import Overflow, reference
from lenet.parity.quantized import quantized_reference
from lenet.parity.tolerance import SIGMAS, ParityError, Rounding, rounding, tolerance

__all__ = [
    "ENOUGH_IMAGES",
    "SIGMAS",
    "Bounds",
    "Closeness",
    "Comparison",
    "Overflow",
    "ParityError",
    "Reference",
    "Rounding",
    "compare",
    "diverging_layer",
    "probing_scales",
    "quantized_reference",
    "reference",
    "rounding",
    "tolerance",
]
