"""The page's part about a training run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lenet.report.charts import Chart, Painter
from lenet.report.language import Language
from lenet.report.page import sheets
from lenet.report.page.facts import Fact
from lenet.report.rounding import accuracy, significant
from lenet.report.sources import TrainingRun
from lenet.report.tables import Sheet

__all__ = ["Training", "training_part"]


@dataclass(frozen=True, slots=True)
class Training:
    """The page's content for a training run."""

    recipe: Sheet
    facts: Sequence[Fact]
    charts: Sequence[Chart]


def training_part(run: TrainingRun, painter: Painter, language: Language) -> Training:
    """Make the content for a training run."""
    text, number, last = language.text, language.number, run.history[-1]
    seconds = run.facts["times"]["training_seconds"]
    facts = [
        (text("test loss, nats"), number(f"{last['test_loss']:.4f}")),
        (text("test accuracy"), number(accuracy(last["test_accuracy"]))),
        (text("epochs done"), f"{len(run.history)}"),
        (text("training time, s"), number(significant(seconds))),
        *((text("images"), language.known(name)) for name in run.facts["data"].values()),
        (text("device"), language.known(str(run.facts["device"]))),
        (
            text("versions"),
            ", ".join(f"{name} {version}" for name, version in run.facts["versions"].items() if version),
        ),
        (text("commit"), str(run.facts["commit"] or text("unknown"))[:12]),
    ]
    from lenet.report import curves  # imports matplotlib, which takes half a second

    charts = [curves.draw_chart(painter, run.history, quantity) for quantity in ("loss", "accuracy")]
    return Training(sheets.recipe_sheet(run, language), facts, charts)
