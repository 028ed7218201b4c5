"""``--threads``: a row for each number of CPU threads, which each runtime uses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from lenet import results
from lenet.backends.base import BatchRange, BuildSpec
from lenet.gate.workers import case_pattern
from lenet.measurement.environment import usable_cpus
from lenet.report.tables import row_name
from lenet.suite.builds import Builds
from lenet.vocabulary import Precision
from lenet.weights import Arrays
from tests.benchmarks.test_suite import benchmarks, refused

TWO = pytest.mark.skipif((usable_cpus() or 1) < 2, reason="a second thread needs a second CPU")


@pytest.mark.programs
@TWO
def test_each_number_of_threads_has_its_row_name_limits_and_gate_pattern(tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    done = benchmarks(
        "--mode=forward", "--threads=2", "--threads=1", "--energy", f"--benchmark-json={saved}", storage=tmp_path
    )
    assert done.returncode == 0, done.stdout
    found = results.load(saved)
    assert [(row.case.threads, row.case.device) for row in found.rows] == [(2, "CPU, 2 threads"), (1, "CPU, 1 thread")]
    assert found.machine["torch"]["threads"] == 1  # the environment's: the fingerprint is that of a run without
    names = re.findall(r"^\[./2\] (.*?):", done.stdout, re.MULTILINE)
    assert names == [row_name(row.case) for row in found.rows]
    assert names == ["pytorch forward fp32 2 2 threads", "pytorch forward fp32 2 1 thread"]
    assert found.measured == {f"pytorch-forward-2-fp32-pinned-float32-{count}threads" for count in (1, 2)}
    for row in found.rows:
        (met,) = (name for name in found.measured if re.match(case_pattern(row.case), name))
        assert met.endswith(f"{row.case.threads}threads")
    assert "LeNet, batch 2, fp32, CPU, 1 thread" in done.stdout
    for row in found.rows:  # few machines let everyone read their energy
        assert (row.energy is None) == (row.energy_missing is not None)
        assert row.energy_missing is None or f"Energy was not measured: {row.energy_missing}." in done.stdout


@pytest.mark.programs
def test_more_threads_than_cpus_are_refused() -> None:
    most = usable_cpus() or 1
    assert f"{most + 1} threads do not fit the {most} CPUs of this process" in refused(f"--threads={most + 1}").stderr


def test_a_runner_is_built_again_for_another_number_of_threads(arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    from lenet.backends.pytorch_eager import PyTorchEager

    spec = BuildSpec(torch.device("cpu"), Precision.FP32, BatchRange.exactly(1))
    builds = Builds(arrays)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    first = builds(PyTorchEager(), spec)
    assert builds(PyTorchEager(), spec) is first
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert builds(PyTorchEager(), spec) is not first
    builds.close()


def test_onnx_runtime_and_openvino_take_pytorch_s_number(
    onnx_models: dict[torch.dtype, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = pytest.importorskip("lenet.backends.onnxruntime")
    openvino = pytest.importorskip("lenet.backends.openvino")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    model = onnx_models[torch.float32]
    spec = BuildSpec(torch.device("cpu"), Precision.FP32, BatchRange.exactly(1))
    for count in (3, 1):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        session = onnxruntime.open_session(model, spec, None)
        assert session.get_session_options().intra_op_num_threads == count
    assert openvino.compile_model(model).get_property("INFERENCE_NUM_THREADS") == 1
