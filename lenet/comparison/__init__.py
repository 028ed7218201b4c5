"""What every backend computes, compared: over a test set, for the call of a row, and in `lenet doctor`."""

from __future__ import annotations

from lenet.comparison.agreement import Agreement, Missing, compare_backends
from lenet.comparison.in_flight import check_in_flight
from lenet.comparison.logits import layer_at_fault, logits_of, reference_of
from lenet.comparison.quantization_cost import QuantizationCost, quantization_cost
from lenet.comparison.row import RowParity

__all__ = [
    "Agreement",
    "Missing",
    "QuantizationCost",
    "RowParity",
    "check_in_flight",
    "compare_backends",
    "layer_at_fault",
    "logits_of",
    "quantization_cost",
    "reference_of",
]
