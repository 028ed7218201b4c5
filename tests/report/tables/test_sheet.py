from __future__ import annotations

from dataclasses import replace

import pytest

from lenet.measurement.floor import Floor
from lenet.report.tables import (
    Sheet,
    parity_sheet,
    published_sheet,
    rows_sheets,
    speed_sheets,
    to_markdown,
    to_rich,
)
from lenet.vocabulary import Mode
from tests.report.tables.examples import measured, render


@pytest.mark.parametrize("width", [80, 120])
def test_every_sheet_fits_the_terminal_and_nothing_is_cut_off(width: int) -> None:
    rows = [measured("pytorch-cudagraph", Mode.FORWARD, 1.23e-6), measured("x", Mode.END_TO_END, 12.0, memory="pinned")]
    floor = Floor(1e-7, "arithmetic")
    rows = [replace(row, floor=floor, peak_memory_bytes=10 << 30, max_abs_delta=1.2e-5) for row in rows]
    for sheet in [*speed_sheets(rows), published_sheet(), *rows_sheets(rows)]:
        text = render(to_rich(sheet), width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        for cell in (cell for line in sheet.lines for cell in line[1:]):
            assert cell in text


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_narrow_terminal_loses_no_column(width: int) -> None:
    """Rich's own table gives up the names, then the last digits."""
    line = {"backend": "pytorch-cudagraph", "precision": "fp16", "loss": 0.79971234, "accuracy": 0.7223, "images": 10}
    line |= {"delta_loss": 5.1e-9, "delta_accuracy": 1e-4, "max_abs_delta": 9.5e-6, "share_of_tolerance": 0.095}
    text = render(to_rich(sheet := parity_sheet([line | {"right": True, "diverging_layer": None}])), width)
    assert all(part in text for part in ("pytorch-", "cudagraph", *sheet.lines[0][1:]))
    assert max(map(len, text.splitlines())) <= max(width, 80)


def test_markdown_is_a_table_whose_cells_cannot_break_it() -> None:
    text = to_markdown(Sheet("Title", ("a\nb", "c"), (("x|y", "1"),), "caption"))
    assert text == "### Title\n\n| a b | c |\n| --- | ---: |\n| x\\|y | 1 |\n\ncaption\n"
