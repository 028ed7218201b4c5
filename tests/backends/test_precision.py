"""A precision's label against what the environment makes the libraries run."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner

from lenet import backends
from lenet.backends.precision import check_override
from lenet.cli import main
from lenet.data.synthetic import synthetic
from lenet.errors import BackendError
from lenet.vocabulary import Precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
NVIDIA, ONEDNN, DNNL = "NVIDIA_TF32_OVERRIDE", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (NVIDIA, ONEDNN, DNNL):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("name", "value", "device", "lost"),
    [
        (NVIDIA, "0", CUDA, {Precision.TF32}),
        (NVIDIA, "1", CUDA, {Precision.FP32}),
        (NVIDIA, "1", CPU, set()),
        (ONEDNN, "BF16", CPU, {Precision.FP32}),
        (ONEDNN, "any", CPU, {Precision.FP32}),
        (ONEDNN, "strict", CPU, set()),
        (DNNL, "TF32", CPU, {Precision.FP32}),
        (DNNL, "BF16", CUDA, set()),
        ("NOTHING", "1", CUDA, set()),
    ],
)
def test_a_precision_that_a_variable_replaces_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, device: torch.device, lost: set[Precision]
) -> None:
    monkeypatch.setenv(name, value)
    refused = set()
    for precision in Precision:
        try:
            check_override(precision, device)
        except BackendError as error:
            assert f"unset {name}" in error.summary  # noqa: PT017 - which precisions raise is what is asked
            refused.add(precision)
    assert refused == lost


@pytest.mark.parametrize("name", ["pytorch", "pytorch-compile", "onnxruntime"])
def test_the_backends_on_a_cpu_ask_for_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert backends.load(name).executed_precision(Precision.FP32, CPU) == "fp32"
    monkeypatch.setenv(ONEDNN, "BF16")
    with pytest.raises(BackendError, match=ONEDNN):
        backends.load(name).executed_precision(Precision.FP32, CPU)


@pytest.mark.parametrize(
    "name", ["pytorch", "pytorch-cudagraph", "onnxruntime", "onnxruntime-cudagraph", "tensorrt", "tensorrt-rtx"]
)
def test_the_backends_on_a_gpu_ask_for_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: (9, 0))
    assert backends.load(name).executed_precision(Precision.TF32, CUDA) == "tf32"
    monkeypatch.setenv(NVIDIA, "0")
    with pytest.raises(BackendError, match=NVIDIA):
        backends.load(name).executed_precision(Precision.TF32, CUDA)


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_training_and_evaluation_ask_for_it(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv(ONEDNN, "BF16")
    monkeypatch.setattr(f"lenet.cli.{command}.load_split", lambda *_, **__: synthetic(4))
    refused = CliRunner().invoke(main, [command, "--device=cpu"])
    assert refused.exit_code == 2
    assert f"next:   unset {ONEDNN}" in refused.stderr
