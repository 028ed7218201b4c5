"""The report as one self-contained HTML page: no script, and no font or picture from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined

from lenet import __version__
from lenet.architecture import FLOPS_PER_IMAGE, PARAMETER_COUNT
from lenet.measurement.floor import Limits, best_rate, copy_seconds, moved_bytes, peak_rate
from lenet.report import sheets, words
from lenet.report.charts import (
    Chart,
    Painter,
    Split,
    Trend,
    draw_architecture,
    draw_bars,
    draw_boxes,
    draw_curves,
    draw_lines,
    draw_splits,
)
from lenet.report.language import Language
from lenet.report.rounding import accuracy, count, ratio, significant, thousands
from lenet.report.sources import Machine, Sources, TrainingRun
from lenet.report.tables import (
    Sheet,
    conditions_title,
    group_reasons,
    limits_line,
    memory_name,
    parity_sheet,
    published_sheet,
    row_name,
    row_names,
    rows_sheets,
    speed_groups,
    speed_sheets,
)
from lenet.results import Measurement, Row, find_row, speedup
from lenet.terminal import visible
from lenet.vocabulary import BASELINE_BACKEND, Mode

__all__ = ["render"]

_T = TypeVar("_T")
Fact = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Speed:
    """Rows under the same conditions: their table, chart and analysis."""

    sheet: Sheet
    chart: Chart
    changes: Sequence[str]


@dataclass(frozen=True, slots=True)
class _MachinePart:
    """The page's content for one machine."""

    anchor: str
    name: str
    fingerprint: str
    facts: Sequence[Fact]
    packages: Sequence[Fact]
    measurements: Sequence[Measurement]
    protocols: Sequence[str]
    unstable: Sequence[Fact]
    speeds: Sequence[_Speed]
    rows: Sequence[Sheet]
    beside: Sheet | None
    boxes: Sequence[Chart]
    scaling: Sequence[Chart]
    limits: str
    floors: Sheet | None
    rooflines: Sequence[Chart]
    splits: Sequence[Chart]
    history: Sheet
    histories: Sequence[Chart]
    not_run: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class _Training:
    """The page's content for a training run."""

    recipe: Sheet
    facts: Sequence[Fact]
    charts: Sequence[Chart]


@dataclass(slots=True)
class _Page:
    """The values of the template."""

    language: Language
    architecture: Chart
    layers: Sheet
    parameters: Sheet
    qualities: Sheet
    published: Sheet
    published_changes: Sequence[str]
    sources: Sources
    version: str = __version__
    machines: Sequence[_MachinePart] = ()
    training: _Training | None = None
    parity: Sheet | None = None
    parity_not_run: Mapping[str, Sequence[str]] = field(default_factory=dict)
    gate: Sheet | None = None
    gate_not_run: Mapping[str, Sequence[str]] = field(default_factory=dict)
    glance: Sequence[tuple[str, str, str]] = ()


def render(sources: Sources, language: Language) -> str:
    """Render the page.

    Args:
        sources: What to show.
        language: The language.

    Returns:
        HTML. The same sources give the same bytes.
    """
    machines = [(machine, machine.rows) for machine in sources.machines]
    backends = sorted(
        {row.case.backend for _, rows in machines for row in rows}, key=lambda name: (name != "pytorch", name)
    )
    painter = Painter(language, backends)
    page = _Page(
        language=language,
        architecture=draw_architecture(painter, language.text("LeNet for CIFAR-10")),
        layers=sheets.layers_sheet(language),
        parameters=sheets.parameters_sheet(language),
        qualities=sheets.qualities_sheet(language),
        published=published_sheet(language),
        published_changes=words.published_changes(language),
        sources=sources,
    )
    if sources.run is not None:
        page.training = _training(sources.run, painter, language)
    if sources.parity is not None:
        lines = sources.parity["backends"]
        page.parity = parity_sheet(lines, language, sources.parity["data"]) if lines else None
        page.parity_not_run = group_reasons(sources.parity["not_run"])
    if sources.gate is not None:
        page.gate = sheets.gate_sheet(sources.gate, language)
        page.gate_not_run = group_reasons(sources.gate["not_run"])
    page.machines = [
        _machine(machine, rows, f"machine-{number}", painter, language)
        for number, (machine, rows) in enumerate(machines, 1)
    ]
    page.glance = list(_glance(sources, machines, language))
    filled = _environment(language).get_template("report.html").render(
        page=page, language=language, parameters=language.number(count(PARAMETER_COUNT)),
        flops=language.number(count(FLOPS_PER_IMAGE)),
    )  # fmt: skip
    return visible(filled)


def _environment(language: Language) -> Environment:
    environment = Environment(
        loader=PackageLoader("lenet.report"),
        autoescape=True,
        undefined=StrictUndefined,
        extensions=["jinja2.ext.i18n"],
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.install_gettext_translations(language.translations, newstyle=True)  # type: ignore[attr-defined]
    environment.filters["headings"] = _headings
    return environment


def _headings(columns: Sequence[str]) -> tuple[list[tuple[str, int, int]], list[str]]:
    """The two lines of a table's head: text, width and height of each upper cell, and the lower cells.

    Neighbours with the same first line share an upper cell.
    """
    above, below = [], []
    for first, group in groupby(columns, key=lambda heading: heading.partition("\n")[0]):
        cells = list(group)
        if "\n" in cells[0]:
            above.append((first, len(cells), 1))
            below += [cell.partition("\n")[2] for cell in cells]
        else:
            above += [(cell, 1, 2) for cell in cells]
    return above, below


def _training(run: TrainingRun, painter: Painter, language: Language) -> _Training:
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
    charts = (
        draw_curves(painter, run.history, "loss", text("Figure 1. Mean loss"), text("cross-entropy, nats")),
        draw_curves(
            painter, run.history, "accuracy", text("Figure 2. Accuracy"), text("images classified rightly, %%")
        ),
    )
    return _Training(sheets.recipe_sheet(run, language), facts, charts)


def _machine(machine: Machine, rows: Sequence[Row], anchor: str, painter: Painter, language: Language) -> _MachinePart:
    newest = machine.measurements[-1]
    limits = next((one.limits for one in reversed(machine.newest) if one.limits), None)
    speeds = [
        _Speed(
            sheet,
            draw_bars(painter, group, conditions_title(group, language)),
            [*words.changes(group, language), *words.copy_share(group, language)],
        )
        for group, sheet in zip(speed_groups(rows), speed_sheets(rows, language), strict=True)
    ]
    return _MachinePart(
        anchor=anchor,
        name=_name(newest.machine),
        fingerprint=newest.fingerprint,
        facts=_facts(newest.machine, language),
        packages=[
            (name, str(version)) for name, version in dict(_fact(newest.machine, "packages") or {}).items() if version
        ],
        measurements=machine.newest,
        protocols=_protocols(rows, language),
        unstable=[(name, why) for row, name in zip(rows, row_names(rows), strict=True) for why in row.unstable],
        speeds=speeds,
        rows=rows_sheets(rows, language) if rows else (),
        beside=sheets.beside_published_sheet(rows, language),
        boxes=_boxes(rows, painter, language),
        scaling=_scaling(rows, painter, language),
        limits=limits_line(limits, language) if limits else "",
        floors=sheets.floor_sheet(rows, language),
        rooflines=_rooflines(rows, limits, painter, language) if limits else (),
        splits=_splits(rows, limits, painter, language),
        history=sheets.history_sheet(machine.measurements, language),
        histories=_histories(machine.measurements, painter, language),
        not_run=group_reasons(machine.not_run),
    )


def _boxes(rows: Sequence[Row], painter: Painter, language: Language) -> list[Chart]:
    groups = _grouped([row for row in rows if row.samples], lambda row: row.case.conditions())
    return [draw_boxes(painter, group, _mode_title(group[0], language)) for group in groups]


def _scaling(rows: Sequence[Row], painter: Painter, language: Language) -> list[Chart]:
    """Time against the batch size, a chart for each group of rows that differ only in batch size and backend."""
    charts = []
    for group in _grouped(rows, _but_batch):
        trends = []
        for line in _grouped(group, lambda row: row.case.backend):
            points = sorted((row.case.batch_size, row.milliseconds_per_batch) for row in line)
            trends.append(Trend(line[0].case.backend, *map(list, zip(*points, strict=True))))
        if any(len(trend.x) > 1 for trend in trends):
            labels = (language.text("images a batch"), language.text("ms/batch"))
            charts.append(draw_lines(painter, trends, _mode_title(group[0], language, batch=False), labels))
    return charts


def _rooflines(rows: Sequence[Row], limits: Limits, painter: Painter, language: Language) -> list[Chart]:
    """Operations a second against operations a byte, with the measured limits; a chart for each precision."""
    text = language.text
    charts = []
    known = [row for row in rows if row.case.mode is Mode.FORWARD and row.floor is not None and not row.case.cold_cache]
    for group in _grouped(known, lambda row: (row.case.precision, row.case.input)):
        precision, kind = group[0].case.precision, group[0].case.input
        if (operations := peak_rate(precision, limits)) is None:
            continue
        trends = []
        for line in _grouped(group, lambda row: row.case.backend):
            work = [
                (FLOPS_PER_IMAGE * row.case.batch_size, moved_bytes(row.case.workload), row.summary.median)
                for row in line
            ]
            points = sorted((flops / moved, flops / seconds / 1e9) for flops, moved, seconds in work)
            trends.append(Trend(line[0].case.backend, *map(list, zip(*points, strict=True))))
        peak = operations / 1e9
        least, most = (bound(x for trend in trends for x in trend.x) for bound in (min, max))
        span = (least / 3, most * 3)
        roofs = [Trend(text("arithmetic"), span, (peak, peak))]
        rates = {
            text("main memory"): max(limits.memory)[1] / 1e9,
            text("fastest memory"): best_rate(limits.memory, 0) / 1e9,
        }
        for name, rate in rates.items():
            end = min(span[1], peak / rate)
            if end > span[0]:
                roofs.append(Trend(name, (span[0], end), (span[0] * rate, end * rate)))
        labels = (text("FLOP/byte"), text("GFLOP/s"))
        charts.append(draw_lines(painter, trends, f"{precision}, {kind}", labels, limits=roofs))
    return charts


def _splits(rows: Sequence[Row], limits: Limits | None, painter: Painter, language: Language) -> list[Chart]:
    """End-to-end times in parts, for rows whose forward pass was measured as well.

    The copy's part is the time of its bytes at the measured rate. Copy and synchronisation are one part if no rate was
    measured, or if the parts would exceed the whole, as when the copy overlaps the computation.
    """
    text, charts = language.text, []
    for group in speed_groups(rows):
        forward = {row.case.backend: row for row in group if row.case.mode is Mode.FORWARD}
        splits = []
        for row in group:
            own = forward.get(row.case.backend)
            if row.case.mode is not Mode.END_TO_END or own is None or own.summary.median >= row.summary.median:
                continue
            compute, rest = own.milliseconds_per_batch, row.milliseconds_per_batch - own.milliseconds_per_batch
            copy = 1e3 * copy_seconds(row.case.workload, limits) if limits and limits.copy else None
            if copy is None or copy > rest:
                parts = {text("forward pass"): compute, text("copy and synchronisation"): rest}
            else:
                other = text("launch and synchronisation")
                parts = {text("copy"): copy, text("forward pass"): compute, other: rest - copy}
            splits.append(Split(row.case.backend, parts))
        if splits:
            charts.append(draw_splits(painter, splits, conditions_title(group, language)))
    return charts


def _histories(measurements: Sequence[Measurement], painter: Painter, language: Language) -> list[Chart]:
    """The median of each row over a machine's measurements, for rows that are in two or more of them."""
    if len(measurements) < 2:  # noqa: PLR2004 - a line has two ends
        return []
    places = [(place, row) for place, one in enumerate(measurements) for row in one.rows]
    ticks = [f"{one.date[5:10]} {(one.commit or '?')[:7]}" for one in measurements]
    charts = []
    for group in _grouped(places, lambda placed: placed[1].case.conditions()):
        trends = []
        for line in _grouped(group, lambda placed: placed[1].case.backend):
            if len({place for place, _ in line}) > 1:
                values = {place: row.milliseconds_per_batch for place, row in line}
                trends.append(Trend(line[0][1].case.backend, list(values), list(values.values())))
        if trends:
            labels = ("", language.text("ms/batch"))
            title = _mode_title(group[0][1], language)
            charts.append(draw_lines(painter, trends, title, labels, x_log=False, ticks=ticks))
    return charts


def _grouped(items: Iterable[_T], key: Callable[[_T], Hashable]) -> list[list[_T]]:
    """Items by a key, in the order of the keys' first occurrence."""
    groups: dict[Hashable, list[_T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _but_batch(row: Row) -> Hashable:
    case = row.case
    return (case.mode, case.asked, case.input, case.device, case.images, case.host_memory, case.cold_cache)


def _mode_title(row: Row, language: Language, *, batch: bool = True) -> str:
    case, text = row.case, language.text
    words_of = [text("forward") if case.mode is Mode.FORWARD else text("end to end"), case.asked]
    if case.input != "float32":
        words_of.append(case.input)
    if batch:
        words_of.append(text("batch %(batch)s", batch=language.number(count(case.batch_size))))
    if case.host_memory:
        words_of.append(memory_name(case.host_memory, language))
    if case.cold_cache:
        words_of.append(text("cold cache"))
    if case.protocol == "adaptive":
        words_of.append(text("adaptive"))
    return ", ".join(words_of)


def _name(machine: Mapping[str, Any]) -> str:
    return str(_fact(machine, "gpu.name") or _fact(machine, "cpu.model") or "?")


def _fact(machine: Mapping[str, Any], path: str) -> Any:
    value: Any = machine
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _facts(machine: Mapping[str, Any], language: Language) -> list[Fact]:
    """The known facts of the machine."""
    text, number = language.text, language.number

    def gibibytes(size: Any) -> str | None:
        return f"{number(f'{size / 2**30:.0f}')} GiB" if isinstance(size, int | float) else None

    named = (
        (text("processor"), _fact(machine, "cpu.model")),
        (text("CPUs that may be used"), _fact(machine, "cpu.usable")),
        (text("threads of PyTorch"), _fact(machine, "torch.threads")),
        (text("memory"), gibibytes(_fact(machine, "memory_bytes"))),
        (text("system"), _fact(machine, "system.distribution")),
        (text("kernel"), _fact(machine, "system.kernel")),
        ("Python", _fact(machine, "python.version")),
        (text("graphics processor"), _fact(machine, "gpu.name")),
        (text("compute capability"), _fact(machine, "gpu.compute_capability")),
        (text("graphics memory"), gibibytes(_fact(machine, "gpu.memory_bytes"))),
        (text("power limit, W"), _fact(machine, "gpu.power_limit_w")),
        (text("driver"), _fact(machine, "gpu.driver")),
        ("CUDA", _fact(machine, "cuda.runtime")),
        ("cuDNN", _fact(machine, "cuda.cudnn")),
    )
    return [(name, str(value)) for name, value in named if value is not None]


def _protocols(rows: Sequence[Row], language: Language) -> list[str]:
    """The number of rounds, for each protocol."""
    said = []
    for group in _grouped(rows, lambda row: row.case.protocol):
        rounds = sorted({row.summary.rounds for row in group})
        span = language.text(" to ").join(language.number(count(one)) for one in dict.fromkeys((rounds[0], rounds[-1])))
        name = group[0].case.protocol
        words_of = {"coursework": language.text("the coursework's"), "adaptive": language.text("adaptive")}
        said.append(language.text("%(name)s: %(span)s rounds a row", name=words_of.get(name, name), span=span))
    return said


def _glance(
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
        where = _name(machine.measurements[-1].machine)
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
