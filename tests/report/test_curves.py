from __future__ import annotations

from pathlib import Path

import pytest

from lenet.report import curves

HISTORY = """epoch,train_loss,train_accuracy,test_loss,test_accuracy
1,1.9,0.29,1.6,0.42
2,1.6,0.42,1.5,0.47
"""


def test_both_figures_are_drawn_from_the_history(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text(HISTORY)
    curves.save(tmp_path)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "curves.svg").read_bytes()


def test_lines_hold_the_history_s_values() -> None:
    rows = [{"epoch": 1.0, "train_loss": 2.0, "test_loss": 1.8, "train_accuracy": 0.25, "test_accuracy": 0.5}]
    loss, accuracy = curves.draw(rows).axes
    assert [line.get_label() for line in loss.lines] == ["training images, augmented", "test images"]
    assert [list(line.get_ydata()) for line in loss.lines] == [[2.0], [1.8]]  # type: ignore[arg-type]
    assert [list(line.get_ydata()) for line in accuracy.lines] == [  # type: ignore[arg-type]
        pytest.approx([25.0]),
        pytest.approx([50.0]),
    ]
    assert "loss" in loss.get_title().lower()
    assert "accuracy" in accuracy.get_title().lower()
