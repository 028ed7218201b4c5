from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lenet.report.tables import sheet_5, significant
from lenet.results import Case, Mode, NotRun, Row


def measured(backend: str, mode: Mode, median: float, batch_size: int = 1000) -> Row:
    case = Case(backend, mode, "fp32", batch_size, "a GPU", "CIFAR-10 test images")
    return Row(case, 100, median, median, 0.0)


def render(*rows: Row, not_run: tuple[NotRun, ...] = (), width: int = 80) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(sheet_5(rows, not_run))
    return capture.get()


def test_the_published_table_comes_out_in_the_coursework_s_form() -> None:
    text = render(
        measured("PyTorch", "forward", 0.814e-3),
        measured("PyTorch", "end_to_end", 1.702e-3),
        measured("TriPy", "forward", 0.548e-3),
    )
    lines = [
        [cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")
    ]
    assert lines == [
        ["PyTorch", "0.814", "0.000814", "1.7", "0.0017"],
        ["TriPy", "0.548", "0.000548", "-", "-"],
    ]
    assert "LeNet, batch 1,000, fp32, a GPU" in text
    assert "CIFAR-10 test images; median of 100 rounds" in text


def test_unlike_conditions_stand_in_tables_of_their_own() -> None:
    text = render(measured("a", "forward", 1e-3, 1), measured("a", "forward", 2e-3, 1000))
    assert text.count("LeNet, batch") == 2
    assert text.index("batch 1,000, fp32") < text.index("batch 1, fp32")


def test_what_was_not_run_is_listed_with_its_reason() -> None:
    text = render(not_run=(NotRun("test_inference[tripy]", "nvtripy is not installed"),))
    assert "Not run:\n  test_inference[tripy]: nvtripy is not installed" in text


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_the_terminal(width: int) -> None:
    text = render(measured("pytorch-cudagraph", "forward", 1.23e-6), measured("x", "end_to_end", 12.0), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0012345, "0.00123"), (12.345, "12.3"), (1234.5, "1230"), (0.0, "0"), (1.70249, "1.7")]
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


@given(st.floats(1e-9, 1e9))
def test_rounding_is_within_half_a_unit_of_the_third_digit(value: float) -> None:
    assert "e" not in significant(value)
    assert float(significant(value)) == pytest.approx(value, rel=5.001e-3)
