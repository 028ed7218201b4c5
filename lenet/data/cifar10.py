"""Find, download, verify and read CIFAR-10.

It reads two layouts. Both are described at https://www.cs.toronto.edu/~kriz/cifar.html:

- ``cifar-10-batches-bin``, the binary version: five training files and ``test_batch.bin``, each with 10,000 records of
  3,073 bytes. A record has one label byte, then 1,024 red, 1,024 green and 1,024 blue bytes, row by row. The page has
  the MD5 sum of the archive, and this module the SHA-256 sums of its files. Other content is read only on request.
- ``cifar-10-batches-py``, what torchvision downloads. Its files are pickles. torchvision alone opens them,
  after it has checked their published MD5 sums. No other pickle is ever loaded.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from lenet.architecture import CLASSES, INPUT_SHAPE
from lenet.errors import DataError
from lenet.files import open_regular, read_regular
from lenet.provenance import program

if TYPE_CHECKING:  # they take seconds to import, and who only asks where the data is needs none
    import numpy as np
    import torch

__all__ = [
    "CLASS_NAMES",
    "Split",
    "SplitName",
    "chosen_directory",
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
_BINARY_FILES: Final[dict[SplitName, dict[str, str]]] = {
    "train": {
        "data_batch_1.bin": "81d31b00280774355025128b8f47aeebe55ceacd7bf1a5a5da2c1b80a0e47d9d",
        "data_batch_2.bin": "0c424ba6648453ecf4132c84f8c6079cc6994452833c824e4b1fada8a60d70ff",
        "data_batch_3.bin": "6ef1ff89986bb3b882b72e8b4ad9ac11f50b1bc2f5585a5773dd45b305064b78",
        "data_batch_4.bin": "7c4bbbd9fa6034efcaeaa2bf932eb3539f76be76ad5871896798aeaab586f681",
        "data_batch_5.bin": "41812c6839280f8f18e49cff3bbeeda33043741e4c3cb45001269b489fcb3ba2",
    },
    "test": {"test_batch.bin": "39e920691380b065d341005d98912a1da039cdae307fcddbb509163e7e016a60"},
}
"""The official files, each with its SHA-256."""
_LARGEST_PICKLE: Final = 2**25
"""The most bytes that a file of the other layout may have; the official ones have 31 MB."""
_NAMES: Final[dict[SplitName, str]] = {"train": "CIFAR-10 training images", "test": "CIFAR-10 test images"}
_RECORDS: Final = 10_000
_FETCH: Final = "fetch it again from https://www.cs.toronto.edu/~kriz/cifar.html"
_PIXELS: Final = INPUT_SHAPE[0] * INPUT_SHAPE[1] * INPUT_SHAPE[2]
_RECORD_BYTES: Final = 1 + _PIXELS


@dataclass(frozen=True, slots=True)
class Split:
    """The training or the test images.

    Attributes:
        images: uint8 (N, 3, 32, 32), RGB, on the CPU unless `to` moved them.
        labels: int64 (N,), 0-9, on the same device.
        source: Where they come from, for people to read: a directory, for example.
        content: What they are, without a path: the official images, or others with their digest.
    """

    images: torch.Tensor
    labels: torch.Tensor
    source: str
    content: str = "images made in memory"

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, count: int) -> Split:
        """The first ``count`` images."""
        return replace(self, images=self.images[:count], labels=self.labels[:count])

    def to(self, device: torch.device) -> Split:
        """The same images and labels on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def sha256(self) -> str:
        """SHA-256 over all image bytes, then all labels as bytes, in the order of the split."""
        import torch

        digest = hashlib.sha256(self.images.contiguous().cpu().numpy().data)
        digest.update(self.labels.to(torch.uint8).cpu().numpy().data)
        return digest.hexdigest()


def default_directory(option: Path | None) -> Path:
    """The data directory: the option, else the environment's ``LENET_DATA``, else ``./data``."""
    return option or Path(os.environ.get("LENET_DATA") or "data")


def chosen_directory(option: Path | None) -> Path | None:
    """The data directory for a command that can use synthetic images instead.

    Args:
        option: As for `default_directory`.

    Returns:
        The directory, or None if none was asked for and ``./data`` has no data.

    Raises:
        DataError: The option or ``LENET_DATA`` names a directory without data.
    """
    directory = default_directory(option)
    if find_layout(directory) is not None:
        return directory
    if option is not None or os.environ.get("LENET_DATA"):
        raise _no_data(directory, _fetched_into(directory))
    return None


def _fetched_into(directory: Path) -> str:
    """How to fetch the data for what cannot fetch it itself, such as pytest."""
    return f"fetch it with `{program('lenet')} evaluate --download --data {shlex.quote(str(directory))}`"


def _no_data(directory: Path, fetch: str) -> DataError:
    return DataError(
        f"no CIFAR-10 in {directory}",
        found="an existing directory without either layout" if directory.is_dir() else "no such directory",
        wanted=f"{_BINARY} or {_PYTHON} inside it",
        hint=f"name the directory with --data or LENET_DATA, or {fetch}",
    )


def find_layout(directory: Path) -> Path | None:
    """The layout directory inside ``directory`` (or ``directory`` itself), or None; nothing is read."""
    for name in (_BINARY, _PYTHON):
        if directory.name == name and directory.is_dir():
            return directory
        if (directory / name).is_dir():
            return directory / name
    return None


def load(split: SplitName, directory: Path, *, accept_unknown: bool = False, fetch: str | None = None) -> Split:
    """Read one split from a directory that holds either layout.

    Args:
        split: ``train`` (50,000 images) or ``test`` (10,000).
        directory: The directory that holds ``cifar-10-batches-bin`` or ``cifar-10-batches-py``.
        accept_unknown: Also read files of the binary layout that are not the official ones. The split then says so.
        fetch: How the command that was run fetches the data, for an error to say. By default ``lenet evaluate`` does.

    Returns:
        The split, on the CPU.

    Raises:
        DataError: The directory has neither layout, or a file is missing, is no regular file, is truncated or
            oversized, or fails its check.
    """
    layout = find_layout(directory)
    fetch = fetch or _fetched_into(directory)
    if layout is None:
        raise _no_data(directory, fetch)
    if layout.name == _BINARY:
        return _load_binary(split, layout, accept_unknown=accept_unknown)
    return _load_python(split, layout, fetch)


def download(directory: Path) -> None:
    """Let torchvision download CIFAR-10 (170 MB) into ``directory`` and check its MD5 sum.

    It fetches nothing if either layout is already there.

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


def _load_binary(split: SplitName, layout: Path, *, accept_unknown: bool) -> Split:
    import torch

    files = _BINARY_FILES[split]
    images = torch.empty((len(files) * _RECORDS, *INPUT_SHAPE), dtype=torch.uint8)
    labels = torch.empty(len(files) * _RECORDS, dtype=torch.int64)

    def read(number: int, name: str) -> str:
        records, digest = _read_records(layout / name)
        rows = slice(number * _RECORDS, (number + 1) * _RECORDS)
        labels.numpy()[rows] = records[:, 0]
        images.numpy()[rows] = records[:, 1:].reshape(_RECORDS, *INPUT_SHAPE)
        return digest

    with ThreadPoolExecutor() as pool:  # reading, hashing and copying release the GIL
        digests = dict(zip(files, pool.map(read, range(len(files)), files), strict=True))
    unknown = [name for name in files if digests[name] != files[name]]
    if not unknown:
        return Split(images, labels, str(layout), _NAMES[split])
    if not accept_unknown:
        raise DataError(
            f"{layout} does not hold CIFAR-10",
            found=", ".join(f"{name} with SHA-256 {digests[name][:12]}..." for name in unknown),
            wanted=", ".join(f"{files[name][:12]}..." for name in unknown) + ", those of the official files",
            hint=f"{_FETCH}, or use what is there with --accept-unknown-data",
        )
    found = Split(images, labels, f"{layout} (not the official {', '.join(unknown)})")
    return replace(found, content=f"unknown {split} images, SHA-256 {found.sha256()[:12]}")


def _read_records(path: Path) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.uint8]], str]:
    """A file's records, and the SHA-256 of the file."""
    import numpy as np

    size = _RECORDS * _RECORD_BYTES
    wanted = f"{_RECORDS:,} records of {_RECORD_BYTES:,} bytes, {size:,} in all"
    try:
        content = read_regular(path, size)
    except OSError as error:
        found = error.strerror or str(error)
        summary = f"{path} is oversized" if error.errno == errno.EFBIG else f"cannot read {path}"
        raise DataError(summary, found=found, wanted=wanted, hint=_FETCH) from error
    if len(content) < size:
        raise DataError(f"{path} is truncated", found=f"{len(content):,} bytes", wanted=wanted, hint=_FETCH)
    records = np.frombuffer(content, dtype=np.uint8).reshape(_RECORDS, _RECORD_BYTES)
    highest = int(records[:, 0].argmax())
    if records[highest, 0] >= CLASSES:
        raise DataError(
            f"{path} has a label that is no class",
            found=f"label {records[highest, 0]} in record {highest}",
            wanted=f"labels 0 to {CLASSES - 1}",
            hint=_FETCH,
        )
    return records, hashlib.sha256(content).hexdigest()


def _load_python(split: SplitName, layout: Path, fetch: str) -> Split:
    import torch
    from torchvision.datasets import CIFAR10

    for name, _ in (*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], None)):
        _refuse_what_is_no_file(layout / name, fetch)
    try:
        dataset = CIFAR10(root=str(layout.parent), train=split == "train", download=False)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{layout} fails torchvision's check",
            found=f"{type(error).__name__}: {error}",
            wanted="the official files, each with its published MD5 sum",
            hint=f"delete {layout} and {fetch}",
        ) from error
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.tensor(dataset.targets, dtype=torch.int64), str(layout), _NAMES[split])


def _refuse_what_is_no_file(path: Path, fetch: str) -> None:
    """Refuse pipes and devices, which torchvision would read to their end. It reports missing files itself."""
    try:
        with open_regular(path, _LARGEST_PICKLE):
            pass
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(
            f"cannot read {path}",
            found=error.strerror or str(error),
            wanted="a file of CIFAR-10, 31 MB or less",
            hint=f"delete {path.parent} and {fetch}",
        ) from error
