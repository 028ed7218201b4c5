"""Draws the README's pictures into docs/pictures: ``python -m docs.draw``.

The chart is of the campaign that the repository ships. The terminal shows ``first-run.txt``, which is the output of the
README's first command, as it was printed.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rich.text import Text

from lenet.report.charts import Painter, draw_bars
from lenet.report.charts.style import DARK, LIGHT, WIDTH, css_variables
from lenet.report.language import ENGLISH
from lenet.results import Row, example
from lenet.terminal import Terminal
from lenet.vocabulary import HostMemory, InputType

ROOT: Final = Path(__file__).parents[1]
PICTURES: Final = ROOT / "docs" / "pictures"
COLUMNS: Final = 80
_THEMES: Final = {"light": LIGHT, "dark": DARK}
_ZOOM: Final = 1.6


def is_shown(row: Row) -> bool:
    """Whether the chart has a row: those of the coursework's condition."""
    case = row.case
    return (case.batch_size, case.asked, case.input) == (1000, "fp32", InputType.FLOAT32) and (
        case.host_memory in {None, HostMemory.PINNED}
    )


def draw_speed(rows: list[Row], colors: Mapping[str, str]) -> str:
    """The rows' medians with their intervals, as an SVG document in a theme's colours."""
    title = f"LeNet, batch 1,000, fp32, on {rows[0].case.device}"
    svg = str(draw_bars(Painter(ENGLISH), rows, title).svg)
    height = float(re.findall(r'viewBox="0 0 \S+ (\S+)"', svg)[0])
    rules = f"svg{{{css_variables(colors)} background:var(--paper)}} text{{fill:var(--ink);font:11px sans-serif}}"
    size = f'xmlns="http://www.w3.org/2000/svg" width="{WIDTH * _ZOOM:.0f}" height="{height * _ZOOM:.0f}"'
    return svg.replace("<svg ", f"<svg {size} ", 1).replace(">", f"><style>{rules}</style>", 1) + "\n"


def draw_terminal(output: str) -> str:
    """A terminal with an output, as an SVG document that loads no font."""
    console = Terminal(width=COLUMNS, record=True, file=io.StringIO(), highlight=False)
    console.print(Text(output.rstrip("\n")), crop=False)
    svg = console.export_svg(title="nox -s bench", unique_id="first-run")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def main() -> None:
    """Draw all pictures."""
    rows = [row for row in example(ROOT / ".benchmarks").rows if is_shown(row)]
    for name, colors in _THEMES.items():
        (PICTURES / f"speed-{name}.svg").write_text(draw_speed(rows, colors), encoding="utf-8")
    output = (PICTURES / "first-run.txt").read_text(encoding="utf-8")
    (PICTURES / "first-run.svg").write_text(draw_terminal(output), encoding="utf-8")


if __name__ == "__main__":
    main()
