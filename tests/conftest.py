from __future__ import annotations

import numpy as np
import pytest
import torch

from lenet.export import to_onnx
from lenet.models.pytorch_lenet import LeNet


@pytest.fixture(scope="session")
def arrays() -> dict[str, np.ndarray]:
    """Random weights, the same in every run: untrained, which no test here minds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {name: tensor.numpy().copy() for name, tensor in LeNet().state_dict().items()}


@pytest.fixture(scope="session")
def onnx_models(arrays: dict[str, np.ndarray]) -> dict[torch.dtype, bytes]:
    """The weights as ONNX models, by the dtype inside; exported once, for the exporter takes seconds."""
    pytest.importorskip("onnxscript", reason='pip install "lenet-bench[onnx]"')
    return {dtype: to_onnx(arrays, dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)}
