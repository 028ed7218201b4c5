"""Relative changes in words, in the form of the coursework's analysis, computed from the rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lenet.report.language import Language
from lenet.report.rounding import percent, ratio, significant
from lenet.results import Row
from lenet.results.published import FIGURES
from lenet.vocabulary import BASELINE_BACKEND, ONE_BATCH_MODES, Mode

__all__ = ["changes", "copy_share", "doubt", "fastest", "overlap", "published_changes", "undecided", "without_interval"]

_ALSO = (("tripy", "tensorrt"),)
"""Pairs that the coursework compares, besides each backend with PyTorch."""


def changes(group: Sequence[Row], language: Language) -> list[str]:
    """A sentence for each backend and mode against PyTorch, and for TriPy against TensorRT.

    Args:
        group: Rows that may be compared, one of `lenet.report.tables.speed_groups`.
        language: Language of the sentences.
    """
    said = []
    for mode in ONE_BATCH_MODES:
        rows = {row.case.backend: row for row in group if row.case.mode is mode}
        pairs = [(name, BASELINE_BACKEND) for name in rows if name != BASELINE_BACKEND]
        for name, other in (*pairs, *_ALSO):
            if name in rows and other in rows:
                alike = overlap(rows[name], rows[other])
                factor = rows[other].summary.median / rows[name].summary.median
                unknown = bool(without_interval((rows[name], rows[other])))
                words = _change(name, other, mode, factor, language, alike=alike, unknown=unknown)
                said.append(words + doubt((rows[name], rows[other]), language))
    return said


def fastest(group: Sequence[Row], language: Language) -> list[str]:
    """A sentence for each mode: the fastest runtime, and how much faster than PyTorch it is.

    Args:
        group: Rows that may be compared, one of `lenet.report.tables.speed_groups`.
        language: Language of the sentences.
    """
    said = []
    for mode in ONE_BATCH_MODES:
        rows = sorted((row for row in group if row.case.mode is mode), key=lambda row: row.summary.median)
        if rows:
            said.append(_fastest(rows, language))
    return said


def _fastest(rows: Sequence[Row], language: Language) -> str:
    """The sentence about rows of one mode, the fastest first."""
    first, *others = rows
    forward = first.case.mode is Mode.FORWARD
    unclear = undecided(rows)
    baseline = next((row for row in others if row.case.backend == BASELINE_BACKEND), None)
    values = {
        "mode": language.text("Forward") if forward else language.text("End to end"),
        "name": first.case.backend,
        "names": ", ".join(row.case.backend for row in unclear),
        "time": language.number(significant(first.milliseconds_per_batch)),
        "other": BASELINE_BACKEND,
    }
    if not others:
        words = language.text("%(mode)s: %(name)s takes %(time)s ms a batch; no other runtime was measured.", **values)
        return words + doubt([first], language)
    if without_interval(unclear):
        words = language.text(
            "%(mode)s: no fastest can be claimed; the rounds of %(names)s give no 95 %% interval.", **values
        )
        return words + doubt(rows, language)
    if unclear:
        words = language.text(
            "%(mode)s: no fastest can be claimed; the 95 %% intervals of %(names)s overlap.", **values
        )
        return words + doubt(rows, language)
    if baseline is None:
        return language.text("%(mode)s: %(name)s is the fastest, %(time)s ms a batch.", **values) + doubt(
            rows, language
        )
    values["ratio"] = language.number(ratio(baseline.summary.median / first.summary.median))
    words = language.text(
        "%(mode)s: %(name)s is the fastest, %(time)s ms a batch, %(ratio)s times as fast as %(other)s.", **values
    )
    return words + doubt(rows, language)


def undecided(rows: Sequence[Row]) -> list[Row]:
    """The rows because of which no fastest can be claimed; empty if the first is the fastest.

    They are those without a 95 % interval. If all have one, they are the first and those whose interval overlaps its.

    Args:
        rows: Rows that may be compared, by their medians, the least first.
    """
    first, *others = rows
    near = [row for row in others if overlap(first, row)]
    return without_interval(rows) or ([first, *near] if near else [])


def doubt(rows: Sequence[Row], language: Language) -> str:
    """The end of a sentence that names its rows that may not be trusted; empty if there are none."""
    unstable = ", ".join(row.case.backend for row in rows if row.unstable)
    return language.text(" Unstable: %(names)s.", names=unstable) if unstable else ""


def published_changes(language: Language) -> list[str]:
    """The same sentences for the published figures, which have no intervals."""
    said = []
    for mode in ONE_BATCH_MODES:
        times = {figure.backend: figure for figure in FIGURES if figure.mode is mode}
        for name, other in (("tensorrt", "pytorch"), ("tripy", "pytorch"), *_ALSO):
            faster = times[other].milliseconds_per_batch / times[name].milliseconds_per_batch
            said.append(_change(times[name].runtime, times[other].runtime, mode, faster, language, alike=False))
    return said


def copy_share(group: Sequence[Row], language: Language) -> list[str]:
    """What copy and synchronisation add to each backend's forward pass, and whether they take longer than it."""
    said = []
    forward = {row.case.backend: row for row in group if row.case.mode is Mode.FORWARD}
    for row in group:
        own = forward.get(row.case.backend)
        if row.case.mode is not Mode.END_TO_END or own is None or row.summary.median <= own.summary.median:
            continue
        share = 1 - own.summary.median / row.summary.median
        values = {
            "name": row.case.backend,
            "ratio": language.number(ratio(row.summary.median / own.summary.median)),
            "percent": language.number(percent(share)),
        }
        words = (
            language.text(
                "%(name)s, end to end: %(ratio)s times its forward pass; the copy and the synchronisation dominate, "
                "with %(percent)s %% of the time.",
                **values,
            )
            if share > 1 / 2
            else language.text(
                "%(name)s, end to end: %(ratio)s times its forward pass; the copy and the synchronisation take "
                "%(percent)s %% of the time.",
                **values,
            )
        )
        unstable = own.unstable or row.unstable
        said.append(words + (language.text(" Unstable: %(names)s.", names=row.case.backend) if unstable else ""))
    return said


def without_interval(rows: Iterable[Row]) -> list[Row]:
    """The rows that too few rounds give no 95 % interval."""
    return [row for row in rows if row.summary.median_low is None or row.summary.median_high is None]


def overlap(one: Row, other: Row) -> bool:
    """Whether the 95 % intervals of two medians overlap or are unknown. No change is then claimed."""
    bounds = (one.summary.median_low, one.summary.median_high, other.summary.median_low, other.summary.median_high)
    if any(bound is None for bound in bounds):
        return True
    low, high, other_low, other_high = (bound for bound in bounds if bound is not None)
    return low <= other_high and other_low <= high


def _change(
    name: str, other: str, mode: Mode, faster: float, language: Language, *, alike: bool, unknown: bool = False
) -> str:
    forward = mode is Mode.FORWARD
    values = {
        "name": name,
        "other": other,
        "mode": language.text("forward") if forward else language.text("end to end"),
        "ratio": language.number(ratio(max(faster, 1 / faster))),
        "percent": language.number(percent(abs(1 / faster - 1))),
    }
    if unknown:
        return language.text(
            "%(name)s, %(mode)s: no difference from %(other)s can be claimed; the rounds give no 95 %% interval.",
            **values,
        )
    if alike:
        return language.text(
            "%(name)s, %(mode)s: no difference from %(other)s can be claimed; the 95 %% intervals overlap.", **values
        )
    if faster >= 1:
        return language.text(
            "%(name)s, %(mode)s: %(ratio)s times as fast as %(other)s, %(percent)s %% less time.", **values
        )
    return language.text(
        "%(name)s, %(mode)s: %(ratio)s times as slow as %(other)s, %(percent)s %% more time.", **values
    )
