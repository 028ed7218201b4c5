"""The page's part about the gate: the last verdict, those before it, and each row's history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lenet.report.charts import Change, Chart, Painter, draw_changes
from lenet.report.language import Language
from lenet.report.page.facts import Fact, machine_name
from lenet.report.page.grouping import grouped
from lenet.report.rounding import count, percent, significant
from lenet.report.tables import NOTHING, Sheet, group_reasons
from lenet.results import Gate, GateRow

__all__ = ["GatesPart", "History", "SlowRow", "gate_sheet", "gates_part"]

_SLOW = ("FAIL", "ACCEPTED")
"""The verdicts of rows that became slower, in the order in which the page lists them."""


@dataclass(frozen=True, slots=True)
class SlowRow:
    """A row that became slower.

    Attributes:
        row: The row.
        change: Its change with its bounds.
        told: Why it is slower, or why it has its verdict. Empty if the acceptance says that.
        accepted: The acceptance in words. Empty if there is none.
        differences: What differs between base and head. None if nothing was found.
    """

    row: GateRow
    change: str
    told: str
    accepted: str
    differences: Sheet | None


@dataclass(frozen=True, slots=True)
class History:
    """A row over the last gates of a machine.

    Attributes:
        chart: Its changes. None if no gate could tell one.
        sheet: The same as a table.
    """

    chart: Chart | None
    sheet: Sheet


@dataclass(frozen=True, slots=True)
class GatesPart:
    """The page's content about the gate.

    Attributes:
        last: The last gate.
        facts: When, of which commits and where it ran.
        elsewhere: Whether it ran on another machine than the page's.
        slow: Its slow rows.
        counted: How many of its rows have each verdict, in words.
        sheet: All its rows.
        not_run: Its cases that were not measured, by the reason.
        earlier: The gates before it. None if there are none.
        histories: The rows that two or more gates of a machine have.
    """

    last: Gate
    facts: Sequence[Fact]
    elsewhere: bool
    slow: Sequence[SlowRow]
    counted: str
    sheet: Sheet
    not_run: Mapping[str, Sequence[str]]
    earlier: Sheet | None
    histories: Sequence[History]


def gates_part(gates: Sequence[Gate], fingerprint: str | None, painter: Painter, language: Language) -> GatesPart:
    """Make the content about the gate.

    Args:
        gates: The gates, the newest first; at least one.
        fingerprint: Of the page's machine. None if the page has no measurement: then the last gate's counts.
        painter: The page's painter.
        language: The page's language.
    """
    last, *earlier = gates
    here = last.fingerprint if fingerprint is None else fingerprint
    slow = sorted((row for row in last.rows if row.verdict in _SLOW), key=lambda row: _SLOW.index(row.verdict))
    return GatesPart(
        last=last,
        facts=[
            (language.text("started, UTC"), _moment(last)),
            (language.text("base and head"), _commits(last)),
            (language.text("machine"), machine_name(last.machine)),
            (language.text("fingerprint"), last.fingerprint),
        ],
        elsewhere=last.fingerprint != here,
        slow=[_slow_row(row, language) for row in slow],
        counted=_counted(last, language),
        sheet=gate_sheet(last, language),
        not_run=group_reasons(last.not_run),
        earlier=_earlier_sheet(earlier, here, language) if earlier else None,
        histories=[
            found
            for of_machine in grouped(gates, lambda gate: gate.fingerprint)
            for found in _histories(of_machine, here, painter, language)
        ],
    )


def gate_sheet(gate: Gate, language: Language) -> Sheet:
    """The verdict of each row of a gate. The gate's reasons stay in English."""
    text = language.text
    lines = tuple(
        (
            row.name,
            *(_milliseconds(side, language) for side in (row.base, row.head)),
            *_change_cells(row, language),
            row.verdict,
            _why(row),
        )
        for row in gate.rows
    )
    columns = (text("row"), text("base, ms"), text("head, ms"), *_change_columns(language))
    return Sheet(text("Rows of the gate"), columns, lines)


def _slow_row(row: GateRow, language: Language) -> SlowRow:
    accepted = row.accepted and language.text(
        "accepted up to %(bound)s %% by %(commit)s:",
        bound=language.number(percent(row.accepted.bound)),
        commit=row.accepted.commit[:12],
    )
    told = "" if row.accepted and row.verdict == "ACCEPTED" else _why(row)
    return SlowRow(row, _with_bounds(row, language), told, accepted or "", _differences_sheet(row, language))


def _differences_sheet(row: GateRow, language: Language) -> Sheet | None:
    if row.why is None or not row.why.differences:
        return None
    text = language.text
    lines = tuple(
        (one.what, *(_microseconds(side, language) for side in (one.base, one.head)), one.note or NOTHING)
        for one in row.why.differences
    )
    title = text("What differs in %(row)s", row=row.name)
    return Sheet(title, (text("part"), text("base, us"), text("head, us"), text("remark")), lines)


def _counted(gate: Gate, language: Language) -> str:
    verdicts = Counter(row.verdict for row in gate.rows)
    each = ", ".join(f"{language.number(count(number))} {verdict}" for verdict, number in verdicts.most_common())
    return language.text("All rows: %(verdicts)s", verdicts=each or "0")


def _earlier_sheet(gates: Sequence[Gate], here: str, language: Language) -> Sheet:
    text = language.text
    lines = tuple(
        (
            _moment(gate),
            _commits(gate),
            _place(gate, here, language),
            ", ".join(row.name for row in gate.rows if row.verdict in _SLOW) or NOTHING,
            gate.verdict,
            gate.reason,
        )
        for gate in gates
    )
    columns = (text("started, UTC"), text("base and head"), text("machine"), text("slower rows"))
    return Sheet(text("Earlier gates"), (*columns, text("verdict"), text("why")), lines)


def _histories(gates: Sequence[Gate], here: str, painter: Painter, language: Language) -> list[History]:
    """The history of each row that two or more gates of one machine have. The gates are the newest first."""
    placed = [(gate, row) for gate in gates for row in gate.rows]
    found = []
    for points in grouped(placed, lambda one: one[1].name):
        if len(points) > 1:
            gate, row = points[0]
            name = row.name if gate.fingerprint == here else f"{row.name}, {_place(gate, here, language)}"
            title = f"{name}: {row.verdict}"
            found.append(History(_chart(points, title, painter), _history_sheet(points, name, language)))
    return found


def _chart(points: Sequence[tuple[Gate, GateRow]], title: str, painter: Painter) -> Chart | None:
    changes = [
        Change(
            f"{gate.started:%m-%d} {gate.head[:7]}", row.verdict, _with_bounds(row, painter.language),
            *(None if one is None else 100 * (one - 1) for one in (row.ratio, row.low, row.high)),
        )
        for gate, row in reversed(points)
    ]  # fmt: skip
    return draw_changes(painter, changes, title) if any(one.value is not None for one in changes) else None


def _history_sheet(points: Sequence[tuple[Gate, GateRow]], name: str, language: Language) -> Sheet:
    text = language.text
    lines = tuple(
        (
            _moment(gate),
            _commits(gate),
            *_change_cells(row, language),
            row.verdict,
            _why(row),
        )
        for gate, row in points
    )
    columns = (text("started, UTC"), text("base and head"), *_change_columns(language))
    return Sheet(text("%(row)s in the last gates", row=name), columns, lines)


def _why(row: GateRow) -> str:
    return row.why.line if row.why else row.reason


def _change_columns(language: Language) -> tuple[str, ...]:
    text = language.text
    return (text("change"), text("at least"), text("at most"), text("pairs"), text("verdict"), text("why"))


def _change_cells(row: GateRow, language: Language) -> tuple[str, ...]:
    changes = (_change(bound, language) for bound in (row.ratio, row.low, row.high))
    return (*changes, language.number(count(row.pairs)))


def _with_bounds(row: GateRow, language: Language) -> str:
    """The change of a row with its bounds. A bound that is not known is infinite."""
    if row.ratio is None:
        return NOTHING
    low = "-∞" if row.low is None else _change(row.low, language)
    high = "+∞" if row.high is None else _change(row.high, language)
    return f"{_change(row.ratio, language)} [{low}; {high}]"


def _change(ratio: float | None, language: Language) -> str:
    if ratio is None:
        return NOTHING
    size = percent(abs(ratio - 1))
    sign = "" if size == percent(0) else "+" if ratio > 1 else "-"
    return f"{sign}{language.number(size)}\N{NO-BREAK SPACE}%"


def _milliseconds(seconds: float | None, language: Language) -> str:
    return NOTHING if seconds is None else language.number(significant(1e3 * seconds))


def _microseconds(seconds: float | None, language: Language) -> str:
    return NOTHING if seconds is None else language.number(significant(1e6 * seconds))


def _moment(gate: Gate) -> str:
    return f"{gate.started:%Y-%m-%d %H:%M}"


def _commits(gate: Gate) -> str:
    return f"{gate.base[:12]} → {gate.head[:12]}"


def _place(gate: Gate, here: str, language: Language) -> str:
    """The gate's machine, with a label if it is not the page's."""
    name = machine_name(gate.machine)
    if gate.fingerprint == here:
        return name
    return language.text("%(machine)s (another machine or other libraries)", machine=name)
