"""The coursework's speed tables: measured and published."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from lenet.report.language import ENGLISH, Language
from lenet.report.rounding import count, ratio, significant
from lenet.report.tables.names import MARK, memory_name, ratio_mark, runtime_name, weights_note
from lenet.report.tables.sheet import NOTHING, Sheet, of_columns
from lenet.results import Case, Row, speedup
from lenet.results.published import BATCH_SIZE, FIGURES, MACHINE, Figure, ratio_to_pytorch
from lenet.vocabulary import BASELINE_BACKEND, ONE_BATCH_MODES, HostMemory, InputType, Mode, Precision

__all__ = [
    "conditions_title",
    "distance",
    "narrow_speed_sheets",
    "published_sheet",
    "shared_notes",
    "speed_groups",
    "speed_sheets",
    "telling_case",
]


def speed_sheets(rows: Sequence[Row], language: Language = ENGLISH, *, others: Sequence[Row] = ()) -> list[Sheet]:
    """The coursework's speed tables: one for each combination of batch size, precision and other conditions.

    A table has a line for each backend, with both modes. A ratio is a row's median divided by PyTorch's median under
    the same conditions.

    Args:
        rows: The measured rows.
        language: Language of headings and numbers.
        others: Rows of another run on the same machine. PyTorch's row is taken from there if ``rows`` has none.
    """
    return [_speed_sheet(group, [*rows, *others], language) for group in speed_groups(rows)]


def narrow_speed_sheets(rows: Sequence[Row], *, others: Sequence[Row] = ()) -> list[Sheet]:
    """`speed_sheets` for a terminal of 80 columns: where joules stand, they take the place of the time an image."""
    found = []
    for sheet in speed_sheets(rows, others=others):
        joules = any(column.endswith("\nJ/1000") for column in sheet.columns)
        columns = enumerate(sheet.columns)
        found.append(of_columns(sheet, [at for at, name in columns if not (joules and name.endswith("\nms/image"))]))
    return found


def speed_groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that may stand in one table or chart, a list for each sheet of `speed_sheets`. Throughput is in none."""
    ordered = sorted((row for row in rows if row.case.mode in ONE_BATCH_MODES), key=lambda row: _conditions(row.case))
    groups = []
    for _, group in groupby(ordered, key=lambda row: _conditions(row.case)):
        alike = list(group)
        memories = dict.fromkeys(row.case.host_memory for row in alike if row.case.mode is Mode.END_TO_END)
        groups += [[row for row in alike if row.case.host_memory in {None, memory}] for memory in memories or (None,)]
    return groups


def telling_case(group: Sequence[Row]) -> Case:
    """The case of an end-to-end row, which names the host's memory, or else of any row."""
    return next((row for row in group if row.case.mode is Mode.END_TO_END), group[0]).case


def distance(case: Case) -> tuple[object, ...]:
    """How a case differs from the coursework's condition, by importance. The protocol and the threads come last."""
    return (
        abs(case.batch_size - BATCH_SIZE),
        case.asked != Precision.FP32,
        case.input != InputType.FLOAT32,
        case.host_memory not in {HostMemory.PINNED, None},
        case.cold_cache,
        case.protocol != "coursework",
        -(case.cpu_threads or 0),
    )


def published_sheet(language: Language = ENGLISH) -> Sheet:
    """The coursework's published figures, in the same form. They were measured elsewhere."""
    number = language.number
    lines = []
    for runtime, group in groupby(FIGURES, key=lambda figure: figure.runtime):
        figures: dict[Mode, Figure] = {figure.mode: figure for figure in group}
        cells = []
        for mode in ONE_BATCH_MODES:
            figure = figures[mode]
            batch, image = f"{figure.milliseconds_per_batch:.3f}", f"{figure.milliseconds_per_image:.4f}"
            cells += [number(batch), number(image), number(ratio(ratio_to_pytorch(figure)))]
        lines.append((runtime, *cells))
    title = language.text(
        "Published by the coursework: batch about %(batch)s, %(machine)s",
        batch=number(count(BATCH_SIZE)),
        machine=MACHINE,
    )
    caption = language.text("mean of 100 runs after 5 warm-ups; not measured here")
    return Sheet(title, _speed_columns(language), tuple(lines), caption)


def conditions_title(group: Sequence[Row], language: Language) -> str:
    """The conditions that the rows of one of the `speed_groups` share, in one line."""
    case, text = group[0].case, language.text
    batch = language.number(count(case.batch_size))
    title = text(
        "LeNet, batch %(batch)s, %(asked)s, %(device)s, %(input)s images",
        batch=batch,
        asked=case.asked,
        device=language.known(case.device),
        input=case.input,
    )
    for memory in sorted({row.case.host_memory for row in group if row.case.host_memory}):
        title += text(", end-to-end from %(memory)s", memory=memory_name(memory, language))
    title += text(", cold cache") if case.cold_cache else ""
    return title + (", " + text("adaptive") if case.protocol == "adaptive" else "")


def _conditions(case: Case) -> tuple[int, str, str, int, str, bool, str, str, str]:
    """What two rows must share to stand in one table. A forward row stands in the table of each kind of host memory."""
    where = (case.cpu_threads or 0, case.device, case.images)
    return (*where, -case.batch_size, case.asked, case.cold_cache, case.protocol, case.input, case.weights or "")


def _speed_columns(language: Language, *, energy: bool = False) -> tuple[str, ...]:
    text = language.text
    units = (text("ms/batch"), text("ms/image"), text("ratio"), *([text("J/1000")] if energy else []))
    return (text("runtime"), *(f"{mode}\n{unit}" for mode in (text("forward"), text("e2e")) for unit in units))


def _speed_sheet(group: list[Row], rows: Sequence[Row], language: Language) -> Sheet:
    energy = any(row.energy for row in group)
    lines = []
    for backend, label in dict.fromkeys((row.case.backend, runtime_name(row.case)) for row in group):
        figures = (_cells(group, backend, mode, rows, language) for mode in ONE_BATCH_MODES)
        cells = [cell for one in figures for cell in one[: 4 if energy else 3]]
        lines.append((label, *cells))
    notes = [shared_notes(group, language)]
    if any(row.unstable for row in group):
        notes.append(language.text("! is unstable: see its row"))
    columns = _speed_columns(language, energy=energy)
    return Sheet(conditions_title(group, language), columns, tuple(lines), "; ".join(notes))


def shared_notes(rows: Sequence[Row], language: Language) -> str:
    """What a caption says of rows: their images, rounds and weights, and the unit of energy where they have it."""
    rounds = sorted({row.summary.rounds for row in rows})
    between = language.text(" or ") if len(rounds) <= 2 else language.text(" to ")  # noqa: PLR2004 - some were discarded
    either = between.join(str(count) for count in dict.fromkeys((rounds[0], rounds[-1])))
    images = dict.fromkeys(language.known(row.case.images) for row in rows)
    notes = [*images, language.text("median of %(rounds)s rounds", rounds=either), weights_note(rows, language)]
    if any(row.energy for row in rows):
        notes.append(language.text("J/1000: joules for 1,000 images"))
    return "; ".join(filter(None, notes))


def _cells(group: list[Row], backend: str, mode: Mode, rows: Sequence[Row], language: Language) -> list[str]:
    found = next((row for row in group if row.case.backend == backend and row.case.mode == mode), None)
    if found is None:
        return [NOTHING] * 4
    number = language.number
    faster = speedup(found, rows)
    mark = MARK if found.unstable else ""
    relative = NOTHING if faster is None else number(ratio(1 / faster)) + ratio_mark(found, rows)
    return [
        number(significant(found.milliseconds_per_batch)) + mark,
        number(significant(found.milliseconds_per_image)),
        relative if backend != BASELINE_BACKEND else number(ratio(1.0)),
        number(significant(found.energy.joules_per_1000_images)) if found.energy else NOTHING,
    ]
