"""The saved files of each kind of machine: finding, reading and numbering them. No torch here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from lenet.errors import ResultsError
from lenet.files import make_directory, only_writer, read_regular, write_atomically
from lenet.measurement.environment import describe_difference
from lenet.results.case import Measurement
from lenet.results.file import LARGEST, load

__all__ = ["find_file", "latest", "newest", "promote", "store", "stored_files"]


_STORED_NAME: Final = re.compile(r"([0-9]{4,})_(.*)\.json", re.DOTALL)
"""A stored file's number, which has no end, and its name."""


_PATIENCE: Final = 10.0
"""Seconds to wait for another process that stores a file."""


def stored_files(storage: Path, kind: str | None = None) -> list[Path]:
    """The saved files under a storage directory, of one kind of machine or of all, by their numbers."""
    found = [path for path in storage.glob(f"{kind or '*'}/*.json") if _STORED_NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (_number(path), path.name, path.parent))


def _number(stored: Path) -> int:
    return int(stored.name.partition("_")[0])


def _load_each(paths: Iterable[Path]) -> tuple[list[Measurement], list[ResultsError]]:
    """The files that can be read, and why each of the others cannot."""
    found, problems = [], []
    for path in paths:
        try:
            found.append(load(path))
        except ResultsError as error:
            problems.append(error)
    return found, problems


def latest(storage: Path) -> tuple[Measurement | None, list[ResultsError]]:
    """The last run by its own date, of whatever machine: numbers of files count for one kind of machine alone.

    Args:
        storage: The directory with one folder a kind of machine.

    Returns:
        The measurement, None where no file can be read; and why each that cannot be read was passed over.
    """
    found, problems = _load_each(stored_files(storage))
    return max(reversed(found), key=lambda one: one.ended, default=None), problems


def newest(
    storage: Path, kind: str, fingerprint: str, facts: Mapping[str, Any]
) -> tuple[Measurement, list[ResultsError]]:
    """The newest whole measurement of this very machine in which nothing failed.

    Args:
        storage: The directory with one folder a kind of machine, such as ``.benchmarks``.
        kind: Of this machine.
        fingerprint: Of this machine.
        facts: Of this machine, to tell what differs.

    Returns:
        The measurement; and why each file of this kind of machine that cannot be read was passed over.

    Raises:
        ResultsError: There is none; the fingerprints that are there are named, those of other kinds too, and the
            files that cannot be read.
    """
    alike, problems = _load_each(stored_files(storage, kind))
    ours = [one for one in alike if one.fingerprint == fingerprint and one.flaw is None]
    if ours:
        return ours[-1], problems
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
    """A saved file by its path, or by its number or the beginning of its name among this kind of machine's.

    Raises:
        ResultsError: There is none; those that are there are named.
    """
    if os.path.isfile(name):  # noqa: PTH113 - false for a name that no file can have, where pathlib raises
        return Path(name)
    stored = stored_files(storage, kind)
    if re.fullmatch("[0-9]+", name):
        found = [path for path in stored if str(_number(path)) == (name.lstrip("0") or "0")]
    else:
        found = [path for path in stored if path.name.startswith(name)]
    if not found:
        raise ResultsError(
            f"there is no baseline {name!r} in {storage / kind}",
            found=", ".join(path.name for path in stored) or "no file at all",
            wanted="a path, or the number that a saved file's name begins with",
            hint="`--benchmark-compare` alone takes the newest of this machine",
        )
    return found[-1]


def promote(path: Path, storage: Path) -> Path:
    """Make a measurement a baseline: copy it into its kind of machine's folder, under the next number.

    Args:
        path: A file of measurements.
        storage: The directory with one folder a kind of machine.

    Returns:
        The new file.

    Raises:
        ResultsError: The file cannot be read, was cut short, holds no row, or is of a run in which something failed.
        OutputError: As of `store`.
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
        folder: Of its kind of machine, in the storage directory.
        option: What chooses the storage directory, for an error to name.

    Returns:
        The new file.

    Raises:
        OutputError: It cannot be written, or another process keeps the directory.
    """
    make_directory(folder, option)
    with only_writer(folder, option, _PATIENCE):  # from the look for the last number until the next one is taken
        stored = stored_files(folder.parent, folder.name)
        number = _number(stored[-1]) + 1 if stored else 1
        target = folder / f"{number:04d}_{name}.json"
        write_atomically(target, content, otherwise=f"choose another directory with {option}")
    return target
