"""The page's main figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lenet.report import words
from lenet.report.language import Language
from lenet.report.page.facts import machine_name
from lenet.report.rounding import accuracy, ratio, thousands
from lenet.report.sources import Machine, Sources
from lenet.report.tables import row_name
from lenet.results import Row, find_row, speedup
from lenet.vocabulary import BASELINE_BACKEND

__all__ = ["glance"]


def glance(
    sources: Sources, machines: Sequence[tuple[Machine, Sequence[Row]]], language: Language
) -> Iterable[tuple[str, str, str]]:
    """The page's main figures: a name, a number and its subject each."""
    text, number = language.text, language.number
    if sources.run is not None:
        last = sources.run.history[-1]
        epochs = language.plural("after %(count)s epoch", "after %(count)s epochs", len(sources.run.history))
        yield text("Test accuracy"), number(accuracy(last["test_accuracy"])), epochs
    if sources.parity is not None and sources.parity["backends"]:
        lines = sources.parity["backends"]
        right = sum(bool(line["right"]) for line in lines)
        yield text("Backends that are right"), f"{right}/{len(lines)}", text("logits within the tolerance of float64")
    for machine, rows in machines:
        if not rows:
            continue
        where = machine_name(machine.measurements[-1].machine)
        fastest = max(rows, key=lambda row: row.images_per_second)
        yield (
            text("Images a second"),
            number(thousands(fastest.images_per_second)),
            f"{row_name(fastest.case)}, {where}",
        )
        known = [(gain, row) for row in rows if _differs(row, rows) and (gain := speedup(row, rows)) is not None]
        if known:
            gain, row = max(known, key=lambda pair: pair[0])
            yield text("Largest speed-up over PyTorch"), f"{number(ratio(gain))}×", f"{row_name(row.case)}, {where}"
    if sources.gate is not None:
        yield text("Regression gate"), str(sources.gate["verdict"]), str(sources.gate["reason"])


def _differs(row: Row, rows: Sequence[Row]) -> bool:
    """Whether a row surely differs from PyTorch's row under the same conditions: both stable, their intervals apart."""
    baseline = find_row(rows, BASELINE_BACKEND, row)
    return baseline is not None and not (row.unstable or baseline.unstable or words.overlap(row, baseline))
