"""Reads the files of a report. A file that cannot be read is named with the reason, and the others are kept."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from lenet import documents, results
from lenet.errors import ResultsError
from lenet.files import read_regular
from lenet.results import Gate, Measurement, Row
from lenet.results.published import RECIPE

__all__ = ["Machine", "Sources", "TrainingRun", "read"]

_MOST: Final = 1e30
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """A run directory of ``lenet train``.

    Attributes:
        facts: Content of ``run.json``.
        history: The rows of ``history.csv``.
    """

    facts: Mapping[str, Any]
    history: Sequence[dict[str, float]]


@dataclass(frozen=True, slots=True)
class Machine:
    """The measurements of one machine, the oldest first.

    Attributes:
        measurements: All measurements with one fingerprint.
    """

    measurements: Sequence[Measurement]

    @property
    def newest(self) -> Sequence[Measurement]:
        """The measurements of the newest commit, which may be merged. If the commit is unknown, the newest alone."""
        if self.measurements[-1].of_unknown_sources:
            return self.measurements[-1:]
        return [one for one in self.measurements if one.commit == self.measurements[-1].commit]

    @property
    def rows(self) -> Sequence[Row]:
        """Rows of the newest commit; of rows of the same case, the latest."""
        return results.merge(self.newest)

    @property
    def not_run(self) -> dict[str, str]:
        """The cases of the newest commit that were not measured, with the reason."""
        return {item.name: item.reason for item in results.not_run(self.newest)}


@dataclass(frozen=True, slots=True)
class Sources:
    """Everything that could be read.

    Attributes:
        machines: The machines, the one with the newest measurement first.
        run: The training run.
        parity: What ``lenet evaluate --backend all --json`` printed.
        gates: The last gates, the newest first.
        problems: The files that could not be read.
        example: Whether the measurements are the shipped ones of another machine.
    """

    machines: Sequence[Machine] = ()
    run: TrainingRun | None = None
    parity: Mapping[str, Any] | None = None
    gates: Sequence[Gate] = ()
    problems: Sequence[ResultsError] = field(default=())
    example: bool = False


def read(
    files: Sequence[Path],
    *,
    run: Path | None = None,
    parity: Path | None = None,
    gates: Sequence[Path] = (),
    passed_over: Sequence[ResultsError] = (),
    example: bool = False,
    show: Callable[[Sources], object] | None = None,
) -> Sources:
    """Read the files of a report.

    Args:
        files: Measurements, of any machines and commits.
        run: A run directory.
        parity: Output of ``lenet evaluate --backend all --json``.
        gates: Files of the gate, in any order.
        passed_over: Why other files could not be read.
        example: Whether the measurements are the shipped ones of another machine.
        show: Called with each file alone. A file for which it fails counts as one that cannot be read.
    """
    attempt = _Attempts(show)

    def load(path: Path) -> Measurement | None:
        return attempt(results.load, path, lambda found: Sources([Machine([found])]))

    def load_gate(path: Path) -> Gate | None:
        return attempt(results.load_gate, path, lambda found: Sources(gates=[found]))

    return Sources(
        _by_machine([one for path in dict.fromkeys(files) if (one := load(path)) is not None]),
        attempt(_read_run, run, lambda found: Sources(run=found)),
        attempt(_read_parity, parity, lambda found: Sources(parity=found)),
        sorted(filter(None, map(load_gate, dict.fromkeys(gates))), key=lambda one: one.started, reverse=True),
        [*passed_over, *attempt.problems],
        example,
    )


class _Attempts:
    """Reads files one by one, and keeps the reason for each that cannot be read or shown.

    Args:
        show: As for `read`.

    Attributes:
        problems: These reasons.
    """

    def __init__(self, show: Callable[[Sources], object] | None) -> None:
        self._show = show
        self.problems: list[ResultsError] = []

    def __call__(self, reader: Callable[[Path], _T], path: Path | None, alone: Callable[[_T], Sources]) -> _T | None:
        """What ``reader`` finds in a file; None where there is no file or it has a problem.

        Args:
            reader: Reads the file.
            path: The file, if one was named.
            alone: Makes sources of this file alone, to be shown.
        """
        try:
            found = None if path is None else reader(path)
            if found is not None and self._show is not None:
                self._show(alone(found))
        except ResultsError as error:
            self.problems.append(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other files are reported
            self.problems.append(_unusable(f"{path} cannot be shown", f"{type(error).__name__}: {error}"))
        else:
            return found
        return None


def _unusable(summary: str, found: str) -> ResultsError:
    return ResultsError(
        summary, found=found, wanted="what the page can hold", hint="make the file anew, or leave it out"
    )


def _by_machine(measurements: Sequence[Measurement]) -> list[Machine]:
    machines: dict[str, list[Measurement]] = {}
    for one in sorted(measurements, key=lambda one: one.ended, reverse=True):
        machines.setdefault(one.fingerprint, []).insert(0, one)
    return [Machine(found) for found in machines.values()]


def _read_run(directory: Path) -> TrainingRun:
    def interpret(text: str) -> TrainingRun:
        facts = documents.parse(text)
        table = io.StringIO(read_regular(directory / "history.csv", results.LARGEST).decode(), newline="")
        history = [{name: _finite(value) for name, value in row.items()} for row in csv.DictReader(table)]
        if not history:
            raise ValueError("history.csv holds no epoch")
        columns = ("epoch", "train_loss", "test_loss", "train_accuracy", "test_accuracy")
        _require(history[0], *columns)
        _require(facts["recipe"], *RECIPE, "seed")
        _require(facts, "device", "versions", "commit", "times")
        _finite(facts["times"]["training_seconds"])
        _whole(facts["times"]["images_an_epoch"])
        facts["versions"].items()
        return TrainingRun({**facts, "data": _texts(facts.get("data") or {})}, history)

    return _read(directory / "run.json", interpret, "a run directory that `lenet train` finished", "--run")


def _read_parity(path: Path) -> Mapping[str, Any]:
    def interpret(text: str) -> Mapping[str, Any]:
        found = documents.parse(text)
        _require(found, "backends", "not_run")
        numbers = ("loss", "accuracy", "max_abs_delta", "share_of_tolerance", "images")
        may_be_none = ("loss", "max_abs_delta", "share_of_tolerance", "delta_loss", "delta_accuracy")
        texts = ("backend", "precision", "device", "right", "diverging_layer")
        for line in found["backends"]:
            _require(line, *numbers, *texts)
            _require(line, *may_be_none)
            _finite(*(line[name] for name in (*numbers, *may_be_none) if line[name] is not None))
            _finite(line["accuracy"], line["images"])
            _texts({"reason": line.get("reason") or ""})
        about = {name: str(found.get(name) or "") for name in ("data", "weights")}
        return {**found, **about, "not_run": _texts(found["not_run"])}

    return _read(path, interpret, "what `lenet evaluate --backend all --json` prints", "--parity")


def _read(path: Path, interpret: Callable[[str], _T], wanted: str, option: str) -> _T:
    try:
        return interpret(read_regular(path, results.LARGEST).decode())
    except OSError as error:
        found = f"{error.filename}: {error.strerror}"
    except KeyError as error:
        found = f"no {error.args[0]!r} in it"
    except (ValueError, TypeError, AttributeError, OverflowError, csv.Error) as error:
        found = f"{error}"
    raise ResultsError(f"{path} cannot be read", found=found, wanted=wanted, hint=f"name another with {option}")


def _require(found: Mapping[str, Any], *names: str) -> None:
    """Check that the names are there: a KeyError names the missing one, a TypeError says that there is no mapping."""
    if not isinstance(found, Mapping):
        raise TypeError(f"a {type(found).__name__} in the place of an object with {names[0]!r}")
    for name in names:
        found[name]


def _whole(value: Any) -> None:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")


def _texts(found: Any) -> dict[str, str]:
    """The value, if it is a mapping of texts."""
    if not all(isinstance(value, str) for value in found.values()):
        raise TypeError("what should be a text is none")
    return dict(found)


def _finite(*values: Any) -> float:
    """The first value as a number, if all are numbers small enough that arithmetic keeps them finite."""
    numbers = [float(value) for value in values]
    if not all(abs(number) < _MOST for number in numbers):  # also refuses NaN
        raise ValueError("a value is not finite, or too large to be measured")
    return numbers[0] if numbers else math.nan
