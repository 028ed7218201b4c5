"""Engines that Torch-TensorRT's own code builds by the real TensorRT for RTX, without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lenet import backends
from lenet.architecture import INPUT_SHAPE
from lenet.documents import parse
from tests.fakes.torch_tensorrt_signatures import RECORDED, signatures_in

FRONT_END = Path(sys.prefix) / "front-ends"
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not (FRONT_END / "torch_tensorrt").is_dir(),
    reason=f"torch-tensorrt-rtx is not in {FRONT_END}: nox puts it there, where no GPU is",
)


@pytest.fixture(scope="module")
def engines() -> dict[str, Any]:
    """What `tests.fakes.torch_tensorrt_engines` prints: engines of the real libraries, for compute capability 8.9."""
    pytest.importorskip("tensorrt_rtx", reason=backends.entry("tensorrt-rtx").install)
    version = RECORDED["version"].rpartition(".")[0]
    if not torch.__version__.startswith(f"{version}."):
        pytest.skip(f"torch-tensorrt-rtx {RECORDED['version']} is for torch {version}, not {torch.__version__}")
    done = subprocess.run(
        [sys.executable, "-m", "tests.fakes.torch_tensorrt_engines"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(FRONT_END)])},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        found |= parse(line)
    return found


@pytest.mark.programs
class TestEngines:
    @pytest.mark.parametrize(
        ("name", "kind", "images"),
        [
            ("fp32", "FLOAT", ["images", "FLOAT", [8, *INPUT_SHAPE]]),
            ("tf32 range", "FLOAT", ["images", "FLOAT", [-1, *INPUT_SHAPE]]),
            ("fp16 bytes", "HALF", ["images", "UINT8", [8, *INPUT_SHAPE]]),
            ("bf16", "BF16", ["images", "FLOAT", [1, *INPUT_SHAPE]]),
        ],
    )
    def test_every_layer_runs_in_the_precision_s_type(
        self, engines: dict[str, Any], name: str, kind: str, images: list[Any]
    ) -> None:
        built = engines[name]
        computing = [layer for layer in built["layers"] if layer[0] in {"CONVOLUTION", "MATRIX_MULTIPLY"}]
        assert computing == 2 * [["CONVOLUTION", kind]] + 3 * [["MATRIX_MULTIPLY", kind]]
        assert built["tf32"] == name.startswith("tf32")
        assert built["bindings"] == [images, ["logits", "FLOAT", [images[2][0], 10]]]
        assert built["level"] == 3
        assert built["right"], "what Torch-TensorRT's lowering makes of the program is LeNet"
        assert built["plan"][0] > 100_000, "bytes of an engine, with its weights"

    def test_the_same_network_gives_the_same_engine(self, engines: dict[str, Any]) -> None:
        assert engines["fp32"]["plan"] == engines["fp32 again"]["plan"]
        assert engines["fp32"]["plan"] != engines["bf16"]["plan"]

    def test_an_operator_that_tensorrt_has_not_is_named(self, engines: dict[str, Any]) -> None:
        assert "aten::linalg_inv_ex not currently supported" in engines["refused"]

    def test_the_runtime_takes_the_engine_as_far_as_the_driver(self, engines: dict[str, Any]) -> None:
        assert "CUDA" in engines["runtime"]

    def test_the_signatures_are_those_of_the_real_library(self) -> None:
        assert signatures_in(FRONT_END) == RECORDED
