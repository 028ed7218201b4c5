"""Collects the page's content and fills the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import groupby
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from lenet import __version__
from lenet.architecture import FLOPS_PER_IMAGE, PARAMETER_COUNT
from lenet.report import words
from lenet.report.charts import Chart, Painter, draw_architecture
from lenet.report.charts.style import DARK, LIGHT, VERDICTS, css_variables
from lenet.report.language import Language
from lenet.report.page import sheets, shortened
from lenet.report.page.answer import Tile, main_tiles
from lenet.report.page.facts import machine_names
from lenet.report.page.gates import GatesPart, gates_part
from lenet.report.page.machine import MachinePart, machine_part
from lenet.report.page.training import Training, training_part
from lenet.report.rounding import count
from lenet.report.sources import Machine, Sources
from lenet.report.tables import Sheet, group_reasons, parity_sheet, published_sheet
from lenet.results import Row
from lenet.terminal import visible

__all__ = ["render"]

_TRIPY: Final = "tripy"


@dataclass(slots=True)
class _Page:
    """The values of the template."""

    language: Language
    architecture: Chart
    layers: Sheet
    parameters: Sheet
    recipe: Sheet
    qualities: Sheet
    published: Sheet
    published_changes: Sequence[str]
    sources: Sources
    version: str = __version__
    machines: Sequence[MachinePart] = ()
    training: Training | None = None
    tripy: Sequence[tuple[str, str]] = ()
    parity: Sheet | None = None
    parity_not_run: Mapping[str, Sequence[str]] = field(default_factory=dict)
    gates: GatesPart | None = None
    tiles: Sequence[Tile] = ()
    sheets_alone: bool = False
    shortened: Sequence[str] = ()


def render(sources: Sources, language: Language, *, sheets_alone: bool = False) -> str:
    """Render the page.

    Args:
        sources: What to show.
        language: The language.
        sheets_alone: Whether to show the five sheets, unfolded, and nothing else.

    Returns:
        HTML. The same sources give the same bytes.
    """
    machines = [(machine, machine.rows) for machine in sources.machines]
    painter = Painter(language)
    page = _Page(
        language=language,
        architecture=draw_architecture(painter, language.text("LeNet for CIFAR-10")),
        layers=sheets.layers_sheet(language),
        parameters=sheets.parameters_sheet(language),
        recipe=sheets.published_recipe_sheet(language),
        qualities=sheets.qualities_sheet(language),
        published=published_sheet(language),
        published_changes=words.published_changes(language),
        sources=sources,
        sheets_alone=sheets_alone,
        shortened=shortened.shortened(sources, language) if sheets_alone else (),
    )
    if sources.run is not None:
        page.training = training_part(sources.run, painter, language)
    if sources.parity is not None:
        lines = sources.parity["backends"]
        page.parity = _parity(sources.parity, language) if lines else None
        page.parity_not_run = group_reasons(sources.parity["not_run"])
    if sources.gates:
        fingerprint = sources.machines[0].measurements[-1].fingerprint if sources.machines else None
        page.gates = gates_part(sources.gates, fingerprint, painter, language)
    names = machine_names([machine.measurements[-1] for machine in sources.machines])
    page.machines = [
        machine_part(machine, rows, name, f"machine-{number}", painter, language)
        for number, ((machine, rows), name) in enumerate(zip(machines, names, strict=True), 1)
    ]
    whys = [_why_without_tripy(machine, rows) for machine, rows in machines]
    page.tripy = [(name, why) for name, why in zip(names, whys, strict=True) if why is not None]
    first: tuple[Machine | None, Sequence[Row]] = machines[0] if machines else (None, ())
    page.tiles = list(main_tiles(sources, *first, language))
    filled = _environment(language).get_template("report.html").render(
        page=page, language=language, parameters=language.number(count(PARAMETER_COUNT)),
        flops=language.number(count(FLOPS_PER_IMAGE)), light=css_variables(LIGHT), dark=css_variables(DARK),
        signs={verdict: sign for verdict, (sign, _, _) in VERDICTS.items()},
    )  # fmt: skip
    return visible(filled)


def _parity(parity: Mapping[str, Any], language: Language) -> Sheet:
    """The quality table, with the digest of the weights if the file has it."""
    sheet = parity_sheet(parity["backends"], language, parity["data"])
    digest = parity["weights"][:12]
    note = language.text("weights %(digest)s", digest=digest) if digest else ""
    return replace(sheet, caption="; ".join(filter(None, (sheet.caption, note))))


def _why_without_tripy(machine: Machine, rows: Sequence[Row]) -> str | None:
    """Why TriPy was not measured on a machine, empty if it was not asked for; None if it was."""
    if any(row.case.backend == _TRIPY for row in rows):
        return None
    reasons = (why for name, why in machine.not_run.items() if name.startswith(_TRIPY))
    return next(reasons, "")


@cache  # it keeps the templates that it compiled, which takes longer than to fill them
def _environment(language: Language) -> Environment:
    environment = Environment(
        loader=PackageLoader("lenet.report"),
        autoescape=True,
        undefined=StrictUndefined,
        extensions=["jinja2.ext.i18n"],
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.install_gettext_translations(language.translations, newstyle=True)  # type: ignore[attr-defined]
    environment.filters["headings"] = _headings
    return environment


def _headings(columns: Sequence[str]) -> tuple[list[tuple[str, int, int]], list[str]]:
    """The two lines of a table's head: text, width and height of each upper cell, and the lower cells.

    Neighbours with the same first line share an upper cell. The lines of a lone cell are joined.
    """
    above, below = [], []
    for first, group in groupby(columns, key=lambda heading: heading.partition("\n")[0]):
        cells = list(group)
        if "\n" in cells[0] and len(cells) > 1:
            above.append((first, len(cells), 1))
            below += [cell.partition("\n")[2] for cell in cells]
        else:
            above += [(cell.replace("\n", " "), 1, 2) for cell in cells]
    return above, below
