"""Facts about a machine and its measurements, in the page's language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lenet.report.language import Language
from lenet.report.page.grouping import grouped
from lenet.report.rounding import count
from lenet.results import Measurement, Row

__all__ = ["Fact", "brief_facts", "machine_facts", "machine_name", "machine_names", "packages", "protocols"]

Fact = tuple[str, str]
"""A name and a value."""


def machine_name(machine: Mapping[str, Any]) -> str:
    """The GPU if there is one, otherwise the processor."""
    return str(_fact(machine, "gpu.name") or _fact(machine, "cpu.model") or "?")


def machine_names(newest: Sequence[Measurement]) -> list[str]:
    """The machines' names, by their newest measurements. Machines of one name also have the time of theirs."""
    names = [machine_name(one.machine) for one in newest]
    times = [_moment(one) if names.count(name) > 1 else "" for one, name in zip(newest, names, strict=True)]
    return [", ".join(filter(None, both)) for both in zip(names, times, strict=True)]


def machine_facts(machine: Mapping[str, Any], language: Language) -> list[Fact]:
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


def brief_facts(measurement: Measurement, language: Language) -> list[Fact]:
    """What the first screen says of a machine and its newest measurement, where it is known."""
    text, machine = language.text, measurement.machine
    named = (
        (text("processor"), _fact(machine, "cpu.model")),
        (text("driver"), _fact(machine, "gpu.driver")),
        ("PyTorch", _fact(machine, "packages.torch")),
        (text("commit"), (measurement.commit or text("unknown"))[:12]),
        (text("measured"), _moment(measurement)),
        (text("file"), measurement.path.name),
    )
    return [(name, str(value)) for name, value in named if value is not None]


def packages(machine: Mapping[str, Any]) -> list[Fact]:
    """The packages with their versions."""
    return [(name, str(version)) for name, version in dict(_fact(machine, "packages") or {}).items() if version]


def protocols(rows: Sequence[Row], language: Language) -> list[str]:
    """The number of rounds, for each protocol."""
    said = []
    for group in grouped(rows, lambda row: row.case.protocol):
        rounds = sorted({row.summary.rounds for row in group})
        span = language.text(" to ").join(language.number(count(one)) for one in dict.fromkeys((rounds[0], rounds[-1])))
        name = group[0].case.protocol
        words_of = {"coursework": language.text("the coursework's"), "adaptive": language.text("adaptive")}
        said.append(language.text("%(name)s: %(span)s rounds a row", name=words_of.get(name, name), span=span))
    return said


def _moment(measurement: Measurement) -> str:
    return measurement.date[:16].replace("T", " ")


def _fact(machine: Mapping[str, Any], path: str) -> Any:
    """The value under a dotted path, or None if the file does not hold it."""
    value: Any = machine
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
