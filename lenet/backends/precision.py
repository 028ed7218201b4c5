"""The precision policy for PyTorch: its process-wide switches, set before each use by whoever needs them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

from lenet.errors import BackendError
from lenet.vocabulary import Precision

__all__ = ["DTYPES", "QUANTIZED", "adds_bytes_in_16_bits", "allow_tf32", "check_override"]


DTYPES: Final = {
    Precision.FP32: torch.float32,
    Precision.TF32: torch.float32,
    Precision.FP16: torch.float16,
    Precision.BF16: torch.bfloat16,
}
"""What PyTorch holds weights and activations in, for each precision that a framework has a type for."""

QUANTIZED: Final = {
    Precision.INT8: "pytorch, onnxruntime, openvino on a CPU, and pytorch, tensorrt, tensorrt-rtx, fused on a GPU",
    Precision.FP8: "pytorch everywhere, and tensorrt, tensorrt-rtx, fused on a GPU of compute capability 8.9",
}
"""The backends that run the quantised precisions."""

_CPU_INFO = Path("/proc/cpuinfo")

_allowed: bool | None = None


def _of_fpmath(mode: str) -> Precision | None:
    return None if mode in {"", "STRICT"} else Precision.FP32


_OVERRIDES: Final[tuple[tuple[str, str, Callable[[str], Precision | None]], ...]] = (
    ("NVIDIA_TF32_OVERRIDE", "cuda", {"0": Precision.TF32, "1": Precision.FP32}.get),
    ("ONEDNN_DEFAULT_FPMATH_MODE", "cpu", _of_fpmath),
    ("DNNL_DEFAULT_FPMATH_MODE", "cpu", _of_fpmath),
)
"""Variables that change what a library runs: the name, the type of device, and by value the precision that is lost."""


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
    # reading the older raises in PyTorch 2.14.
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
    _allowed = allowed


def adds_bytes_in_16_bits() -> bool:
    """Whether this CPU's instruction for products of bytes saturates: an x86 CPU without VNNI. Only Linux tells."""
    try:
        text = _CPU_INFO.read_text()
    except OSError:
        return False
    flags = {flag for line in text.splitlines() if line.startswith("flags") for flag in line.split()}
    return "avx2" in flags and not flags & {"avx512_vnni", "avx_vnni"}


def check_override(precision: Precision, device: torch.device) -> None:
    """Refuse a precision that the environment would have a library replace by another.

    ``NVIDIA_TF32_OVERRIDE`` beats every switch of a program: 0 keeps TF32 out, 1 puts it in (on an H200, with 1, a
    float32 product of cuBLAS is off by 1000 times as much, whatever PyTorch allows). oneDNN's variable lets a CPU
    compute float32 in a narrower type.

    Raises:
        BackendError: A variable contradicts the precision.
    """
    for name, on, replaced in _OVERRIDES:
        value = os.environ.get(name, "").upper()
        if device.type == on and precision is replaced(value):
            raise BackendError(
                f"{name}={value} keeps {precision} from being what runs: unset {name}",
                found=f"{name}={value}",
                wanted=f"an environment in which the libraries run {precision}",
                hint=f"unset {name}, or choose another precision",
            )
