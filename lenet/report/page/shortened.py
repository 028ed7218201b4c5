"""What a quick run left out of the coursework's conditions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lenet.report.language import Language
from lenet.report.rounding import count
from lenet.report.sources import Sources
from lenet.results.published import ROUNDS
from lenet.training.recipe import Recipe

__all__ = ["shortened"]

_IMAGES: Final = 50_000


def shortened(sources: Sources, language: Language) -> Sequence[str]:
    """What is less than the coursework's, in words; empty if the training and the rounds are whole."""
    text, number = language.text, language.number
    epochs, images = None, None
    if sources.run is not None:
        facts = sources.run.facts
        epochs, images = int(facts["recipe"]["epochs"]), int(facts["times"]["images_an_epoch"])
    rounds = [
        row.summary.rounds + row.throttled
        for machine in sources.machines
        for row in machine.rows
        if row.case.protocol == "coursework"
    ]
    found = (
        (text("epochs of training"), epochs, Recipe().epochs),
        (text("training images"), images, _IMAGES),
        (text("rounds a row"), min(rounds, default=None), ROUNDS),
    )
    return [
        text("%(own)s %(what)s instead of %(whole)s", what=what, own=number(count(own)), whole=number(count(whole)))
        for what, own, whole in found
        if own is not None and own < whole
    ]
