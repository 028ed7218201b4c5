from __future__ import annotations

import pytest

from lenet.measurement.modes import Mode
from lenet.published import BATCH_SIZE, FIGURES, ratio_to_pytorch


def test_the_sheet_s_own_analysis_comes_out() -> None:
    """Forward: TensorRT -19.9 %, TriPy -32.7 %; end to end: TensorRT -4.8 %, TriPy -13.3 %, all against PyTorch."""
    changes = {(f.backend, f.mode): f"{ratio_to_pytorch(f) - 1:+.1%}" for f in FIGURES}
    assert changes == {
        ("pytorch", Mode.FORWARD): "+0.0%",
        ("pytorch", Mode.END_TO_END): "+0.0%",
        ("tensorrt", Mode.FORWARD): "-19.9%",
        ("tensorrt", Mode.END_TO_END): "-4.8%",
        ("tripy", Mode.FORWARD): "-32.7%",
        ("tripy", Mode.END_TO_END): "-13.3%",
    }


def test_the_batch_follows_from_the_two_columns() -> None:
    for figure in FIGURES:
        assert figure.milliseconds_per_batch / BATCH_SIZE == pytest.approx(figure.milliseconds_per_image, abs=5.1e-5)
