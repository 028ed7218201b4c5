from __future__ import annotations

import hashlib
import pickle
import re
import shutil
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from lenet.data import cifar10
from lenet.data.cifar10 import Split
from lenet.errors import DataError


def test_binary_layout_is_read_byte_for_byte(noise_directory: Path) -> None:
    split = cifar10.load("test", noise_directory, accept_unknown=True)
    raw = np.fromfile(noise_directory / "cifar-10-batches-bin" / "test_batch.bin", np.uint8).reshape(-1, 3073)
    assert split.images.shape == (10_000, 3, 32, 32)
    assert split.images.dtype == torch.uint8
    assert split.labels.dtype == torch.int64
    assert np.array_equal(split.labels.numpy(), raw[:, 0])
    # Red, green, blue planes, each in rows.
    assert split.images[7, 1, 2, 3] == raw[7, 1 + 1 * 1024 + 2 * 32 + 3]
    assert np.array_equal(split.images.numpy().reshape(10_000, -1), raw[:, 1:])


def test_training_files_are_joined_in_order(noise_directory: Path) -> None:
    split = cifar10.load("train", noise_directory, accept_unknown=True)
    assert len(split) == 50_000
    assert torch.equal(split.images[:100], split.images[40_000:40_100])


def test_the_layout_itself_can_be_named(noise_directory: Path) -> None:
    assert len(cifar10.load("test", noise_directory / "cifar-10-batches-bin", accept_unknown=True)) == 10_000


def test_directory_is_the_option_then_the_environment_then_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LENET_DATA", "from-environment")
    assert cifar10.default_directory(Path("option")) == Path("option")
    assert cifar10.default_directory(None) == Path("from-environment")
    monkeypatch.delenv("LENET_DATA")
    assert cifar10.default_directory(None) == Path("data")


def test_checksum_sees_one_changed_pixel_and_label(noise_directory: Path) -> None:
    split = cifar10.load("test", noise_directory, accept_unknown=True).head(10)
    before = split.sha256()
    assert before == cifar10.load("test", noise_directory, accept_unknown=True).head(10).sha256()
    split.images[3, 2, 1, 0] ^= 1
    assert (changed := split.sha256()) != before
    split.labels[0] += 1
    assert split.sha256() not in {before, changed}


@pytest.mark.parametrize(
    ("size", "kind"),
    [(0, "truncated"), (30_729_999, "truncated"), (30_730_001, "oversized"), (30_733_073, "oversized")],
)
def test_a_file_of_the_wrong_size_is_refused(damaged: Path, size: int, kind: str) -> None:
    path = damaged / "cifar-10-batches-bin" / "test_batch.bin"
    content = path.read_bytes()
    path.write_bytes((content + content)[:size])
    with pytest.raises(
        DataError, match=rf"test_batch.bin is {kind}\n  found:  {size:,} bytes[^\n]*\n  wanted: 10,000 records"
    ):
        cifar10.load("test", damaged)


def test_a_label_over_9_is_refused(damaged: Path) -> None:
    path = damaged / "cifar-10-batches-bin" / "test_batch.bin"
    content = bytearray(path.read_bytes())
    content[3073 * 1234] = 10
    path.write_bytes(content)
    with pytest.raises(DataError, match="label 10 in record 1234"):
        cifar10.load("test", damaged)


def test_a_missing_file_is_named(damaged: Path) -> None:
    (damaged / "cifar-10-batches-bin" / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"cannot read .*data_batch_3\.bin"):
        cifar10.load("train", damaged)


def test_no_data_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)no CIFAR-10 in .*cifar-10-batches-bin.*--data or LENET_DATA"):
        cifar10.load("test", tmp_path)
    with pytest.raises(DataError, match="no such directory"):
        cifar10.load("test", tmp_path / "nothing")


def test_no_network_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(DataError, match=r"(?s)could not be downloaded.*no route to host.*check the network"):
        cifar10.download(tmp_path)
    assert cifar10.find_layout(tmp_path) is None


def test_download_leaves_existing_data_alone(noise_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.CIFAR10.__init__", None)
    cifar10.download(noise_directory)


class TestPythonLayout:
    """The pickled layout, with files made here and torchvision's table of MD5 sums set to theirs."""

    @pytest.fixture
    def directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        layout = tmp_path / "cifar-10-batches-py"
        layout.mkdir()
        generator = np.random.default_rng(1)
        names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
        for name in names:
            batch = {"data": generator.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": list(range(10)) * 2}
            (layout / name).write_bytes(pickle.dumps(batch))
        (layout / "batches.meta").write_bytes(pickle.dumps({"label_names": list(cifar10.CLASS_NAMES)}))
        sums = {
            path.name: hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() for path in layout.iterdir()
        }
        monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in names[:5]])
        monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
        meta = {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}
        monkeypatch.setattr(CIFAR10, "meta", meta)
        return tmp_path

    def test_is_read_as_the_binary_one(self, directory: Path) -> None:
        split = cifar10.load("test", directory)
        with (directory / "cifar-10-batches-py" / "test_batch").open("rb") as file:
            batch = pickle.load(file)  # noqa: S301 - written by the fixture
        assert split.images.shape == (20, 3, 32, 32)
        assert split.images.is_contiguous()
        assert np.array_equal(split.images.numpy().reshape(20, -1), batch["data"])
        assert split.labels.tolist() == batch["labels"]
        assert len(cifar10.load("train", directory)) == 100

    def test_a_changed_file_is_refused_and_never_unpickled(self, directory: Path, tmp_path: Path) -> None:
        trace = tmp_path / "unpickled"

        class Hostile:
            def __reduce__(self) -> tuple[object, ...]:
                return (Path.touch, (trace,))

        hostile = pickle.dumps(Hostile())
        (directory / "cifar-10-batches-py" / "test_batch").write_bytes(hostile)
        with pytest.raises(DataError, match=r"(?s)fails torchvision's check.*MD5 sum.*--download"):
            cifar10.load("test", directory)
        assert not trace.exists()
        pickle.loads(hostile)  # noqa: S301 - the trap itself works
        assert trace.exists()


def test_real_data_is_cifar_10(real_train: Split, real_test: Split) -> None:
    assert torch.bincount(real_train.labels).tolist() == [5000] * 10
    assert torch.bincount(real_test.labels).tolist() == [1000] * 10
    assert (real_train.content, real_test.content) == ("CIFAR-10 training images", "CIFAR-10 test images")


def test_files_that_are_not_the_official_ones_are_refused_unless_they_are_asked_for(noise_directory: Path) -> None:
    with pytest.raises(
        DataError, match=r"(?s)does not hold CIFAR-10\n  found:  test_batch.bin .*--accept-unknown-data"
    ):
        cifar10.load("test", noise_directory)
    split = cifar10.load("test", noise_directory, accept_unknown=True)
    assert "not the official test_batch.bin" in split.source
    assert re.fullmatch(r"unknown test images, SHA-256 [0-9a-f]{12}", split.content)
    assert split.head(3).content == split.to(torch.device("cpu")).content == split.content


def test_the_changed_one_of_several_files_is_named(
    noise_directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    layout = tmp_path / "cifar-10-batches-bin"
    shutil.copytree(noise_directory / layout.name, layout)
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in layout.iterdir()}
    test = {"test_batch.bin": sums.pop("test_batch.bin")}
    monkeypatch.setattr(cifar10, "_BINARY_FILES", {"train": dict(sorted(sums.items())), "test": test})
    assert cifar10.load("train", tmp_path).content == "CIFAR-10 training images"
    with (layout / "data_batch_4.bin").open("r+b") as file:
        file.seek(3073 * 5000)
        file.write(bytes(3073 * 10))
    with pytest.raises(DataError, match=r"found:  data_batch_4\.bin with SHA-256 [0-9a-f]{12}\.\.\.\n"):
        cifar10.load("train", tmp_path)


def test_synthetic_images_may_only_stand_in_where_nothing_was_asked_for(
    noise_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LENET_DATA", raising=False)
    assert cifar10.chosen_directory(None) is None
    assert cifar10.chosen_directory(noise_directory) == noise_directory
    with pytest.raises(DataError, match="no CIFAR-10 in nowhere"):
        cifar10.chosen_directory(Path("nowhere"))
    monkeypatch.setenv("LENET_DATA", str(tmp_path))
    with pytest.raises(DataError, match="an existing directory without either layout"):
        cifar10.chosen_directory(None)
