from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from lenet.quantization import FORMATS

NUMBERS = st.lists(st.floats(-600, 600, width=32), min_size=1, max_size=40)


@given(NUMBERS)
def test_e4m3_is_pytorchs(numbers: list[float]) -> None:
    """Subnormals and ties too. PyTorch makes a NaN of what is too large, where a runtime saturates."""
    x = torch.tensor([*numbers, 448.0, 2.0**-10, 3 * 2.0**-10, 17.0, 19.0, -0.0], dtype=torch.float64)
    wanted = x.clamp(-448, 448).float().to(torch.float8_e4m3fn).double()
    assert torch.equal(FORMATS["fp8"].round(x), wanted)


@given(NUMBERS)
def test_int8_rounds_half_to_even_and_saturates(numbers: list[float]) -> None:
    x = torch.tensor([*numbers, 0.5, 1.5, -0.5, 127.5, -129.0], dtype=torch.float64)
    assert torch.equal(FORMATS["int8"].round(x), torch.from_numpy(np.clip(np.rint(x.numpy()), -128, 127)))
