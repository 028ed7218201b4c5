"""Names of rows, kinds of memory and limits, as tables and charts show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from lenet.report.language import Language
from lenet.report.tables.sheet import NOTHING
from lenet.results import Case, Row, pytorch_row
from lenet.vocabulary import HostMemory, Mode, threads_words

__all__ = [
    "MARK",
    "limit_name",
    "memory_name",
    "mode_name",
    "ratio_mark",
    "row_name",
    "row_names",
    "runtime_name",
    "weights_note",
]

MARK: Final = " !"
"""What follows a value of an unstable row."""


def row_name(case: Case, *, protocol: bool = True) -> str:
    """A case in a few words. They name the protocol if it is adaptive and the caller asks for it."""
    names = {Mode.FORWARD: "forward", Mode.END_TO_END: "e2e", Mode.THROUGHPUT: "throughput"}
    mode = " ".join(filter(None, (names[case.mode], case.host_memory)))
    kind = f"{' uint8' if case.input == 'uint8' else ''}{' cold' if case.cold_cache else ''}"
    kind += f" {threads_words(case.threads)}" if case.threads else ""
    kind += f" depth {case.depth}" if case.depth else ""
    kind += " adaptive" if protocol and case.protocol == "adaptive" else ""
    return f"{runtime_name(case)} {mode} {case.asked} {case.batch_size}{kind}"


def row_names(rows: Sequence[Row]) -> list[str]:
    """Each row's name, without the protocol and the weights that all rows share."""
    protocol = len({row.case.protocol for row in rows}) > 1
    weights = len({row.case.weights for row in rows}) > 1
    return [
        row_name(row.case, protocol=protocol) + (f" {(row.case.weights or NOTHING)[:12]}" if weights else "")
        for row in rows
    ]


def ratio_mark(row: Row, rows: Iterable[Row]) -> str:
    """The mark of a row's ratio to PyTorch: `MARK` if one of the two rows is unstable."""
    baseline = pytorch_row(row, rows)
    return MARK if row.unstable or (baseline is not None and baseline.unstable) else ""


def runtime_name(case: Case) -> str:
    """The backend, with the precision that it ran if another one was asked for."""
    return case.backend if case.precision == case.asked else f"{case.backend} ({case.precision})"


def memory_name(memory: str, language: Language) -> str:
    """The words for a kind of host memory."""
    text = language.text
    names: Mapping[str, str] = {
        HostMemory.PINNED: text("pinned memory"),
        HostMemory.PAGEABLE: text("pageable memory"),
        HostMemory.ZERO_COPY: text("pinned memory, zero-copy"),
    }
    return names.get(memory, memory)


def mode_name(mode: Mode, language: Language) -> str:
    """The words for a mode."""
    text = language.text
    names = {
        Mode.FORWARD: text("forward"),
        Mode.END_TO_END: text("end to end"),
        Mode.THROUGHPUT: text("throughput"),
    }
    return names[mode]


def limit_name(term: str, language: Language) -> str:
    """The word for a limit of the machine."""
    text = language.text
    names = {"arithmetic": text("arithmetic"), "memory": text("memory"), "copy": text("copy"), "launch": text("launch")}
    return names.get(term, term)


def weights_note(rows: Sequence[Row], language: Language) -> str:
    """The digests of the rows' weights, shortened to 12 digits; empty if the files do not have them."""
    found = ", ".join(sorted({row.case.weights[:12] for row in rows if row.case.weights}))
    return language.text("weights %(digest)s", digest=found) if found else ""
