"""Named weights: safetensors files to and from NumPy arrays, checked against the architecture.

safetensors holds only tensors and text, so loading a file runs none of its code. The format has no checksum, so the
files written here have a digest in their metadata.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as deserialize
from safetensors.numpy import save as serialize

from lenet.architecture import PARAMETER_SHAPES
from lenet.documents import parse, to_json
from lenet.errors import WeightsError
from lenet.files import read_regular, write_atomically

__all__ = [
    "LARGEST",
    "SHIPPED",
    "Arrays",
    "Weights",
    "check",
    "digest",
    "load",
    "narrow",
    "read_safetensors",
    "save",
    "to_safetensors",
]

Arrays: TypeAlias = dict[str, np.ndarray]

SHIPPED: Final = Path(__file__).with_name("lenet_cifar10.safetensors")
"""The weights that come with the package; docs/reference/weights.md says how they were trained."""

_DIGEST: Final = "sha256"
"""The metadata's key for the digest of all tensors and of the other metadata."""

LARGEST: Final = 2**26
"""The most bytes that a file may have. A LeNet has 0.25 MB, a checkpoint 0.5 MB and its history."""

_HINT: Final = "use a weights.safetensors that `lenet train` wrote, or the shipped weights"


@dataclass(frozen=True, slots=True)
class Weights:
    """A trained LeNet.

    Attributes:
        arrays: float32 arrays in PyTorch's layout, by the parameter names of the architecture.
        metadata: What the file says of itself (recipe, metrics), each value a JSON text.
        path: The file.
    """

    arrays: Arrays
    metadata: dict[str, str]
    path: Path

    @property
    def accuracy(self) -> float | None:
        """The accuracy on the test images that the file states, 0-1, or None if it states none."""
        try:
            stated = parse(self.metadata.get("metrics", "{}"))["test_accuracy"]
        except (ValueError, KeyError, TypeError):
            return None
        return float(stated) if isinstance(stated, int | float) and 0 <= stated <= 1 else None


def load(path: Path = SHIPPED) -> Weights:
    """Read a weights file.

    Args:
        path: A safetensors file.

    Raises:
        WeightsError: The file cannot be read or is damaged, or a tensor is missing, extra, of another shape or dtype,
            or holds a value that is not finite.
    """
    arrays, metadata = read_safetensors(path)
    check(arrays, path)
    return Weights(arrays, metadata, path)


def save(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, object]) -> None:
    """Write a weights file, whole or not at all.

    Args:
        path: The file.
        arrays: float32 arrays by parameter name.
        metadata: Values that JSON can hold.

    Raises:
        WeightsError: The arrays do not fit the architecture.
        OutputError: The file cannot be written.
    """
    check(arrays, path)
    texts = {key: to_json(value) for key, value in metadata.items()}
    write_atomically(path, to_safetensors(arrays, texts))


def to_safetensors(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file's content, the same for the same arrays and metadata.

    It holds a digest by which `read_safetensors` finds a changed bit.
    """
    content = serialize(dict(arrays), {**metadata, _DIGEST: _digest_of_file(arrays, metadata)})
    # The library sorts the tensors, but not the metadata, whose order differs from call to call.
    header, tensors = _split_header(content)
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = to_json(header).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + tensors


def _split_header(content: bytes) -> tuple[dict[str, Any], bytes]:
    """A safetensors file's header, and the bytes of its tensors.

    Source of the format: https://huggingface.co/docs/safetensors/index#format. The first 8 bytes are the header's
    length, little-endian. The header is JSON and may end in spaces. It says where each tensor lies in the bytes after
    the header.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    return parse(content[8:end].decode()), content[end:]


def read_safetensors(path: Path) -> tuple[Arrays, dict[str, str]]:
    """All tensors and the metadata of a safetensors file, checked against its digest if it has one.

    Raises:
        WeightsError: The file is missing, is no regular file or no whole safetensors file, holds a dtype that NumPy
            lacks, or does not match its digest.
    """
    try:
        content = read_regular(path, LARGEST)
        arrays = dict(sorted(deserialize(content).items()))
        metadata: dict[str, str] = _split_header(content)[0].get("__metadata__") or {}
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    except KeyError as error:  # the library raises it for a dtype such as bfloat16
        raise _unreadable(path, f"a tensor of dtype {error.args[0]}, which NumPy has not") from error
    except (SafetensorError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    written = metadata.pop(_DIGEST, None)
    if written is not None and written != _digest_of_file(arrays, metadata):
        raise WeightsError(
            f"{path} is damaged",
            found="values other than those that were written",
            wanted="tensors and metadata of the digest that the file holds",
            hint=_HINT,
        )
    return arrays, metadata


def _unreadable(path: Path, found: str) -> WeightsError:
    return WeightsError(f"cannot read {path}", found=found, wanted="a whole safetensors file", hint=_HINT)


def narrow(arrays: Mapping[str, np.ndarray], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Round weights to the type that a network holds them in. Nothing else in the project does so.

    Args:
        arrays: Finite float32 or float64 arrays by parameter name.
        dtype: A floating-point type.

    Returns:
        Copies, on the CPU, rounded to nearest even.

    Raises:
        WeightsError: A value is beyond the type's range, so it would become infinite.
    """
    found = {}
    for name, array in arrays.items():
        tensor = torch.tensor(array).to(dtype)
        if not tensor.isfinite().all():
            kind, most = str(dtype).removeprefix("torch."), torch.finfo(dtype).max
            raise WeightsError(
                f"{name} does not fit into {kind}",
                found=f"a value of size {np.abs(array).max():.6g}",
                wanted=f"at most {most:.6g}",
                hint="choose another precision, or other weights",
            )
        found[name] = tensor
    return found


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of arrays with their names, dtypes and shapes, in hexadecimal. Their order does not matter."""
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype} {array.shape}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def _digest_of_file(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    return hashlib.sha256(to_json([digest(arrays), dict(metadata)], sort_keys=True).encode()).hexdigest()


def check(arrays: Mapping[str, np.ndarray], source: Path | str) -> None:
    """Check that the arrays are a LeNet's.

    Args:
        arrays: Arrays by parameter name.
        source: Their name in an error.

    Raises:
        WeightsError: A tensor is missing, extra, of another shape or dtype, or holds a value that is not finite.
    """

    def fail(summary: str, found: str, wanted: str) -> WeightsError:
        return WeightsError(f"{source}: {summary}", found=found, wanted=wanted, hint=_HINT)

    missing, extra = PARAMETER_SHAPES.keys() - arrays.keys(), arrays.keys() - PARAMETER_SHAPES.keys()
    if missing:
        raise fail("a tensor is missing", f"no {', '.join(sorted(missing))}", ", ".join(PARAMETER_SHAPES))
    if extra:
        raise fail("a tensor is not LeNet's", ", ".join(sorted(extra)), ", ".join(PARAMETER_SHAPES))
    for name, shape in PARAMETER_SHAPES.items():
        array = arrays[name]
        if array.shape != shape:
            raise fail(f"{name} has the wrong shape", str(array.shape), str(shape))
        if array.dtype != np.float32:
            raise fail(f"{name} has the wrong dtype", str(array.dtype), "float32")
        if not np.isfinite(array).all():
            count = int((~np.isfinite(array)).sum())
            raise fail(f"{name} is not finite", f"{count} values that are NaN or infinite", "finite values")
