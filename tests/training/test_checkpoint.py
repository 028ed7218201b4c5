"""What a training resumes from, and what it refuses to."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lenet import weights
from lenet.data.synthetic import synthetic
from lenet.errors import CheckpointError
from lenet.training import loop
from lenet.training.checkpoint import CHECKPOINT
from lenet.training.run import EpochRecord
from tests import preloaded
from tests.training.test_training import CPU, SMALL, TEST, TRAIN, _StopError, train


@pytest.mark.parametrize("epochs_before", [1, 2, 3])
def test_resuming_gives_the_same_weights_to_the_bit(tmp_path: Path, epochs_before: int) -> None:
    def stop(record: EpochRecord) -> None:
        if record.epoch == epochs_before:
            raise _StopError

    train(tmp_path / "whole")
    with pytest.raises(_StopError):
        train(tmp_path / "resumed", on_epoch=stop)
    run = train(tmp_path / "resumed", resume=True)
    assert [record.epoch for record in run.history] == [1, 2, 3, 4]
    _assert_same_weights(tmp_path / "whole", tmp_path / "resumed")


@pytest.mark.programs
def test_kill_9_then_resume_gives_the_same_weights_to_the_bit(tmp_path: Path, noise_directory: Path) -> None:
    command = ["-m", "lenet", "train", "--data", str(noise_directory), "--device", "cpu"]
    command += ["--accept-unknown-data"]
    command += ["--epochs", "5", "--train-images", "2000", "--test-images", "100", "--threads", "1"]
    run_here = partial(preloaded.run, *command, cwd=tmp_path, env=os.environ)
    assert run_here("--out", str(tmp_path / "whole")).returncode == 0
    killed = tmp_path / "killed"
    with preloaded.start(*command, "--out", str(killed), cwd=tmp_path, env=os.environ) as running:
        while not (killed / "history.csv").exists():
            time.sleep(0.01)
            assert running.is_running()
        os.kill(running.pid, signal.SIGKILL)
        assert running.finish().returncode == -signal.SIGKILL
    assert not (killed / "weights.safetensors").exists()
    assert run_here("--out", str(killed), "--resume").returncode == 0
    _assert_same_weights(tmp_path / "whole", killed)


def _assert_same_weights(one: Path, other: Path) -> None:
    arrays, others = (weights.load(path / "weights.safetensors").arrays for path in (one, other))
    for name, array in arrays.items():
        assert np.array_equal(array, others[name]), name


def test_resume_without_a_checkpoint_begins(tmp_path: Path) -> None:
    assert train(tmp_path, resume=True).complete


def test_resume_of_a_finished_run_changes_no_weight(tmp_path: Path) -> None:
    train(tmp_path)
    before = (tmp_path / "weights.safetensors").read_bytes()
    train(tmp_path, resume=True)
    after = weights.load(tmp_path / "weights.safetensors")
    (tmp_path / "before").write_bytes(before)
    assert all(np.array_equal(after.arrays[n], a) for n, a in weights.load(tmp_path / "before").arrays.items())


@pytest.mark.parametrize("epochs", [1, 4])
def test_a_run_that_ended_between_its_last_checkpoint_and_its_history_gets_it(tmp_path: Path, epochs: int) -> None:
    recipe = dataclasses.replace(SMALL, epochs=epochs)
    train(tmp_path, recipe)
    history = tmp_path / "history.csv"
    whole = history.read_text()
    lines = whole.splitlines(keepends=True)[:-1]
    history.write_text("".join(lines)) if epochs > 1 else history.unlink()
    train(tmp_path, recipe, resume=True)
    assert history.read_text() == whole


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    other = dataclasses.replace(SMALL, momentum=0.8, seed=3)
    with pytest.raises(
        CheckpointError, match=r"(?s)another recipe\n  found:  momentum 0.9, seed 0\n.*momentum 0.8, seed 3"
    ):
        train(tmp_path, other, resume=True)


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(CheckpointError, match="other training images"):
        loop.train(SMALL, synthetic(200, 9), TEST, out=tmp_path, device=CPU, resume=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c[: len(c) // 2],
        lambda _: b"",
        lambda c: c.replace(b"schema", b"scheme"),
        lambda c: c[:-1] + bytes([c[-1] ^ 1]),
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: object) -> None:
    train(tmp_path)
    checkpoint = tmp_path / CHECKPOINT
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=r"(?s)cannot be used.*delete it to begin again") as caught:
        train(tmp_path, resume=True)
    assert "shipped weights" not in str(caught.value), "they are no checkpoint"


@pytest.mark.parametrize("change", [{"recipe": [1]}, {"recipe": None}, {"started": ...}, {"data_sha256": ...}])
def test_a_checkpoint_with_other_entries_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    """Ellipsis stands for none."""
    train(tmp_path, dataclasses.replace(SMALL, epochs=1))
    arrays, texts = weights.read_safetensors(tmp_path / CHECKPOINT)
    entries = {key: value for key, value in (json.loads(texts["checkpoint"]) | change).items() if value is not ...}
    (tmp_path / CHECKPOINT).write_bytes(weights.to_safetensors(arrays, {"checkpoint": json.dumps(entries)}))
    with pytest.raises(CheckpointError, match=r"(?s)cannot be used.*delete it to begin again"):
        train(tmp_path, dataclasses.replace(SMALL, epochs=1), resume=True)


def test_a_checkpoint_of_other_test_images_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(CheckpointError, match="other test images"):
        loop.train(SMALL, TRAIN, synthetic(50, 9), out=tmp_path, device=CPU, resume=True)


def change_checkpoint(path: Path, change: dict[str, object]) -> None:
    arrays, texts = weights.read_safetensors(path)
    entries = json.loads(texts["checkpoint"]) | change
    path.write_bytes(weights.to_safetensors(arrays, {"checkpoint": json.dumps(entries)}))


def test_a_checkpoint_that_does_not_name_its_test_images_is_refused_with_a_way_out(tmp_path: Path) -> None:
    train(tmp_path, dataclasses.replace(SMALL, epochs=1))
    change_checkpoint(tmp_path / CHECKPOINT, {"schema": 1, "data_sha256": TRAIN.sha256()})
    wanted = r"(?s)another version of `lenet train`.*does not say which test images.*with the version that began it"
    with pytest.raises(CheckpointError, match=wanted):
        train(tmp_path, dataclasses.replace(SMALL, epochs=1), resume=True)


@pytest.mark.parametrize("value", ["1.5", None, True, [], math.nan, math.inf, {}])
@pytest.mark.parametrize("name", [one.name for one in dataclasses.fields(EpochRecord)])
def test_a_history_with_something_else_than_a_number_is_refused(
    checkpoint_of_one_epoch: bytes, tmp_path: Path, name: str, value: object
) -> None:
    path = tmp_path / CHECKPOINT
    path.write_bytes(checkpoint_of_one_epoch)
    record = json.loads(weights.read_safetensors(path)[1]["checkpoint"])["history"][0]
    change_checkpoint(path, {"history": [record | {name: value}]})
    with pytest.raises(CheckpointError, match=r"(?s)cannot be used.*delete it to begin again"):
        train(tmp_path, dataclasses.replace(SMALL, epochs=1), resume=True)


@pytest.mark.parametrize("change", [{"history": [1]}, {"history": 5}, {"history": ["ab"]}, {"sessions": []}])
def test_a_history_that_is_none_is_refused(
    checkpoint_of_one_epoch: bytes, tmp_path: Path, change: dict[str, object]
) -> None:
    path = tmp_path / CHECKPOINT
    path.write_bytes(checkpoint_of_one_epoch)
    change_checkpoint(path, change)
    with pytest.raises(CheckpointError, match=r"(?s)cannot be used.*delete it to begin again"):
        train(tmp_path, dataclasses.replace(SMALL, epochs=1), resume=True)


@pytest.mark.parametrize("epochs", [(2,), (1, 1), (1, 3)])
def test_a_history_of_other_epochs_is_refused(
    checkpoint_of_one_epoch: bytes, tmp_path: Path, epochs: tuple[int, ...]
) -> None:
    path = tmp_path / CHECKPOINT
    path.write_bytes(checkpoint_of_one_epoch)
    record = json.loads(weights.read_safetensors(path)[1]["checkpoint"])["history"][0]
    change_checkpoint(path, {"history": [record | {"epoch": epoch} for epoch in epochs]})
    with pytest.raises(CheckpointError, match="the history's epochs are not 1 to at most 1"):
        train(tmp_path, dataclasses.replace(SMALL, epochs=1), resume=True)


@pytest.fixture(scope="module")
def checkpoint_of_one_epoch(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("one epoch")
    train(out, dataclasses.replace(SMALL, epochs=1))
    return (out / CHECKPOINT).read_bytes()
