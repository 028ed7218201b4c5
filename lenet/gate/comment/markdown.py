"""The comment as GitHub's Markdown, and the status's words.

Texts that are not the project's own stand in ``<code>``, where GitHub makes no link and notifies nobody. Each of their
characters that is no letter, digit or space is written as a character reference, which Markdown takes for text.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Final

from lenet.gate.acceptance import trailer
from lenet.gate.comment.artefact import Gate, Row
from lenet.gate.comment.github import PullRequest, Run
from lenet.report.rounding import significant

__all__ = ["LARGEST_COMMENT", "STATES", "code", "headline", "render"]

LARGEST_COMMENT: Final = 65_536
"""Characters that GitHub takes."""
STATES: Final = {"PASS": "success", "FAIL": "failure", "INCONCLUSIVE": "error", "ERROR": "error"}
"""The state of a commit's status for each verdict."""
_SIGNS: Final = {"PASS": "✅", "FAIL": "❌", "INCONCLUSIVE": "❔", "ERROR": "⚠️"}
_ORDER: Final = ("FAIL", "ACCEPTED", "INCONCLUSIVE", "PASS")
_OWN_SIGNS: Final = frozenset("±µ×·–—…")  # noqa: RUF001 - what the project's texts use beyond ASCII
_SHORT, _LONG, _PARAGRAPH = 100, 240, 400
_OPEN_BUDGET, _FOLDED_BUDGET, _MOST_OPEN = 24_000, 12_000, 20
_MOST_FILES, _MOST_TRAILERS = 8, 5
_BASIC: Final = 0xFFFF
_OPTION: Final = re.compile(
    r"--cold-cache|--(backend|mode|batch-size|precision|host-memory|input|device|protocol|rounds|warmups|time-limit)"
    r"=[\w.,\[\]-]{1,60}",
    flags=re.ASCII,
)
"""The options that can be shown to be typed. Others of pytest could load code or delete a directory."""


def code(text: str, longest: int = _SHORT) -> str:
    """A text of unknown content as HTML that is safe in Markdown: one line, as it would be printed."""
    return f"<code>{_escaped(text, longest)}</code>"


def headline(gate: Gate, run: Run) -> str:
    """The verdict in the project's own words, for the comment's first line and for the status."""
    slower = [row for row in gate.rows if row.verdict == "FAIL" and row.ratio is not None]
    gone = sum(row.verdict == "FAIL" and row.ratio is None for row in gate.rows)
    accepted = sum(row.verdict == "ACCEPTED" for row in gate.rows)
    of_all = f"of {len(gate.rows)} rows"
    parts = []
    if gate.verdict == "ERROR":
        parts = ["no verdict"]
    elif gate.verdict == "INCONCLUSIVE":
        parts = [f"{sum(row.verdict == 'INCONCLUSIVE' for row in gate.rows)} {of_all} undecided"]
    elif gate.verdict == "PASS" and not accepted:
        parts = [f"none {of_all} slower"]
    if slower:
        parts.append(f"{len(slower)} {of_all} slower, the worst by {max(row.ratio or 0 for row in slower) - 1:.1%}")
    if gone:
        parts.append(f"{gone} {of_all} no longer measured")
    if accepted:
        others = ", none of the others" if gate.verdict == "PASS" else ""
        parts.append(f"{accepted} {of_all} slower as accepted{others}")
    return f"{gate.verdict}{' (advisory)' if run.advisory else ''}: {'; '.join(parts) or 'see the run'}"


def render(gate: Gate, run: Run, pull: PullRequest) -> str:
    """The whole comment, at most `LARGEST_COMMENT` characters.

    Args:
        gate: What the run found.
        run: The run.
        pull: The pull request, as GitHub knows it.
    """
    opened, folded = _parted(gate)
    blocks = [run.marker, f"### {_SIGNS[gate.verdict]} {headline(gate, run)}", _about(gate, run, pull)]
    if pull.own_measure:
        blocks.append(_warning(pull))
    if gate.error is not None:
        blocks.append(_error(gate.reason, gate.error))
    blocks += _tables(opened, folded)
    if trailers := _trailers(gate):
        text = (
            "If it is intended, push a commit whose message ends with this, and with the reason, which reviewers see."
        )
        blocks.append(_fold("How to accept a slow-down", f"{text}\n\n{_pre(trailers)}"))
    if gate.error is None:
        blocks.append(_fold("How to repeat it", _pre(_commands(gate, run, pull))))
    return "\n\n".join(blocks) + "\n"


def _about(gate: Gate, run: Run, pull: PullRequest) -> str:
    """What was measured where, and for whom it matters."""
    parts = [f"{code(run.head_sha[:12])} merged into {code(pull.base_ref)}"]
    if gate.machine:
        parts.append(code(gate.machine))
    if gate.seconds is not None:
        parts.append(f"{max((row.pairs for row in gate.rows), default=0)} pairs, {_elapsed(gate.seconds)}")
    if gate.not_run:
        parts.append(f"{gate.not_run} cases not run here")
    lines = [f"{' · '.join(parts)} · [the run]({run.url}) · [what this means]({run.help_url})"]
    if gate.verdict == "INCONCLUSIVE":
        lines.append(
            f"Not known to be slower, nor not to be: {code(gate.stopped or gate.reason, _LONG)}. Re-run the job."
        )
    elif gate.stopped:
        lines.append(f"It ended early: {code(gate.stopped, _LONG)}.")
    if run.advisory:
        lines.append("This is advice: hosted machines are shared, and nothing is blocked by it.")
    return "\n\n".join(lines)


def _warning(pull: PullRequest) -> str:
    shown = ", ".join(code(file) for file in pull.own_measure[:_MOST_FILES])
    more = f" and {len(pull.own_measure) - _MOST_FILES} more" if pull.own_measure[_MOST_FILES:] else ""
    return f"**This pull request changes what measures it:** {shown}{more}. Read these before you rely on the verdict."


def _error(reason: str, error: tuple[str, str, str]) -> str:
    told = zip(("found", "wanted", "next"), error, strict=True)
    return "\n".join([code(reason, _PARAGRAPH), "", *(f"- {name}: {code(text, _PARAGRAPH)}" for name, text in told)])


def _parted(gate: Gate) -> tuple[list[Row], list[Row]]:
    """The rows that are shown at once, the slowest first, and those that are folded."""
    rows = sorted(gate.rows, key=lambda row: (_ORDER.index(row.verdict), -(row.ratio or math.inf)))
    at_once = {"FAIL", "ACCEPTED"} | ({"INCONCLUSIVE"} if gate.verdict == "INCONCLUSIVE" else set())
    count = min(sum(row.verdict in at_once for row in rows), _MOST_OPEN)
    return rows[:count], rows[count:]


def _tables(opened: Sequence[Row], folded: Sequence[Row]) -> list[str]:
    blocks = []
    if opened:
        blocks.append(_table(opened, _OPEN_BUDGET))
    if folded:
        counts = [(sum(row.verdict == verdict for row in folded), verdict) for verdict in _ORDER]
        found = ", ".join(f"{count} {verdict}" for count, verdict in counts if count)
        title = f"{'The other' if opened else 'All'} {len(folded)} rows: {found}"
        blocks.append(_fold(title, _table(folded, _FOLDED_BUDGET)))
    return blocks


def _table(rows: Sequence[Row], budget: int) -> str:
    """The rows that fit into so many characters, and how many do not."""
    lines = ["| verdict | row | change | bounds | base | head | why |", "|---|---|--:|---|--:|--:|---|"]
    left = budget
    for index, row in enumerate(rows):
        line = f"| {' | '.join(_cells(row))} |"
        left -= len(line)
        if left < 0:
            return "\n".join([*lines, "", f"{len(rows) - index} more rows are in the run's summary."])
        lines.append(line)
    return "\n".join(lines)


def _cells(row: Row) -> Iterable[str]:
    yield f"**{row.verdict}**" if row.verdict == "FAIL" else row.verdict
    yield code(row.name)
    yield "" if row.ratio is None else f"{row.ratio - 1:+.1%}"
    yield "" if row.low is None or row.high is None else f"{row.low - 1:+.1%}&nbsp;to&nbsp;{row.high - 1:+.1%}"
    yield _time(row.base)
    yield _time(row.head)
    if row.verdict == "ACCEPTED" and row.bound is not None:
        yield f"accepted up to {row.bound:+.1%}: {code(row.accepted, _LONG)}"
    else:
        yield code(row.why if row.why and row.verdict == "FAIL" else row.reason, _LONG)


def _trailers(gate: Gate) -> list[str]:
    """Trailers for the rows that are slower."""
    slower = [row for row in gate.rows if row.verdict == "FAIL" and len(row.name) <= _SHORT]
    found = (trailer(row.name, row.ratio, row.high) for row in slower)
    return [*filter(None, found)][:_MOST_TRAILERS]


def _commands(gate: Gate, run: Run, pull: PullRequest) -> list[str]:
    """What measures the same on another machine. The commit is one that GitHub vouches for."""
    merged = gate.head == pull.merge_commit
    commit = gate.head if merged else run.head_sha
    fetched = [commit] if merged else [pull.base_ref, commit]
    gated = ["nox", "-s", "gate", "--", "--base", "HEAD^1" if merged else f"origin/{pull.base_ref}"]
    known = all(_OPTION.fullmatch(option) for option in gate.suite)
    commands = [["git", "fetch", "origin", *fetched], ["git", "switch", "--detach", commit]]
    commands.append([*gated, *(gate.suite[:_MOST_OPEN] if known else ())])
    lines = [shlex.join(command) for command in commands]
    return lines if known else [*lines, "# and the suite's options, which the run's log has"]


def _fold(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def _pre(lines: Iterable[str]) -> str:
    return "<pre>\n" + "\n".join(_escaped(line, _PARAGRAPH) for line in lines) + "\n</pre>"


def _escaped(text: str, longest: int) -> str:
    line = " ".join(text[: 2 * longest].split())
    shown = line if len(line) <= longest else f"{line[: longest - 1]}…"
    return "".join(map(_character, shown))


def _character(character: str) -> str:
    """A character as a reference, unless it is a plain letter or digit. Those that few texts need are spelled."""
    number = ord(character)
    if character.isascii() and (character.isalnum() or character == " "):
        return character
    if character in _OWN_SIGNS or (character.isascii() and character.isprintable()):
        return f"&#{number};"
    return f"&#92;u{number:04x}" if number <= _BASIC else f"&#92;U{number:08x}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    unit, scale = next(((unit, scale) for unit, scale in (("s", 1), ("ms", 1e3)) if seconds * scale >= 1), ("us", 1e6))
    return f"{significant(seconds * scale)}&nbsp;{unit}"


def _elapsed(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
