"""The outcome of the gate as a table, as Markdown and as JSON."""

from __future__ import annotations

import math
import shlex
import shutil
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, Final

from lenet import documents
from lenet.errors import LenetError
from lenet.files import write_atomically
from lenet.gate.acceptance import trailer
from lenet.gate.decision import Rule, Verdict
from lenet.gate.outcome import Outcome, RowOutcome
from lenet.gate.pairs import CANARY, Pair
from lenet.gate.why import plain
from lenet.gate.why import to_markdown as why_to_markdown
from lenet.report.rounding import significant
from lenet.report.tables import Sheet, group_reasons, to_markdown
from lenet.results.gates import SCHEMA
from lenet.terminal import visible

__all__ = [
    "error_json",
    "error_page",
    "reasons",
    "repeat",
    "sheet",
    "summary",
    "to_json",
    "to_page",
    "trailers",
    "wrapped",
    "write",
]

_NOTHING: Final = "-"
_WHY: Final = ": why: "
_COMMAND: Final = "\n    "
"""Goes before each command that follows a text."""
_ACCEPT: Final = "If it is intended,"
_NARROWEST: Final = 40


def sheet(outcome: Outcome) -> Sheet:
    """A line for each row: both medians, the ratio with its bounds, the pairs, and the verdict."""
    lines = tuple(
        (
            row.name,
            *(_NOTHING if value is None else significant(1e3 * value) for value in (row.base, row.head)),
            *(_percent(value) for value in (row.ratio, row.low, row.high)),
            f"{row.pairs}{'' if row.again is None else f' + {row.again.pairs}'}",
            row.verdict,
        )
        for row in outcome.rows
    )
    columns = ("row", "base,\nms", "head,\nms", "change", "at\nleast", "at\nmost", "pairs", "verdict")
    return Sheet(f"{outcome.verdict}: {outcome.reason}", columns, lines, " ".join(summary(outcome)))


def reasons(outcome: Outcome) -> list[str]:
    """The reason for each row's verdict, and what explains a FAIL; what else a reader should know."""
    lines = []
    for row in outcome.rows:
        lines.append(f"{row.name}: {row.verdict}: {row.reason}")
        if row.why:
            lines.append(f"{row.name}{_WHY}{row.why.line}")
    if outcome.stopped:
        lines.append(f"It ended early: {outcome.stopped}. To go on:{_COMMAND}{repeat(outcome)} --resume")
    if found := trailers(outcome):
        lines.append(f"{_how_to_accept(outcome)}{_COMMAND}{_COMMAND.join(found)}")
    return [*lines, *outcome.notes]


def trailers(outcome: Outcome) -> list[str]:
    """The trailers that would accept the rows that FAIL."""
    failing = [row for row in outcome.rows if row.verdict is Verdict.FAIL]
    return [*filter(None, (trailer(row.name, row.ratio, row.high) for row in failing))]


def _how_to_accept(outcome: Outcome) -> str:
    """What to do with the trailers. A row has one bound, so an earlier one that was too small must go."""
    earlier = {row.accepted.commit[:12] for row in outcome.rows if row.verdict is Verdict.FAIL and row.accepted}
    first = f"{_ACCEPT} take the smaller bound out of the message of {', '.join(sorted(earlier))}, and"
    return f"{first if earlier else _ACCEPT} push a commit whose message ends with this, and with the reason:"


def wrapped(text: str) -> str:
    """The text in lines that fit the terminal, or in 80 columns. A command stays in one line, so that it can be copied.

    Args:
        text: Prose, and then commands, each after a line break.
    """
    prose, *commands = text.split(_COMMAND)
    width = max(shutil.get_terminal_size((80, 24)).columns, _NARROWEST)
    lines = textwrap.wrap(prose, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return _COMMAND.join(["\n".join(lines), *commands])


def repeat(outcome: Outcome) -> str:
    """The command that measures the same again."""
    rule = outcome.rule
    usual = Rule()
    changed = [
        f"--{name}={getattr(rule, name):g}"
        for name in ("tolerance", "harm")
        if getattr(rule, name) != getattr(usual, name)
    ]
    options = [*changed, *outcome.options, *outcome.suite]
    return shlex.join(["nox", "-s", "gate", "--", "--base", outcome.commits.reference, *options])


def summary(outcome: Outcome) -> list[str]:
    """What was compared, and how it was measured, in a few sentences."""
    commits, rule = outcome.commits, outcome.rule
    stages = outcome.stages
    pairs = sum(len(stage.pairs) for stage in stages)
    counted = sum(len(stage.counted) for stage in stages)
    discarded = sum(stage.discarded for stage in stages)
    head, base = commits.head[:12], commits.base[:12]
    found = [
        f"Head {head} against base {base}, the last common ancestor with {commits.reference}.",
        f"{pairs} pairs of {outcome.start} processes: {counted} counted, {discarded} throttled.",
        f"This run took {outcome.seconds:.0f} s.",
        f"Tolerance {rule.tolerance:.1%}, harm {rule.harm:.1%}, alpha {rule.alpha:.1%}; up to {rule.looks[-1]} pairs.",
    ]
    others = median(pair.others for stage in stages for pair in stage.pairs)
    found.append(f"Others used {others:.0%} of the processors.")
    found.append("The change is the median of the pairs' own ratios; each time is a median over all pairs.")
    canaries = [(stage.name, median(stage.ratios(CANARY))) for stage in stages if stage.counted]
    found += [f"Canary ({name} builds): {math.expm1(change):+.1%}." for name, change in canaries]
    if new := sorted(stages[0].pairs[0].head.rows.keys() - stages[0].pairs[0].base.rows.keys()):
        found.append(f"New in head, not judged: {', '.join(new)}.")
    if commits.own_environments:
        found.append("The dependencies differ, so each side ran in an environment of its own.")
    return found


def to_page(outcome: Outcome) -> str:
    """The outcome as a Markdown page, for a job's summary."""
    by_reason = group_reasons(outcome.not_run)
    missing = [f"- {plain(', '.join(names))}: {plain(reason)}" for reason, names in by_reason.items()]
    machine = outcome.machine
    where = machine["gpu"]["name"] if machine["gpu"] else machine["cpu"]["model"]
    # What is told below as well: the explanations with their tables, and the trailers as they are to be copied.
    said = [line for line in reasons(outcome) if _WHY not in line and not line.startswith(_ACCEPT)]
    lines = [to_markdown(sheet(outcome)), *(f"- {plain(line)}" for line in said), ""]
    lines += [f"Machine: {where}, fingerprint {outcome.fingerprint}. To repeat it: `{repeat(outcome)}`.", ""]
    if explanations := {row.name: row.why for row in outcome.rows if row.why}:
        lines += [why_to_markdown(explanations), ""]
    if found := trailers(outcome):
        lines += [_how_to_accept(outcome), "", "<pre>", *map(plain, found), "</pre>", ""]
    return "\n".join([*lines, *(["Not run:", "", *missing, ""] if missing else [])])


def to_json(outcome: Outcome) -> str:
    """The whole outcome as JSON, with the medians of every pair in seconds."""
    commits = asdict(outcome.commits)
    del commits["repository"]  # a path of the user's machine
    return documents.to_json(
        {
            "schema": SCHEMA,
            "verdict": outcome.verdict,
            "reason": outcome.reason,
            "rows": [_row(row) for row in outcome.rows],
            "not_run": outcome.not_run,
            "started": outcome.started,
            "stopped": outcome.stopped,
            "notes": outcome.notes,
            "commits": commits,
            "rule": asdict(outcome.rule),
            "suite": outcome.suite,
            "start": outcome.start,
            "seed": outcome.seed,
            "seconds": round(outcome.seconds, 1),
            "fingerprint": outcome.fingerprint,
            "machine": outcome.machine,
            "stages": [
                {
                    "name": stage.name,
                    "void": stage.void,
                    "discarded": stage.discarded,
                    "decisions": {name: _finite(asdict(one)) for name, one in stage.decisions.items()},
                    "pairs": [_pair(pair, counted=pair in stage.counted) for pair in stage.pairs],
                }
                for stage in outcome.stages
            ],
        },
        indent=1,
    )


def error_page(error: LenetError) -> str:
    """Why there is no verdict, as Markdown."""
    return f"### ERROR: {error.summary}\n\n{textwrap.indent(str(error), '    ')}\n"


def error_json(error: LenetError) -> str:
    """Why there is no verdict, as JSON."""
    document = {"schema": SCHEMA, "verdict": "ERROR", "reason": error.summary, "found": error.found}
    return documents.to_json(document | {"wanted": error.wanted, "next": error.hint}, indent=1)


def write(out: Path, document: str, page: str) -> None:
    """Write gate.json and gate.md.

    Raises:
        OutputError: They cannot be written.
    """
    write_atomically(out / "gate.json", document.encode())
    write_atomically(out / "gate.md", visible(page).encode())


def _row(row: RowOutcome) -> dict[str, Any]:
    accepted = asdict(row.accepted) if row.accepted else None
    if accepted is not None:
        del accepted["row"]
    return asdict(row) | {"again": _finite(asdict(row.again)) if row.again else None, "accepted": accepted}


def _pair(pair: Pair, *, counted: bool) -> dict[str, Any]:
    both = [name for name in pair.base.rows if name in pair.head.rows]
    return {
        "counted": counted,
        "seconds": round(pair.seconds, 3),
        "others": round(pair.others, 3),
        "first": pair.first,
        "medians": {name: pair.medians(name) for name in (*both, CANARY)},
    }


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, with None for an infinite bound: JSON has no infinity."""
    return {
        name: None if value in {math.inf, -math.inf} else value for name, value in values.items() if name != "again"
    }


def _percent(ratio: float | None) -> str:
    return _NOTHING if ratio is None else f"{ratio - 1:+.1%}"
