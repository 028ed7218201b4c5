from __future__ import annotations

import pytest

from lenet.results.published import BATCH_SIZE, FIGURES, RECIPE, ratio_to_pytorch
from lenet.vocabulary import Mode


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


def test_the_default_recipe_is_the_coursework_s() -> None:
    """As sheet 3 has it."""
    assert RECIPE == {
        "epochs": 60,
        "batch_size": 200,
        "learning_rate": 0.05,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "milestones": (30, 45),
        "decay": 0.1,
        "padding": 4,
    }
