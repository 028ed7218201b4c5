"""The precision policy for PyTorch: its process-wide switches, set before each use by whoever needs them."""

from __future__ import annotations

from typing import Final

import torch

from lenet.backends.base import Precision

__all__ = ["DTYPES", "allow_tf32"]

DTYPES: Final = {
    Precision.FP32: torch.float32,
    Precision.TF32: torch.float32,
    Precision.FP16: torch.float16,
    Precision.BF16: torch.bfloat16,
}
"""What PyTorch holds weights and activations in, for each precision that a framework has a type for."""

_allowed: bool | None = None


def allow_tf32(allowed: bool) -> None:
    """Let PyTorch's float32 convolutions and matrix products use TF32, or not.

    PyTorch's defaults differ between the two (on for cuDNN, off for matrix products), so both are set. Runners of
    both kinds may live in one process: each calls this before it runs, at the cost of a comparison when nothing
    changes.
    """
    global _allowed  # noqa: PLW0603 - it mirrors state that is PyTorch's, and as wide
    if _allowed is allowed:
        return
    # The older of PyTorch's two interfaces: once the newer one (`fp32_precision`) has turned TF32 off for convolutions,
    # reading the older raises in PyTorch 2.14, and its ONNX exporter reads it.
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
    _allowed = allowed
