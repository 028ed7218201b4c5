"""What throughput rows say in words: how gains change once copies overlap, and what sets the pace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from lenet.report import words
from lenet.report.language import Language
from lenet.report.rounding import count, percent, ratio
from lenet.report.tables import row_name
from lenet.results import Row, find_row, pytorch_row
from lenet.vocabulary import BASELINE_BACKEND, Mode

__all__ = ["gains", "pace"]

_PACE: Final = 0.8
"""The share of a batch's time that the copies or the passes alone take at least, if they set the pace."""


def gains(rows: Sequence[Row], language: Language) -> list[str]:
    """How a runtime's gain over PyTorch changes once copies count, and once they overlap, for each throughput row.

    Only rows that have both modes of one batch beside them, and PyTorch in all three modes, say something.
    """
    said = []
    for row in rows:
        if row.case.mode is not Mode.THROUGHPUT or row.case.backend == BASELINE_BACKEND:
            continue
        end_to_end = replace(row.case, mode=Mode.END_TO_END, depth=None)
        like = (replace(end_to_end, mode=Mode.FORWARD, host_memory=None), end_to_end, row.case)
        own = [find_row(rows, row.case.backend, replace(row, case=case)) for case in like]
        others = [one and pytorch_row(one, rows) for one in own]
        pairs = [(one, other) for one, other in zip(own, others, strict=True) if one and other]
        if len(pairs) < len(like):
            continue
        forward, copied, overlapped = (
            language.number(ratio(other.summary.median / one.summary.median)) for one, other in pairs
        )
        said_of = language.text(
            "%(name)s over %(other)s, batch %(batch)s, %(asked)s, %(input)s images: %(forward)s times as fast forward, "
            "%(copied)s times end to end, %(overlapped)s times in throughput.",
            name=row.case.backend,
            other=BASELINE_BACKEND,
            batch=language.number(count(row.case.batch_size)),
            asked=row.case.asked,
            input=row.case.input,
            forward=forward,
            copied=copied,
            overlapped=overlapped,
        )
        doubtful = [one for pair in pairs for one in pair if one.unstable]
        said.append(said_of + words.doubt(list({one.case.backend: one for one in doubtful}.values()), language))
    return said


def pace(rows: Sequence[Row], language: Language) -> list[str]:
    """What sets the pace of each throughput row of a GPU: the copies, the forward passes, or neither alone."""
    said = []
    for row in rows:
        found = row.throughput
        if found is None or found.copy_alone is None or found.forward_alone is None:
            continue
        longer = max(found.copy_alone, found.forward_alone)
        values = {
            "row": row_name(row.case),
            "percent": language.number(percent(max(1 - longer / row.summary.median, 0))),
            "ratio": language.number(ratio(row.summary.median / longer)),
        }
        if longer < _PACE * row.summary.median:
            said_of = language.text(
                "%(row)s: neither the copies nor the forward passes alone set the pace; together they take %(ratio)s "
                "times as long as the longer of the two.",
                **values,
            )
        elif longer == found.copy_alone:
            said_of = language.text(
                "%(row)s: the copies set the pace; without any forward pass a batch would take %(percent)s %% less "
                "time.",
                **values,
            )
        else:
            said_of = language.text(
                "%(row)s: the forward passes set the pace; without any copy a batch would take %(percent)s %% less "
                "time.",
                **values,
            )
        said.append(said_of + words.doubt([row], language))
    return said
