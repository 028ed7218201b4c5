"""Find, read and number the saved files of each kind of machine. No torch here.

A storage directory, such as ``.benchmarks``, has a folder of baselines for each kind of machine. Its directory
``local``, which git ignores, is a storage directory for every run that is saved here. Its folder ``gates`` holds the
gate's verdicts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from lenet.errors import ResultsError
from lenet.files import make_directory, only_writer, read_regular, write_atomically
from lenet.measurement.environment import describe_difference
from lenet.measurement.identity import ThisMachine
from lenet.results.case import Measurement
from lenet.results.file import LARGEST, load

__all__ = [
    "GATES",
    "example",
    "find_file",
    "is_local",
    "last",
    "local_storage",
    "newest",
    "of_this_machine",
    "promote",
    "storages",
    "store",
    "stored_files",
]


_STORED_NAME: Final = re.compile(r"([0-9]{4,})_(.*)\.json", re.DOTALL)
"""The number of a stored file, of four digits or more, and its name."""


GATES: Final = "gates"
"""The folder of the gate's verdicts, beside those of the kinds of machine."""


_LOCAL: Final = "local"
_EXAMPLE: Final = "*/*_campaign.json"
"""The baselines that show what a run looks like, below a storage directory."""


_PATIENCE: Final = 10.0
"""Seconds to wait for another process to store its file."""


def local_storage(storage: Path) -> Path:
    """Where a storage directory keeps the runs that are saved here."""
    return storage / _LOCAL


def is_local(path: Path) -> bool:
    """Whether a stored file is a run that was saved here, and no baseline."""
    return path.parent.parent.name == _LOCAL


def storages(storage: Path) -> tuple[Path, Path]:
    """Where to look for a file: the baselines of a storage directory, then its saved runs."""
    return storage, local_storage(storage)


def stored_files(storage: Path, kind: str | None = None) -> list[Path]:
    """The saved files under a storage directory, in the order of their numbers.

    Args:
        storage: The directory with one folder for each kind of machine, such as ``.benchmarks``.
        kind: The kind of machine, or None for all.
    """
    found = [
        path
        for path in storage.glob(f"{kind or '*'}/*.json")
        if _STORED_NAME.fullmatch(path.name) and path.parent.name != GATES
    ]
    return sorted(found, key=lambda path: (_number(path), path.name, path.parent))


def _number(stored: Path) -> int:
    return int(stored.name.partition("_")[0])


def _load_each(paths: Iterable[Path]) -> tuple[list[Measurement], list[ResultsError]]:
    """The files that can be read, and an error for each that cannot."""
    found, problems = [], []
    for path in paths:
        try:
            found.append(load(path))
        except ResultsError as error:
            problems.append(error)
    return found, problems


def last(
    storage: Path, kind: str, wanted: Callable[[Measurement], bool]
) -> tuple[Measurement | None, list[ResultsError]]:
    """The wanted run with the highest number. No file before it is read.

    Args:
        storage: A directory with one folder for each kind of machine.
        kind: The kind of machine.
        wanted: Whether a run will do.

    Returns:
        The run, or None, and an error for each later file that cannot be read.
    """
    problems = []
    for path in reversed(stored_files(storage, kind)):
        try:
            found = load(path)
        except ResultsError as error:
            problems.append(error)
        else:
            if wanted(found):
                return found, problems
    return None, problems


def of_this_machine(storage: Path) -> tuple[list[Measurement], list[ResultsError]]:
    """The run of this machine that ended last, after those baselines that it can be compared with.

    A machine may have folders of several kinds, for its GPUs and for its CPU.

    Args:
        storage: The directory of baselines and saved runs.

    Returns:
        The measurements, the oldest first, and an error for each file that cannot be read and may be of this machine.

    Raises:
        ResultsError: There is none. The error names the machines that have files.
    """
    machine = ThisMachine()
    runs: list[Measurement] = []
    problems: list[ResultsError] = []
    for kind in _kinds(local_storage(storage)):  # numbered as they ended, unlike baselines
        found, unreadable = last(local_storage(storage), kind, lambda one: machine.made(one.machine))
        runs += [found] if found else []
        problems += unreadable
    baselines: list[Measurement] = []
    for kind in filter(machine.may_be, _kinds(storage)):
        alike, unreadable = _load_each(stored_files(storage, kind))
        baselines += [one for one in alike if machine.made(one.machine)]
        problems += unreadable
    if not (runs or baselines):
        others = sorted({kind for one in storages(storage) for kind in _kinds(one)})
        raise ResultsError(
            "no runs of this machine yet: `nox -s bench`",
            found="; ".join(
                [
                    *(f"files of {kind}, not of this machine" for kind in others),
                    *(f"{one.summary}: {one.found}" for one in problems),
                ]
            )
            or f"no file in {local_storage(storage)} or {storage}",
            wanted="a run that `nox -s bench` or `pytest benchmarks` saved",
            hint="measure with `nox -s bench`, name a file, or see the shipped example with --example",
        )
    newest_run = max([*baselines, *runs], key=lambda one: one.ended)
    comparable = [one for one in baselines if one.fingerprint == newest_run.fingerprint and one is not newest_run]
    return [*sorted(comparable, key=lambda one: one.ended), newest_run], problems


def _kinds(storage: Path) -> list[str]:
    """The kinds of machine that have stored files, in order."""
    return sorted({path.parent.name for path in stored_files(storage)})


def example(storage: Path) -> Measurement:
    """The shipped campaign, which shows what a run looks like: of several the one that ended last.

    Raises:
        ResultsError: There is none, or it cannot be read.
    """
    paths = sorted(storage.glob(_EXAMPLE))
    if not paths:
        raise ResultsError(
            f"there is no example in {storage}",
            found=f"no {storage / _EXAMPLE}",
            wanted="the campaign that the project ships",
            hint="go to a checkout of lenet-bench, or name its .benchmarks with --storage",
        )
    return max(map(load, paths), key=lambda one: one.ended)


def newest(
    storage: Path, kind: str, fingerprint: str, facts: Mapping[str, Any]
) -> tuple[Measurement, list[ResultsError]]:
    """The newest whole measurement of this machine without a failure: a baseline, else a run that was saved here.

    Args:
        storage: The directory of baselines and saved runs.
        kind: The kind of this machine.
        fingerprint: This machine's fingerprint.
        facts: This machine's facts, for the error to say what differs.

    Returns:
        The measurement, and an error for each file of this kind of machine that cannot be read.

    Raises:
        ResultsError: There is none. The error names the fingerprints and unreadable files of all kinds of machine.
    """
    alike: list[Measurement] = []
    problems: list[ResultsError] = []
    for place in storages(storage):
        found, unreadable = _load_each(stored_files(place, kind))
        problems += unreadable
        ours = [one for one in found if one.fingerprint == fingerprint and one.flaw is None]
        if ours:
            return ours[-1], problems
        alike += found
    unlike, more = _load_each(path for path in stored_files(storage) if path.parent.name != kind)
    there = {f"{one.fingerprint} ({one.kind}{f'; {one.flaw}' if one.flaw else ''})" for one in alike}
    there |= {f"{one.fingerprint} ({one.kind})" for one in unlike}
    there |= {f"{one.summary}: {one.found}" for one in (*problems, *more)}
    differences = describe_difference(facts, alike[-1].machine) if alike else []
    raise ResultsError(
        f"no baseline of this machine in {storage}",
        found=", ".join(sorted(there)) or "no file at all",
        wanted=f"{fingerprint} ({kind})" + (f"; it differs by {'; '.join(differences)}" if differences else ""),
        hint="record one here with `nox -s baseline`; times of another machine cannot be compared",
    )


def find_file(storage: Path, kind: str, name: str) -> Path:
    """Find a saved file by its path, or by its number or the beginning of its name: a baseline, else a saved run.

    Args:
        storage: The directory of baselines and saved runs.
        kind: The kind of machine whose files have these numbers and names.
        name: The path, the number or the beginning of the name.

    Raises:
        ResultsError: There is none. The error names those that there are.
    """
    if os.path.isfile(name):  # noqa: PTH113 - false for an impossible name, where pathlib raises
        return Path(name)
    stored = [stored_files(place, kind) for place in storages(storage)]
    found = next(filter(None, ([path for path in paths if _is_called(path, name)] for paths in stored)), None)
    if found is None:
        raise ResultsError(
            f"there is no baseline {name!r} in {storage / kind}",
            found=", ".join(path.name for paths in stored for path in paths) or "no file at all",
            wanted="a path, or the number that a saved file's name begins with",
            hint="`--benchmark-compare` alone takes the newest of this machine",
        )
    return found[-1]


def _is_called(stored: Path, name: str) -> bool:
    if re.fullmatch("[0-9]+", name):
        return str(_number(stored)) == (name.lstrip("0") or "0")
    return stored.name.startswith(name)


def promote(path: Path, storage: Path) -> Path:
    """Make a measurement a baseline: copy it to the folder of its kind of machine, under the next number.

    Args:
        path: A file of measurements.
        storage: The directory with one folder for each kind of machine.

    Returns:
        The new file.

    Raises:
        ResultsError: The file cannot be read or holds no row, or its run was interrupted or had a failure.
        OutputError: As for `store`.
    """
    measurement = load(path)
    if measurement.flaw is not None:
        raise ResultsError(
            f"{path} cannot be a baseline",
            found=measurement.flaw,
            wanted="a whole run without a failure",
            hint="mend what failed and measure again",
        )
    numbered = _STORED_NAME.fullmatch(path.name)
    name = numbered[2] if numbered else path.name.removesuffix(".json")
    return store(read_regular(path, LARGEST), name, storage / measurement.kind, "--storage")


def store(content: bytes, name: str, folder: Path, option: str) -> Path:
    """Save a file of measurements, whole or not at all, under the next number.

    Args:
        content: The file's content.
        name: What follows the number in the file's name.
        folder: The folder of its kind of machine, in the storage directory.
        option: The option that chooses the storage directory, for an error to name.

    Returns:
        The new file.

    Raises:
        OutputError: The file cannot be written, or another process holds the directory for too long.
    """
    make_directory(folder, option)
    with only_writer(folder, option, _PATIENCE):  # between finding the last number and taking the next
        stored = stored_files(folder.parent, folder.name)
        number = _number(stored[-1]) + 1 if stored else 1
        target = folder / f"{number:04d}_{name}.json"
        write_atomically(target, content, otherwise=f"choose another directory with {option}")
    return target
