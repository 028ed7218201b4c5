"""Relative changes in words, in the form of the coursework's analysis, computed from the rows."""

from __future__ import annotations

from collections.abc import Sequence

from lenet.report.language import Language
from lenet.report.rounding import percent, ratio
from lenet.results import Row
from lenet.results.published import FIGURES
from lenet.vocabulary import BASELINE_BACKEND, Mode

__all__ = ["changes", "copy_share", "overlap", "published_changes"]

_ALSO = (("tripy", "tensorrt"),)
"""Pairs that the coursework compares, besides each backend with PyTorch."""


def changes(group: Sequence[Row], language: Language) -> list[str]:
    """A sentence for each backend and mode against PyTorch, and for TriPy against TensorRT.

    Args:
        group: Rows that may be compared, one of `lenet.report.tables.speed_groups`.
        language: Language of the sentences.
    """
    said = []
    for mode in Mode:
        rows = {row.case.backend: row for row in group if row.case.mode is mode}
        pairs = [(name, BASELINE_BACKEND) for name in rows if name != BASELINE_BACKEND]
        for name, other in (*pairs, *_ALSO):
            if name in rows and other in rows:
                alike = overlap(rows[name], rows[other])
                factor = rows[other].summary.median / rows[name].summary.median
                words = _change(name, other, mode, factor, language, alike=alike)
                unstable = ", ".join(one for one in (name, other) if rows[one].unstable)
                said.append(words + (language.text(" Unstable: %(names)s.", names=unstable) if unstable else ""))
    return said


def published_changes(language: Language) -> list[str]:
    """The same sentences for the published figures, which have no intervals."""
    said = []
    for mode in Mode:
        times = {figure.backend: figure for figure in FIGURES if figure.mode is mode}
        for name, other in (("tensorrt", "pytorch"), ("tripy", "pytorch"), *_ALSO):
            faster = times[other].milliseconds_per_batch / times[name].milliseconds_per_batch
            said.append(_change(times[name].runtime, times[other].runtime, mode, faster, language, alike=False))
    return said


def copy_share(group: Sequence[Row], language: Language) -> list[str]:
    """What copy and synchronisation add to each backend's forward pass, and whether they take longer than it."""
    said = []
    forward = {row.case.backend: row.summary.median for row in group if row.case.mode is Mode.FORWARD}
    for row in group:
        own = forward.get(row.case.backend)
        if row.case.mode is not Mode.END_TO_END or own is None or row.summary.median <= own:
            continue
        share = 1 - own / row.summary.median
        values = {
            "name": row.case.backend,
            "ratio": language.number(ratio(row.summary.median / own)),
            "percent": language.number(percent(share)),
        }
        said.append(
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
    return said


def overlap(one: Row, other: Row) -> bool:
    """Whether the 95 % intervals of two medians overlap or are unknown. No change is then claimed."""
    bounds = (one.summary.median_low, one.summary.median_high, other.summary.median_low, other.summary.median_high)
    if any(bound is None for bound in bounds):
        return True
    low, high, other_low, other_high = (bound for bound in bounds if bound is not None)
    return low <= other_high and other_low <= high


def _change(name: str, other: str, mode: Mode, faster: float, language: Language, *, alike: bool) -> str:
    forward = mode is Mode.FORWARD
    values = {
        "name": name,
        "other": other,
        "mode": language.text("forward") if forward else language.text("end to end"),
        "ratio": language.number(ratio(max(faster, 1 / faster))),
        "percent": language.number(percent(abs(1 / faster - 1))),
    }
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
