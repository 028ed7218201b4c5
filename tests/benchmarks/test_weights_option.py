"""``--weights``: which weights a run measures, and what it says of them."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from lenet import results, weights
from tests.benchmarks.test_suite import benchmarks, refused

pytestmark = pytest.mark.programs


def test_a_run_measures_the_named_weights_and_records_their_digest(tmp_path: Path) -> None:
    arrays = {name: array * np.float32(0.5) for name, array in weights.load().arrays.items()}
    path, saved = tmp_path / "half.safetensors", tmp_path / "saved.json"
    weights.save(path, arrays, {"metrics": {"test_accuracy": 0.25}})
    done = benchmarks("--mode=forward", f"--weights={path}", f"--benchmark-json={saved}", storage=tmp_path)
    assert done.returncode == 0, done.stdout
    digest = weights.digest(arrays)
    assert digest != weights.digest(weights.load().arrays)
    assert f"weights {digest[:12]}" in done.stdout
    found = results.load(saved)
    assert [row.case.weights for row in found.rows] == [digest]
    assert found.accuracy == 0.25
    about = json.loads(saved.read_text())["lenet"]["weights"]
    assert about == {"file": "half.safetensors", "digest": digest, "accuracy": 0.25}
    assert digest in results.to_csv([found])
    folder = tmp_path / found.kind
    folder.mkdir()
    shutil.copy(saved, folder / "0001_half.json")
    done = benchmarks("--mode=forward", "--benchmark-compare=0001", "--no-save", storage=tmp_path)
    shipped = weights.digest(weights.load().arrays)
    assert f"pytorch-forward-2-fp32-pinned-float32: weights {shipped[:12]}, not {digest[:12]}" in done.stdout
    assert done.returncode == 1, "nothing in the baseline measured the same"


def test_only_a_whole_safetensors_file_of_a_lenet_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(pickle.dumps({"conv1.weight": 1}))
    done = refused(f"--weights={path}")
    assert f"cannot read {path}" in done.stderr
    assert "wanted: a whole safetensors file" in done.stderr
    assert "cannot read" in refused(f"--weights={tmp_path / 'none'}").stderr
