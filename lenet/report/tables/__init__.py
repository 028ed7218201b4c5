"""Tables in the coursework's form, for the terminal, for Markdown and for the page, in a language."""

from __future__ import annotations

from lenet.report.tables.backends import backends_table, doctor_table, parity_sheet, parity_table
from lenet.report.tables.brief import brief, fastest, tight
from lenet.report.tables.names import MARK, limit_name, memory_name, mode_name, row_name, row_names
from lenet.report.tables.not_run import first_names, group_reasons
from lenet.report.tables.results import details, results_markdown, sheet_5
from lenet.report.tables.rows import limits_line, remarks, rows_sheets
from lenet.report.tables.sheet import NOTHING, Sheet, print_whole, to_markdown, to_rich, without_empty_columns
from lenet.report.tables.speed import (
    conditions_title,
    distance,
    published_sheet,
    speed_groups,
    speed_sheets,
    telling_case,
)
from lenet.report.tables.throughput import throughput_sheet

__all__ = [
    "MARK",
    "NOTHING",
    "Sheet",
    "backends_table",
    "brief",
    "conditions_title",
    "details",
    "distance",
    "doctor_table",
    "fastest",
    "first_names",
    "group_reasons",
    "limit_name",
    "limits_line",
    "memory_name",
    "mode_name",
    "parity_sheet",
    "parity_table",
    "print_whole",
    "published_sheet",
    "remarks",
    "results_markdown",
    "row_name",
    "row_names",
    "rows_sheets",
    "sheet_5",
    "speed_groups",
    "speed_sheets",
    "telling_case",
    "throughput_sheet",
    "tight",
    "to_markdown",
    "to_rich",
    "without_empty_columns",
]
