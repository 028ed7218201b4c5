"""Find, download, verify and read CIFAR-10.

Two layouts are read, both described at https://www.cs.toronto.edu/~kriz/cifar.html:

- ``cifar-10-batches-bin``, the binary version: records of 3,073 bytes, one label byte and then 1,024 red, 1,024
  green and 1,024 blue bytes in rows; 10,000 records a file; five training files and ``test_batch.bin``.
- ``cifar-10-batches-py``, what torchvision downloads. Its files are pickles, and are only opened by torchvision,
  after torchvision has found their published MD5 sums right: no other pickle is ever loaded.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np
import torch

from lenet.architecture import CLASSES, INPUT_SHAPE
from lenet.errors import DataError

__all__ = [
    "CLASS_NAMES",
    "Split",
    "SplitName",
    "default_directory",
    "download",
    "find_layout",
    "load",
]

SplitName: TypeAlias = Literal["train", "test"]

CLASS_NAMES: Final = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

_BINARY: Final = "cifar-10-batches-bin"
_PYTHON: Final = "cifar-10-batches-py"
_BINARY_FILES: Final[dict[SplitName, tuple[str, ...]]] = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
_RECORDS: Final = 10_000
_PIXELS: Final = INPUT_SHAPE[0] * INPUT_SHAPE[1] * INPUT_SHAPE[2]
_RECORD_BYTES: Final = 1 + _PIXELS


@dataclass(frozen=True, slots=True)
class Split:
    """The training or the test images.

    Attributes:
        images: uint8 (N, 3, 32, 32), RGB; on the CPU, where it was not moved.
        labels: int64 (N,), 0-9, likewise.
        source: Where they come from, for people to read: the directory that they were read from.
    """

    images: torch.Tensor
    labels: torch.Tensor
    source: str

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, count: int) -> Split:
        """The first ``count`` images."""
        return Split(self.images[:count], self.labels[:count], self.source)

    def to(self, device: torch.device) -> Split:
        """The same images and labels on another device."""
        return Split(self.images.to(device), self.labels.to(device), self.source)

    def sha256(self) -> str:
        """SHA-256 over all image bytes, then all labels as bytes, in the order of the split."""
        digest = hashlib.sha256(self.images.contiguous().cpu().numpy().data)
        digest.update(self.labels.to(torch.uint8).cpu().numpy().data)
        return digest.hexdigest()


def default_directory(option: Path | None) -> Path:
    """The data directory: the option, else the environment's ``LENET_DATA``, else ``./data``."""
    return option or Path(os.environ.get("LENET_DATA") or "data")


def find_layout(directory: Path) -> Path | None:
    """The layout directory inside ``directory`` (or ``directory`` itself), or None; nothing is read."""
    for name in (_BINARY, _PYTHON):
        if directory.name == name and directory.is_dir():
            return directory
        if (directory / name).is_dir():
            return directory / name
    return None


def load(split: SplitName, directory: Path) -> Split:
    """Read one split from a directory that holds either layout.

    Args:
        split: ``train`` (50,000 images) or ``test`` (10,000).
        directory: The directory that holds ``cifar-10-batches-bin`` or ``cifar-10-batches-py``.

    Returns:
        The split, on the CPU.

    Raises:
        DataError: There is no layout in it, or a file is missing, truncated, oversized, or fails its check.
    """
    layout = find_layout(directory)
    if layout is None:
        raise DataError(
            f"no CIFAR-10 in {directory}",
            found="an existing directory without either layout" if directory.is_dir() else "no such directory",
            wanted=f"{_BINARY} or {_PYTHON} inside it",
            hint="name the directory with --data or LENET_DATA, or let `lenet train --download` fetch it",
        )
    return _load_binary(split, layout) if layout.name == _BINARY else _load_python(split, layout)


def download(directory: Path) -> None:
    """Let torchvision download CIFAR-10 (170 MB) into ``directory`` and check its MD5 sum.

    Nothing is fetched where either layout is already there.

    Raises:
        DataError: The download failed, or its MD5 sum is wrong.
    """
    if find_layout(directory) is not None:
        return
    from torchvision.datasets import CIFAR10

    try:
        CIFAR10(root=str(directory), download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"CIFAR-10 could not be downloaded into {directory}",
            found=f"{type(error).__name__}: {error}",
            wanted="the archive with its published MD5 sum",
            hint="check the network and the free space, or copy the data there and name it with --data",
        ) from error


def _load_binary(split: SplitName, layout: Path) -> Split:
    names = _BINARY_FILES[split]
    images = torch.empty((len(names) * _RECORDS, *INPUT_SHAPE), dtype=torch.uint8)
    labels = torch.empty(len(names) * _RECORDS, dtype=torch.int64)
    for number, name in enumerate(names):
        records = _read_records(layout / name)
        rows = slice(number * _RECORDS, (number + 1) * _RECORDS)
        labels[rows] = torch.from_numpy(records[:, 0].astype(np.int64))
        images[rows] = torch.from_numpy(records[:, 1:]).view(_RECORDS, *INPUT_SHAPE)
    return Split(images, labels, str(layout))


def _read_records(path: Path) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    wanted = f"{_RECORDS:,} records of {_RECORD_BYTES:,} bytes, {_RECORDS * _RECORD_BYTES:,} in all"
    hint = "fetch the file again from https://www.cs.toronto.edu/~kriz/cifar.html"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}", found=error.strerror or str(error), wanted=wanted, hint=hint) from error
    if len(content) != _RECORDS * _RECORD_BYTES:
        kind = "truncated" if len(content) < _RECORDS * _RECORD_BYTES else "oversized"
        raise DataError(f"{path} is {kind}", found=f"{len(content):,} bytes", wanted=wanted, hint=hint)
    records = np.frombuffer(bytearray(content), dtype=np.uint8).reshape(_RECORDS, _RECORD_BYTES)
    highest = int(records[:, 0].argmax())
    if records[highest, 0] >= CLASSES:
        raise DataError(
            f"{path} has a label that is no class",
            found=f"label {records[highest, 0]} in record {highest}",
            wanted=f"labels 0 to {CLASSES - 1}",
            hint=hint,
        )
    return records


def _load_python(split: SplitName, layout: Path) -> Split:
    from torchvision.datasets import CIFAR10

    try:
        dataset = CIFAR10(root=str(layout.parent), train=split == "train", download=False)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{layout} fails torchvision's check",
            found=f"{type(error).__name__}: {error}",
            wanted="the official files, each with its published MD5 sum",
            hint=f"delete {layout} and fetch it again with `lenet train --download`",
        ) from error
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.tensor(dataset.targets, dtype=torch.int64), str(layout))
