"""Find, read and number the saved files of each kind of machine. No torch here."""

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
"""The number of a stored file, of four digits or more, and its name."""


_PATIENCE: Final = 10.0
"""Seconds to wait for another process to store its file."""


def stored_files(storage: Path, kind: str | None = None) -> list[Path]:
    """The saved files under a storage directory, in the order of their numbers.

    Args:
        storage: The directory with one folder for each kind of machine, such as ``.benchmarks``.
        kind: The kind of machine, or None for all.
    """
    found = [path for path in storage.glob(f"{kind or '*'}/*.json") if _STORED_NAME.fullmatch(path.name)]
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


def latest(storage: Path) -> tuple[Measurement | None, list[ResultsError]]:
    """The run that ended last, on any machine. Its date decides, because each kind of machine has its own numbers.

    Args:
        storage: The directory with one folder for each kind of machine.

    Returns:
        The measurement, or None if no file can be read, and an error for each file that cannot be read.
    """
    found, problems = _load_each(stored_files(storage))
    return max(reversed(found), key=lambda one: one.ended, default=None), problems


def newest(
    storage: Path, kind: str, fingerprint: str, facts: Mapping[str, Any]
) -> tuple[Measurement, list[ResultsError]]:
    """The newest whole measurement of this machine without a failure.

    Args:
        storage: The directory with one folder for each kind of machine.
        kind: The kind of this machine.
        fingerprint: This machine's fingerprint.
        facts: This machine's facts, for the error to say what differs.

    Returns:
        The measurement, and an error for each file of this kind of machine that cannot be read.

    Raises:
        ResultsError: There is none. The error names the fingerprints and unreadable files of all kinds of machine.
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
    """Find a saved file by its path, or by its number or the beginning of its name.

    Args:
        storage: The directory with one folder for each kind of machine.
        kind: The kind of machine whose files have these numbers and names.
        name: The path, the number or the beginning of the name.

    Raises:
        ResultsError: There is none. The error names those that there are.
    """
    if os.path.isfile(name):  # noqa: PTH113 - false for an impossible name, where pathlib raises
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
