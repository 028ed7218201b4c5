"""Tables that only the page has, in the same form as those of `lenet.report.tables`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lenet.architecture import FLOPS_PER_IMAGE, INPUT_SHAPE, PARAMETER_COUNT, PARAMETER_SHAPES, STAGES
from lenet.report.language import Language
from lenet.report.rounding import accuracy, count, loss, ratio, shape, significant
from lenet.report.sources import TrainingRun
from lenet.report.tables import MARK, NOTHING, Sheet, limit_name, row_name
from lenet.results import Row, find_row, speedup
from lenet.results.published import BATCH_SIZE, FIGURES, QUALITIES, RECIPE, ratio_to_pytorch
from lenet.vocabulary import BASELINE_BACKEND, InputType, Mode, Precision

__all__ = [
    "beside_published_sheet",
    "floor_sheet",
    "layers_sheet",
    "parameters_sheet",
    "published_recipe_sheet",
    "qualities_sheet",
    "recipe_sheet",
]


def layers_sheet(language: Language) -> Sheet:
    """Each layer with its output's shape, its parameters and its operations, and their sums."""
    text, number = language.text, language.number
    lines: list[tuple[str, ...]] = [(text("input"), NOTHING, shape(INPUT_SHAPE), NOTHING, NOTHING)]
    for stage in STAGES:
        kind = type(stage.layer).__name__
        counts = (stage.parameters, stage.flops)
        cells = [number(count(one)) if one else NOTHING for one in counts]
        lines.append((stage.layer.name, kind, shape(stage.output_shape), *cells))
    lines.append((text("sum"), "", "", number(count(PARAMETER_COUNT)), number(count(FLOPS_PER_IMAGE))))
    return Sheet(
        text("Layers"),
        (text("layer"), text("kind"), text("output"), text("parameters"), text("FLOP/image")),
        tuple(lines),
        text("a multiply-add counts as two operations; biases, activations and pooling are not counted"),
    )


def parameters_sheet(language: Language) -> Sheet:
    """The names and shapes of the weights in PyTorch and in TriPy."""
    text = language.text
    lines = tuple((name, shape(sizes)) for name, sizes in PARAMETER_SHAPES.items())
    return Sheet(text("Parameters, alike in both frameworks"), (text("name"), text("shape")), lines)


def recipe_sheet(run: TrainingRun, language: Language) -> Sheet:
    """The recipe of a run beside the coursework's."""
    text, number, own = language.text, language.number, run.facts["recipe"]
    published = published_recipe_sheet(language)
    ours = [*(_setting(own[key], language) for key in RECIPE), number(count(run.facts["times"]["images_an_epoch"]))]
    lines = [(name, value, theirs) for (name, theirs), value in zip(published.lines, ours, strict=True)]
    lines.append((text("seed"), _setting(own["seed"], language), NOTHING))
    return Sheet(text("Recipe"), ("", text("this run"), text("coursework")), tuple(lines))


def published_recipe_sheet(language: Language) -> Sheet:
    """The coursework's recipe."""
    text = language.text
    names = {
        "epochs": text("epochs"),
        "batch_size": text("batch"),
        "learning_rate": text("learning rate"),
        "momentum": text("momentum"),
        "weight_decay": text("weight decay"),
        "milestones": text("learning rate decays after epochs"),
        "decay": text("factor of the decay"),
        "padding": text("padding before the random crop, pixels"),
    }
    lines = [(names[key], _setting(value, language)) for key, value in RECIPE.items()]
    lines.append((text("training images"), language.number(count(50_000))))
    return Sheet(text("Recipe"), ("", text("coursework")), tuple(lines))


def _setting(value: Any, language: Language) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else language.number(f"{value}")


def qualities_sheet(language: Language) -> Sheet:
    """The coursework's loss and accuracy."""
    lines = tuple(
        (one.runtime, language.number(loss(one.loss)), language.number(accuracy(one.accuracy))) for one in QUALITIES
    )
    columns = (language.text("runtime"), language.text("loss"), language.text("accuracy"))
    title = language.text("Published by the coursework: 10,000 test images, weights of its own")
    return Sheet(title, columns, lines, language.text("not measured here"))


def beside_published_sheet(rows: Sequence[Row], language: Language) -> Sheet | None:
    """Measured times divided by the published ones, at the same batch size and precision; None if there are none."""
    number, text = language.number, language.text
    modes = {Mode.FORWARD: text("forward"), Mode.END_TO_END: text("e2e")}
    lines = []
    for figure in FIGURES:
        for row in rows:
            case = row.case
            if (case.backend, case.mode, case.batch_size) != (figure.backend, figure.mode, BATCH_SIZE):
                continue
            if case.asked != Precision.FP32 or case.cold_cache or case.input != InputType.FLOAT32:
                continue
            faster, baseline = speedup(row, rows), find_row(rows, BASELINE_BACKEND, row)
            lines.append(
                (
                    figure.runtime,
                    " ".join(filter(None, [modes[case.mode], case.host_memory])),
                    number(f"{figure.milliseconds_per_batch:.3f}"),
                    number(significant(row.milliseconds_per_batch)) + _mark(row),
                    number(ratio(row.milliseconds_per_batch / figure.milliseconds_per_batch)) + _mark(row),
                    number(ratio(ratio_to_pytorch(figure))),
                    NOTHING if faster is None else number(ratio(1 / faster)) + _mark(row, baseline),
                )
            )
    if not lines:
        return None
    columns = (
        *(text("runtime"), text("mode")),
        *(text("published\nms/batch"), text("here\nms/batch"), text("here over\npublished")),
        *(text("published\nto PyTorch"), text("here\nto PyTorch")),
    )
    title = text("Beside the published figures, batch %(batch)s, fp32", batch=number(count(BATCH_SIZE)))
    caption = text("another machine, another library version: only the ratios to PyTorch can be set side by side")
    return Sheet(title, columns, tuple(lines), caption)


def floor_sheet(rows: Sequence[Row], language: Language) -> Sheet | None:
    """How far each row is from its floor; None if no limit was measured."""
    number, text = language.number, language.text
    lines = tuple(
        (
            row_name(row.case),
            number(significant(row.milliseconds_per_batch)) + _mark(row),
            number(significant(1e3 * row.floor.seconds)),
            number(significant(row.times_floor)) + _mark(row),
            limit_name(row.floor.term, language),
        )
        for row in rows
        if row.floor is not None and row.times_floor is not None
    )
    if not lines:
        return None
    columns = (text("row"), text("median"), text("floor"), text("times the floor"), text("nearest limit"))
    return Sheet(text("Distance to the floor, ms/batch"), columns, lines)


def _mark(*rows: Row | None) -> str:
    """What follows a number that is made from rows, if one of them may not be trusted."""
    return MARK if any(row is not None and row.unstable for row in rows) else ""
