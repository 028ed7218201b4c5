"""Draws the README's pictures into docs/pictures, and writes the tables of the newest run: ``python -m docs.draw``.

The chart and the tables are of the newest run of several runtimes that the repository ships. The terminal shows
``first-run.txt``, which is the output of the README's first command, as it was printed.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.text import Text

from lenet.report.charts import Painter, draw_bars
from lenet.report.charts.style import DARK, LIGHT, WIDTH, css_variables
from lenet.report.language import ENGLISH, Language, find_language
from lenet.report.rounding import significant, thousands
from lenet.report.tables.names import MARK, limit_name
from lenet.results import Measurement, Row, load
from lenet.terminal import Terminal
from lenet.vocabulary import ONE_BATCH_MODES, HostMemory, InputType, Mode

ROOT: Final = Path(__file__).parents[1]
PICTURES: Final = ROOT / "docs" / "pictures"
COLUMNS: Final = 80
_THEMES: Final = {"light": LIGHT, "dark": DARK}
_ZOOM: Final = 1.6
_RUNTIMES: Final = "nvidia-h200/*_runtimes.json"
_BEGIN, _END = "<!-- `python -m docs.draw` writes these lines -->\n", "<!-- to here -->\n"
_MODES: Final = {
    Mode.FORWARD: {"en": "forward", "ru": "прямой проход"},
    Mode.END_TO_END: {"en": "end to end", "ru": "полный цикл"},
    Mode.THROUGHPUT: {"en": "throughput", "ru": "пропускная способность"},
}
_BATCH: Final = {"en": "batch", "ru": "пакет"}
_FLOOR: Final = {"en": "floor", "ru": "нижняя граница"}
_ABOVE: Final = {
    "en": "Medians in microseconds a batch on an {gpu}{throughput}.\nCommit {commit}, {date}, {versions}:",
    "ru": "Медианы в микросекундах на пакет; {gpu}{throughput};\n{date}, коммит {commit}, {versions}:",
}
_THROUGHPUT: Final = {
    "en": "; throughput in thousands of images a second",
    "ru": "; пропускная способность — в тысячах изображений в секунду",
}


@dataclass(frozen=True, slots=True)
class Table:
    """A page's table of the newest run.

    Attributes:
        page: The page.
        language: Its language.
        columns: Mode, precision and batch size of each.
    """

    page: Path
    language: Language
    columns: Sequence[tuple[Mode, str, int]]


_SHORT: Final = (
    (Mode.FORWARD, "fp32", 1000),
    (Mode.FORWARD, "fp16", 1000),
    (Mode.END_TO_END, "fp32", 1000),
    (Mode.END_TO_END, "fp32", 1),
    (Mode.THROUGHPUT, "fp32", 1000),
)
TABLES: Final = (
    Table(ROOT / "README.md", ENGLISH, _SHORT),
    Table(ROOT / "README.ru.md", find_language("ru"), _SHORT),
    Table(
        ROOT / "docs" / "explanation" / "hardware.md",
        ENGLISH,
        (
            (Mode.FORWARD, "fp32", 1),
            (Mode.FORWARD, "fp32", 1000),
            (Mode.FORWARD, "fp32", 10_000),
            (Mode.FORWARD, "fp16", 1000),
            (Mode.END_TO_END, "fp32", 1000),
            (Mode.END_TO_END, "fp16", 1000),
        ),
    ),
)


def newest_run() -> Measurement:
    """The newest run of several runtimes that the repository ships."""
    return max(map(load, (ROOT / ".benchmarks").glob(_RUNTIMES)), key=lambda one: one.ended)


def is_shown(row: Row) -> bool:
    """Whether the chart has a row: those of the coursework's condition."""
    case = row.case
    return (
        case.mode in ONE_BATCH_MODES
        and (case.batch_size, case.asked, case.input) == (1000, "fp32", InputType.FLOAT32)
        and (case.host_memory in {None, HostMemory.PINNED})
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


def results_table(run: Measurement, table: Table) -> str:
    """What a page says of a run: its conditions, and a table in Markdown with a line for each runtime."""
    language, code = table.language, table.language.code
    found = {
        (row.case.backend, row.case.mode, row.case.asked, row.case.batch_size): row
        for row in run.rows
        if row.case.input == InputType.FLOAT32 and row.case.host_memory in {None, HostMemory.PINNED}
    }
    heads = [
        f"{_MODES[mode][code]}, {asked}, {_BATCH[code]} {language.number(f'{size:,}')}"
        for mode, asked, size in table.columns
    ]
    lines = [["", *heads], ["---", *["---:"] * len(heads)]]
    for name in dict.fromkeys(row.case.backend for row in run.rows):
        lines += [[f"`{name}`", *(_value(found[name, *column], language) for column in table.columns)]]
    rows = [found["fused", *column] for column in table.columns]  # every runtime has the same floor
    lines.append([_FLOOR[code], *(_floor(row, language) for row in rows)])
    above = _ABOVE[code].format(
        gpu=rows[0].case.device,
        throughput=_THROUGHPUT[code] if Mode.THROUGHPUT in {row.case.mode for row in rows} else "",
        versions=", ".join(f"{name} {run.machine['packages'][name]}" for name in ("torch", "jax", "onnxruntime")),
        commit=str(run.commit)[:7],
        date=f"{run.ended:%d.%m.%Y}" if code == "ru" else f"{run.ended:%Y-%m-%d}",
    )
    return f"{above}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def _value(row: Row, language: Language) -> str:
    value = row.images_per_second / 1e3 if row.case.mode is Mode.THROUGHPUT else 1e6 * row.summary.median
    return _number(value, language) + (MARK if row.unstable else "")


def _floor(row: Row, language: Language) -> str:
    assert row.floor is not None
    value = 1e6 * row.floor.seconds
    value = 1e3 * row.case.batch_size / value if row.case.mode is Mode.THROUGHPUT else value
    return f"{_number(value, language)} ({limit_name(row.floor.term, language)})"


def _number(value: float, language: Language) -> str:
    return language.number(thousands(value) if value >= 1000 else significant(value))  # noqa: PLR2004 - as grouped


def with_results(text: str, table: str) -> str:
    """A page's text with another table of results between its two comments."""
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    return before + begin + table + end + after


def main() -> None:
    """Draw all pictures, and write the tables."""
    run = newest_run()
    rows = [row for row in run.rows if is_shown(row)]
    for table in TABLES:
        text = table.page.read_text(encoding="utf-8")
        table.page.write_text(with_results(text, results_table(run, table)), encoding="utf-8")
    for name, colors in _THEMES.items():
        (PICTURES / f"speed-{name}.svg").write_text(draw_speed(rows, colors), encoding="utf-8")
    output = (PICTURES / "first-run.txt").read_text(encoding="utf-8")
    (PICTURES / "first-run.svg").write_text(draw_terminal(output), encoding="utf-8")


if __name__ == "__main__":
    main()
