"""What a quick run left out of the coursework's conditions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lenet.report.language import Language
from lenet.report.rounding import count
from lenet.report.sources import Sources
from lenet.results.published import RECIPE, ROUNDS

__all__ = ["shortened"]

_IMAGES: Final = 50_000


def shortened(sources: Sources, language: Language) -> Sequence[str]:
    """What is less than the coursework's, in words; empty if the training and the rounds are whole."""
    text, number = language.text, language.number
    facts = sources.run.facts if sources.run is not None else None
    rounds = [
        row.summary.rounds + row.throttled
        for machine in sources.machines
        for row in machine.rows
        if row.case.protocol == "coursework"
    ]
    found = (
        (text("epochs of training"), facts and facts["recipe"]["epochs"], RECIPE["epochs"]),
        (text("training images"), facts and facts["times"]["images_an_epoch"], _IMAGES),
        (text("rounds a row"), min(rounds, default=None), ROUNDS),
    )
    return [
        text("%(own)s %(what)s instead of %(whole)s", what=what, own=number(count(own)), whole=number(count(whole)))
        for what, own, whole in found
        if own is not None and isinstance(whole, int) and own < whole
    ]
