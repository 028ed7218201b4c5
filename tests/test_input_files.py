"""Every file that the project reads, with something else in its place."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from lenet import results, weights
from lenet.data import cifar10
from lenet.data.synthetic import synthetic
from lenet.errors import LenetError, ResultsError
from lenet.files import read_regular
from lenet.report import sources
from lenet.training import loop
from lenet.training.recipe import Recipe
from tests.report import documents

HUGE = 5_000_000_000


def put_fifo(path: Path) -> str:
    os.mkfifo(path)
    return "a pipe, a device or a socket, not a regular file"


def put_device(path: Path) -> str:
    path.symlink_to("/dev/zero")
    return "a pipe, a device or a socket, not a regular file"


def put_sparse(path: Path) -> str:
    with path.open("wb") as file:
        file.truncate(HUGE)
    return f"{HUGE:,} bytes, more than the "


def read_report(*, run: Path | None = None, parity: Path | None = None, gates: Sequence[Path] = ()) -> None:
    found = sources.read([], run=run, parity=parity, gates=gates)
    if found.problems:
        raise found.problems[0]


def resume(path: Path) -> None:
    split = synthetic(20)
    recipe = Recipe(epochs=1, batch_size=20)
    loop.train(recipe, split, split, out=path.parent, device=torch.device("cpu"), resume=True)


READERS: dict[str, Callable[[Path], object]] = {
    "weights.safetensors": weights.load,
    "checkpoint.safetensors": resume,
    "cifar-10-batches-bin/test_batch.bin": lambda path: cifar10.load("test", path.parent),
    "cifar-10-batches-py/test_batch": lambda path: cifar10.load("test", path.parent),
    "0001_measured.json": results.load,
    "parity.json": lambda path: read_report(parity=path),
    "gate.json": lambda path: read_report(gates=[path]),
    "run/run.json": lambda path: read_report(run=path.parent),
    "run/history.csv": lambda path: read_report(run=path.parent),
}


@pytest.mark.parametrize("put", [put_fifo, put_device, put_sparse])
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_of_that_kind_is_neither_read_nor_waited_for(
    name: str, put: Callable[[Path], str], tmp_path: Path
) -> None:
    path = tmp_path / name
    if path.parent.name == "run":
        documents.run_directory(path.parent)
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    wanted = put(path)
    with pytest.raises(LenetError) as caught:
        READERS[name](path)
    assert wanted in caught.value.found


def test_a_file_of_the_largest_size_is_read_and_one_byte_more_is_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"1234")
    assert read_regular(path, 4) == b"1234"
    with pytest.raises(OSError, match="4 bytes, more than the 3 of such a file"):
        read_regular(path, 3)


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"1234")
    real = os.fstat

    def grow(descriptor: int) -> os.stat_result:
        found = real(descriptor)
        with path.open("ab") as file:
            file.write(b"5678")
        return found

    monkeypatch.setattr(os, "fstat", grow)
    with pytest.raises(OSError, match="grew past 5 bytes"):
        read_regular(path, 5)


@pytest.mark.parametrize("load", [results.load, results.load_gate])
@pytest.mark.parametrize(
    ("put", "advice"),
    [
        (put_fifo, "name a regular file, or"),
        (put_sparse, "name a smaller file, or"),
        (Path.mkdir, "name a file in it, or"),
        (lambda _: None, "look at its name, or"),
    ],
)
def test_the_advice_fits_what_was_found(
    load: Callable[[Path], object], put: Callable[[Path], object], advice: str, tmp_path: Path
) -> None:
    path = tmp_path / "0001_saved.json"
    put(path)
    with pytest.raises(ResultsError) as caught:
        load(path)
    assert caught.value.hint.startswith(advice)
