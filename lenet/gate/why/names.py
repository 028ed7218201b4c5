"""Short names of kernels, operators and copies. Kernels that differ only in a generated number share one."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["copy_name", "kernel_name", "operator_name"]

_LONGEST: Final = 60
_HASH: Final = re.compile(r"_(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{8,}(?![0-9A-Za-z])")
"""A hash: eight hexadecimal digits or more, both letters and numbers among them."""
_TRITON_NUMBER: Final = re.compile(r"(_\d[\dde]*)+$")
"""TorchInductor numbers its kernels; Triton's older releases add which arguments are constants, as in ``_0d1d2de``."""
_REGION: Final = re.compile(r": \d+/\d+$")
_TELLS_LITTLE: Final = frozenset(
    [
        *("array", "at", "bool", "c10", "char", "const", "cuda", "cutlass", "detail", "double", "float", "half", "int"),
        *("kernel", "lambda", "long", "native", "operator", "short", "size_t", "std", "uint64_t", "unsigned", "void"),
    ]
)
_GENERIC: Final = re.compile(
    r"^(Kernel\d*|kernel|device_kernel|\w*elementwise_kernel\w*|reduce_kernel|gemm\w*_kernel)$"
)
"""Kernels of libraries whose template's argument says what they do."""
_COPIES: Final = {
    "HtoD": "the copy to the GPU",
    "DtoH": "the copy from the GPU",
    "DtoD": "a copy within the GPU",
    "PtoP": "a copy between GPUs",
}


def kernel_name(name: str) -> str:
    """A kernel's short name: without namespaces, arguments, most of a template, hashes and generated numbers."""
    text = name.replace("(anonymous namespace)::", "").replace("<unnamed>::", "").strip()
    before, _, template = text.partition("<")
    short = _last(before.partition("(")[0])
    if template and _GENERIC.match(short):
        words = [word for word in re.findall(r"[A-Za-z_]\w*", template) if word.lower() not in _TELLS_LITTLE]
        telling = max(words[:8], key=len, default="")
        short = f"{short}<{telling}>" if telling else short
    short = _HASH.sub("", short)
    if short.startswith("triton_"):
        short = _TRITON_NUMBER.sub("", short)
    return _cut(short) or "a kernel without a name"


def operator_name(name: str) -> str:
    """An operator's name without ``aten::``, hashes and numbers. torch.compile's own code has no name but a hash."""
    if "CompiledFxGraph" in name:
        return "generated code"
    short = _HASH.sub("", name.removeprefix("aten::"))
    if short.startswith("triton_"):
        short = _TRITON_NUMBER.sub("", short)
    short = _REGION.sub("", short)
    return _cut(short) or "an operator without a name"


def copy_name(name: str) -> str:
    """What a copy does, by the profiler's name for it, such as ``Memcpy HtoD (Pinned -> Device)``."""
    return next((text for word, text in _COPIES.items() if word in name), _cut(name) or "a copy")


def _last(name: str) -> str:
    """The last part of a qualified name, without its type."""
    return name.strip().rpartition(" ")[2].rpartition("::")[2]


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
