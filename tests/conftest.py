from __future__ import annotations

import numpy as np
import pytest
import torch

from lenet.models.pytorch_lenet import LeNet


@pytest.fixture(scope="session")
def arrays() -> dict[str, np.ndarray]:
    """Random weights, the same in every run: untrained, which no test here minds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {name: tensor.numpy().copy() for name, tensor in LeNet().state_dict().items()}
