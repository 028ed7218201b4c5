"""Tables in the coursework's form, for the terminal, for Markdown and for the report, in a language."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult  # noqa: TID251 - for a type
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lenet.measurement.floor import Limits
from lenet.report.language import ENGLISH, Language
from lenet.report.rounding import accuracy, count, delta, loss, ratio, significant, thousands
from lenet.results import Case, Measurement, NotRun, Row, not_run, speedup
from lenet.results.published import BATCH_SIZE, FIGURES, MACHINE, Figure, ratio_to_pytorch
from lenet.terminal import Terminal, visible
from lenet.vocabulary import BASELINE_BACKEND, HostMemory, Mode

__all__ = [
    "Sheet",
    "backends_table",
    "conditions_title",
    "doctor_table",
    "first_names",
    "group_reasons",
    "limit_name",
    "limits_line",
    "memory_name",
    "parity_sheet",
    "parity_table",
    "print_whole",
    "published_sheet",
    "remarks",
    "results_markdown",
    "row_name",
    "row_names",
    "rows_sheets",
    "sheet_5",
    "significant",
    "speed_groups",
    "speed_sheets",
    "to_markdown",
    "to_rich",
]

_NOTHING = "-"
_UNBOUNDED = 10_000


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table of texts, for the terminal, Markdown or a page.

    Attributes:
        title: What it shows.
        columns: Headings; they may hold a line break.
        lines: Cells of each line, as many as there are columns.
        caption: Conditions and notes.
    """

    title: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    caption: str = ""


def sheet_5(rows: Sequence[Row], missing: Iterable[NotRun] = (), *, others: Sequence[Row] = ()) -> RenderableType:
    """The speed tables, then the published one, then what was not run and why.

    Args:
        rows: What was measured.
        missing: What was not, and why.
        others: As of `speed_sheets`.
    """
    sheets = [*speed_sheets(rows, others=others), *([published_sheet()] if rows else [])]
    return Group(*map(to_rich, sheets), *_not_run({item.name: item.reason for item in missing}))


def speed_sheets(rows: Sequence[Row], language: Language = ENGLISH, *, others: Sequence[Row] = ()) -> list[Sheet]:
    """The coursework's speed table for each batch size, precision and condition: a line a backend, both modes.

    Ratios are of medians, to PyTorch's row under the same conditions.

    Args:
        rows: What was measured.
        language: Of the texts.
        others: Rows of another run of the machine, for the ratios of rows that have no row of PyTorch beside them.
    """
    return [_speed_sheet(group, [*rows, *others], language) for group in speed_groups(rows)]


def speed_groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that may stand in one table or chart, a list for each sheet of `speed_sheets`."""
    ordered = sorted(rows, key=lambda row: _conditions(row.case))
    groups = []
    for _, group in groupby(ordered, key=lambda row: _conditions(row.case)):
        alike = list(group)
        memories = dict.fromkeys(row.case.host_memory for row in alike if row.case.mode is Mode.END_TO_END)
        groups += [[row for row in alike if row.case.host_memory in {None, memory}] for memory in memories or (None,)]
    return groups


def published_sheet(language: Language = ENGLISH) -> Sheet:
    """The coursework's published figures, in the same form. They were measured elsewhere."""
    number = language.number
    lines = []
    for runtime, group in groupby(FIGURES, key=lambda figure: figure.runtime):
        figures: dict[Mode, Figure] = {figure.mode: figure for figure in group}
        cells = []
        for mode in Mode:
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


def rows_sheets(rows: Sequence[Row], language: Language = ENGLISH, *, others: Sequence[Row] = ()) -> list[Sheet]:
    """Every row with the columns that people tune by: one sheet of times, one of rates and memory.

    Args:
        rows: What was measured.
        language: Of the texts.
        others: As of `speed_sheets`.
    """
    number, text = language.number, language.text
    times, rates = [], []
    protocol = ", " + text("adaptive") if {row.case.protocol for row in rows} == {"adaptive"} else ""
    for row, name in zip(rows, row_names(rows), strict=True):
        faster = speedup(row, [*rows, *others])
        wall = _NOTHING if row.wall_median is None else number(significant(1e3 * row.wall_median))
        memory = _NOTHING if row.peak_memory_bytes is None else number(f"{row.peak_memory_bytes / 2**20:,.0f}") + " MiB"
        spread = [number(significant(1e3 * value)) for value in (row.summary.p95, row.summary.p99, row.summary.iqr)]
        error = _NOTHING if row.max_abs_delta is None else number(f"{row.max_abs_delta:.0e}")
        times.append((name, number(significant(row.milliseconds_per_batch)), *spread, wall, error))
        rate = number(thousands(row.images_per_second))
        gain = _NOTHING if faster is None else number(ratio(faster)) + "x"
        limit = _NOTHING
        if row.floor is not None and row.times_floor is not None:
            limit = f"{number(significant(row.times_floor))}x {limit_name(row.floor.term, language)}"
        rates.append((name, number(significant(row.microseconds_per_image)), rate, gain, limit, memory))
    return [
        Sheet(
            text("Times, ms/batch") + protocol,
            (text("row"), text("median"), "p95", "p99", text("IQR"), text("wall"), text("error")),
            tuple(times),
            text(
                "wall: median wall time of the same forward calls, launch included, where device time is what counts; "
                "images are normalised float32 where a row does not say uint8; error: the largest of a logit, against "
                "float64"
            ),
        ),
        Sheet(
            text("Rates") + protocol,
            (text("row"), text("us/image"), text("images/s"), text("speed-up"), text("floor"), text("memory")),
            tuple(rates),
            text(
                "of the median; speed-up over PyTorch under the same conditions; floor: how many times longer than the "
                "machine's limits allow, and the limit that is nearest; memory: peak on the device"
            ),
        ),
    ]


def remarks(rows: Sequence[Row]) -> list[str]:
    """Why each row marked ``!`` is uncertain, and what to do: a line for each row, named as in `rows_sheets`."""
    names = zip(rows, row_names(rows), strict=True)
    return [f"{name}: {'; '.join(row.unstable)}" for row, name in names if row.unstable]


def limits_line(limits: Limits, language: Language = ENGLISH) -> str:
    """The machine's limits in one line: rates of the largest buffers, times of the shortest work."""
    number, text = language.number, language.text
    arithmetic = ", ".join(f"{name} {number(significant(rate / 1e12))}" for name, rate in limits.arithmetic.items())
    copies = "".join(
        text(
            ", from %(memory)s %(rate)s",
            memory=memory_name(kind, language),
            rate=number(significant(max(rates)[1] / 1e9)),
        )
        for kind, rates in limits.copy.items()
    )
    return text(
        "Limits, measured: %(arithmetic)s TFLOP/s; memory %(memory)s%(copies)s GB/s; "
        "launch %(launch)s us, %(wall)s us by the wall clock.",
        arithmetic=arithmetic,
        memory=number(significant(max(limits.memory)[1] / 1e9)),
        copies=copies,
        launch=number(significant(1e6 * limits.launch)),
        wall=number(significant(1e6 * limits.launch_wall)),
    )


def print_whole(*what: RenderableType) -> None:
    """Print to standard output. In a log or a file, lines are 120 columns wide."""
    console = Terminal()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    console.print(*what, crop=False)


class _FittingTable(Table):
    """A table that never cuts a cell. In a narrow terminal its columns move together, or its lines are too long.

    rich's own table drops the first column and then the ends of numbers.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unbounded = options.update(width=_UNBOUNDED)
        if self.__rich_measure__(console, unbounded).maximum > options.max_width:
            self.padding, self.show_edge = (0, 0, 0, 0), False
            yield ""
        least = self.__rich_measure__(console, unbounded).minimum
        yield from super().__rich_console__(console, options.update(width=max(options.max_width, least)))


def to_rich(sheet: Sheet) -> Table:
    """The sheet for the terminal: the first column to the left, numbers to the right.

    Print it with ``crop=False``, and nothing is cut off.
    """
    # Names come from files, so rich's markup in them is text.
    title, caption = escape(sheet.title), escape(sheet.caption)
    table = _FittingTable(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.box = SIMPLE_HEAD
    for number, heading in enumerate(sheet.columns):
        table.add_column(heading, justify="right" if number else "left", overflow="fold", no_wrap=number > 0)
    words = (word for line in sheet.lines for word in visible(line[0]).split())
    table.columns[0].min_width = max(map(len, words), default=0)
    for line in sheet.lines:
        table.add_row(*map(escape, line))
    return table


def to_markdown(sheet: Sheet) -> str:
    """The sheet as a Markdown table under a heading."""
    columns = [heading.replace("\n", " ") for heading in sheet.columns]
    rule = ["---", *["---:"] * (len(columns) - 1)]
    lines = [
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
        for line in (columns, rule, *sheet.lines)
    ]
    return "\n".join([f"### {sheet.title}", "", *lines, "", *([sheet.caption, ""] if sheet.caption else [])])


def results_markdown(measurements: Sequence[Measurement], rows: Sequence[Row]) -> str:
    """Measurements as a Markdown page: the conditions, the speed tables, all rows with remarks, and what was not run.

    Args:
        measurements: The files, of one machine and commit.
        rows: Their merged rows.
    """
    machine = measurements[0].machine
    packages = [f", {name} {version}" for name, version in (machine.get("packages") or {}).items() if version]

    def fact(part: str, name: str) -> str:
        return str((machine.get(part) or {}).get(name, "unknown"))

    on_gpu = bool(machine.get("gpu"))
    parts = [
        f"# LeNet on {fact('gpu', 'name') if on_gpu else fact('cpu', 'model')}",
        "",
        "Generated by `lenet results --markdown`; times are medians. Files:",
        "",
        *(f"- {measurement.describe()}" for measurement in measurements),
        "",
        f"Machine: {fact('cpu', 'model')}, {fact('cpu', 'usable')} CPUs, {fact('system', 'distribution')};",
        f"Python {fact('python', 'version')}{''.join(packages)}.",
    ]
    if on_gpu:
        parts.append(
            f"GPU: {fact('gpu', 'name')}, compute capability {fact('gpu', 'compute_capability')}, limit "
            f"{fact('gpu', 'power_limit_w')} W, driver {fact('gpu', 'driver')}, CUDA {fact('cuda', 'runtime')}, "
            f"cuDNN {fact('cuda', 'cudnn')}."
        )
    limits = next((measurement.limits for measurement in measurements if measurement.limits), None)
    if limits:
        parts.append(limits_line(limits))
    sheets = [*speed_sheets(rows), published_sheet(), *rows_sheets(rows)]
    reasons = {item.name: item.reason for item in not_run(measurements)}
    unstable = [f"- {remark}" for remark in remarks(rows)]
    missing = [f"- {text.plain.strip()}" for text in _not_run(reasons)[1:]]
    lines = [*parts, "", *map(to_markdown, sheets)]
    lines += ["### Unstable rows", "", *unstable, *([""] if missing else [])] if unstable else []
    return "\n".join([*lines, *(["### Not run", "", *missing] if missing else [])])


def _speed_columns(language: Language) -> tuple[str, ...]:
    text = language.text
    units = (text("ms/batch"), text("ms/image"), text("ratio"))
    return (text("runtime"), *(f"{mode}\n{unit}" for mode in (text("forward"), text("e2e")) for unit in units))


def _conditions(case: Case) -> tuple[str, str, int, str, bool, str, str]:
    """What two rows must share to stand in one table. A forward row stands in the table of each kind of host memory."""
    return (case.device, case.images, -case.batch_size, case.asked, case.cold_cache, case.protocol, case.input)


def _speed_sheet(group: list[Row], rows: Sequence[Row], language: Language) -> Sheet:
    lines = []
    for backend, label in dict.fromkeys((row.case.backend, _runtime(row.case)) for row in group):
        cells = [cell for mode in Mode for cell in _cells(group, backend, mode, rows, language)]
        lines.append((label, *cells))
    rounds = sorted({row.summary.rounds for row in group})
    between = language.text(" or ") if len(rounds) <= 2 else language.text(" to ")  # noqa: PLR2004 - some were discarded
    either = between.join(str(count) for count in dict.fromkeys((rounds[0], rounds[-1])))
    notes = [language.known(group[0].case.images), language.text("median of %(rounds)s rounds", rounds=either)]
    if any(row.unstable for row in group):
        notes.append(language.text("! is unstable: see its row"))
    return Sheet(conditions_title(group, language), _speed_columns(language), tuple(lines), "; ".join(notes))


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


def memory_name(memory: str, language: Language) -> str:
    """The words for a kind of host memory."""
    text = language.text
    zero_copy = text("pinned memory, zero-copy")
    names: Mapping[str, str] = {
        HostMemory.PINNED: text("pinned memory"),
        HostMemory.PAGEABLE: text("pageable memory"),
        HostMemory.ZERO_COPY: zero_copy,
    }
    return names.get(memory, memory)


def limit_name(term: str, language: Language) -> str:
    """The word for a limit of the machine."""
    text = language.text
    names = {"arithmetic": text("arithmetic"), "memory": text("memory"), "copy": text("copy"), "launch": text("launch")}
    return names.get(term, term)


def _cells(group: list[Row], backend: str, mode: Mode, rows: Sequence[Row], language: Language) -> list[str]:
    found = next((row for row in group if row.case.backend == backend and row.case.mode == mode), None)
    if found is None:
        return [_NOTHING] * 3
    number = language.number
    faster = speedup(found, rows)
    mark = " !" if found.unstable else ""
    relative = _NOTHING if faster is None else number(ratio(1 / faster))
    return [
        number(significant(found.milliseconds_per_batch)) + mark,
        number(significant(found.milliseconds_per_image)),
        relative if backend != BASELINE_BACKEND else number(ratio(1.0)),
    ]


def _runtime(case: Case) -> str:
    return case.backend if case.precision == case.asked else f"{case.backend} ({case.precision})"


def row_name(case: Case, *, protocol: bool = True) -> str:
    """A case in a few words. They name the protocol if it is adaptive and the caller asks for it."""
    mode = "forward" if case.mode is Mode.FORWARD else f"e2e {case.host_memory}"
    kind = f"{' uint8' if case.input == 'uint8' else ''}{' cold' if case.cold_cache else ''}"
    kind += " adaptive" if protocol and case.protocol == "adaptive" else ""
    return f"{_runtime(case)} {mode} {case.asked} {case.batch_size}{kind}"


def row_names(rows: Sequence[Row]) -> list[str]:
    """Each row's name, without the protocol if all rows share one."""
    protocol = len({row.case.protocol for row in rows}) > 1
    return [row_name(row.case, protocol=protocol) for row in rows]


def backends_table(lines: Sequence[Mapping[str, str | None]], *, probed: bool) -> Table:
    """The table of backends: name, summary, the library's version, and whether the backend is available.

    Args:
        lines: ``name``, ``summary``, ``version`` and ``reason`` (None if it is available) of each.
        probed: Whether the backends were probed, or only looked up among the installed distributions.
    """
    table = Table()
    table.add_column("backend", style="bold", no_wrap=True)
    table.add_column("what it is")
    table.add_column("version")
    table.add_column("runs here" if probed else "installed", overflow="fold")
    for line in lines:
        state = f"no: {line['reason']}" if line["reason"] else "yes"
        table.add_row(line["name"], line["summary"], line["version"] or "-", escape(state))
    return table


def parity_sheet(lines: Sequence[Mapping[str, Any]], language: Language = ENGLISH, data: str = "") -> Sheet:
    """The coursework's quality table (sheet 4): loss and accuracy of each backend, and how far its logits are off.

    Args:
        lines: `lenet.comparison.Agreement` as JSON, at least one.
        language: Language of headings and numbers.
        data: What the images are, if it is known.
    """
    number, text = language.number, language.text

    def shown(value: float | None, rounded: Callable[[float], str]) -> str:
        return text("not finite") if value is None else number(rounded(value))

    cells = []
    for line in lines:
        layer = line["diverging_layer"] or text("unknown layer")
        deltas = (line["delta_loss"], line["delta_accuracy"])
        cells.append(
            (
                line["backend"],
                line["precision"],
                shown(line["loss"], loss),
                number(accuracy(line["accuracy"])),
                *(_NOTHING if value is None else number(delta(value)) for value in deltas),
                shown(line["max_abs_delta"], delta),
                shown(line["share_of_tolerance"], partial(significant, digits=2)),
                text("yes") if line["right"] else text("NO: %(layer)s", layer=layer),
            )
        )
    headings = (
        *(text("runtime"), text("runs"), text("loss"), text("accuracy"), text("delta\nloss"), text("delta\naccuracy")),
        *(text("logits"), text("of tol."), text("right")),
    )
    return Sheet(
        language.plural("LeNet on %(count)s image", "LeNet on %(count)s images", lines[0]["images"]),
        headings,
        tuple(cells),
        "; ".join(
            (
                *([language.known(data)] if data else []),
                text("delta: against PyTorch; logits: largest difference from float64, and its share of the tolerance"),
                *(f"{line['backend']}: {line['reason']}" for line in lines if line.get("reason")),
            )
        ),
    )


def parity_table(lines: Sequence[Mapping[str, Any]], not_run: Mapping[str, str], data: str = "") -> RenderableType:
    """`parity_sheet` for the terminal, and the backends that did not run, with the reason."""
    return Group(*([to_rich(parity_sheet(lines, data=data))] if lines else []), *_not_run(not_run))


def doctor_table(machine: Mapping[str, str | None], lines: Sequence[Mapping[str, Any]]) -> RenderableType:
    """What worked of each backend, then advice and the log's tail for each that failed.

    Args:
        machine: Versions and the device.
        lines: `lenet.comparison.doctor.Examination` as JSON.
    """
    present = ", ".join(f"{name} {version}" for name, version in machine.items() if version)
    table = Table()
    table.add_column("backend", style="bold", no_wrap=True)
    table.add_column("version")
    table.add_column("runs")
    for step in _STEPS:
        table.add_column(step, justify="right")
    for line in lines:
        steps = {step["name"]: f"{step['seconds']:.1f} s" if step["passed"] else "no" for step in line["steps"]}
        cells = [steps.get(step, "-") for step in _STEPS]
        table.add_row(line["backend"], line["version"] or "-", line["precision"] or "-", *cells)
    details: list[RenderableType] = []
    for line in lines:
        if line["passed"]:
            details.append(Text(f"{line['backend']}: {line['steps'][-1]['message']}"))
            continue
        failed = line["steps"][-1]
        details.append(Text(f"{line['backend']}: {failed['name']}: {failed['message']}", style="bold"))
        if line["advice"] and line["advice"] != failed["message"]:
            details.append(Text(f"  next: {line['advice']}"))
        if line["advice"] != failed["message"]:
            details += [Text(f"  | {text}") for text in line["log"][-_LOG_LINES:]]
    return Group(Text(present), table, *details)


def group_reasons(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """Each reason once, with all cases that it kept from running."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    return by_reason


def first_names(names: Sequence[str]) -> str:
    """The first names, and the number of the others."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _not_run(reasons: Mapping[str, str]) -> list[Text]:
    if not reasons:
        return []
    lines = []
    for reason, names in group_reasons(reasons).items():
        lines.append(Text(f"  {first_names(names)}: {reason}"))
    return [Text("Not run:", style="bold"), *lines]


_LOG_LINES = 20
"""Number of a log's last lines to show; ``--json`` has all."""

_NAMED = 8
"""Number of cases to name in a line; the saved file has all."""

_STEPS = ("import", "build", "run", "compare")
