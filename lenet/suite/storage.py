"""Where a run is saved, and where saved runs and baselines are looked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from lenet import results
from lenet.errors import OutputError
from lenet.files import prepare_file, write_atomically
from lenet.suite import bridge
from lenet.suite.bridge import Session
from lenet.suite.run import Run

__all__ = ["in_gate", "prepare", "save_files", "save_nothing_without_rows", "storage_of"]

_OPTION: Final = "--benchmark-storage"
_GATE: Final = "lenet_gate_turns"
"""The plugin that `lenet.gate.trees` copies into the processes that it measures with."""


@dataclass(frozen=True, slots=True)
class _Saving:
    """How a run is saved.

    Attributes:
        folder: The folder of its kind of machine.
        asked: Whether an option asked for it. Otherwise a run without a row is not saved.
    """

    folder: Path
    asked: bool


_SAVING: Final = pytest.StashKey[_Saving]()


def storage_of(config: pytest.Config) -> Path:
    """The directory of baselines, which holds the directory of saved runs."""
    return Path(config.option.benchmark_storage.removeprefix("file://"))


def in_gate(config: pytest.Config) -> bool:
    """Whether the gate measures. It saves nothing, and gives each option."""
    return config.pluginmanager.has_plugin(_GATE)


def prepare(config: pytest.Config, run: Run) -> None:
    """Decide whether and where the run is saved, and check that the files can be written, before anything is measured.

    Raises:
        OutputError: A file that an option asks for cannot be written.
        pytest.UsageError: Options contradict each other.
    """
    option = config.option
    asked = option.benchmark_save or option.benchmark_autosave
    if option.no_save and asked:
        raise pytest.UsageError("--no-save contradicts --benchmark-save and --benchmark-autosave: leave one out")
    if option.benchmark_json:
        prepare_file(option.benchmark_json, "--benchmark-json")
    measures = not (option.benchmark_disable or option.collectonly or option.no_save or in_gate(config))
    if not (asked or measures):
        return
    storage = storage_of(config)
    named = asked and bridge.was_typed(config, _OPTION)  # then pytest-benchmark's own place
    folder = (storage if named else results.local_storage(storage)) / run.kind
    try:
        prepare_file(folder / f"0000_{asked or 'run'}.json", _OPTION)
    except OutputError as error:
        if asked or bridge.was_typed(config, _OPTION):
            raise
        run.unsaved.append(error)  # a read-only checkout can be measured
        return
    config.stash[_SAVING] = _Saving(folder, bool(asked))
    if not asked:
        bridge.save_by_default(config)


def save_files(config: pytest.Config, run: Run) -> None:
    """Make pytest-benchmark write each file whole or not at all, and note in the run what became of it."""

    def save(content: bytes, name: str) -> Path | None:
        try:
            run.saved = results.store(content, name, config.stash[_SAVING].folder, _OPTION)
        except OutputError as error:
            run.unsaved.append(error)
        return run.saved

    def save_json(content: bytes, path: Path) -> Path | None:
        try:
            write_atomically(path, content)
        except OutputError as error:
            run.unsaved.append(error)
            return None
        return path

    Session(config).save_by(run.kind, save, save_json)


def save_nothing_without_rows(config: pytest.Config, rows: int) -> None:
    """Save no run without an inference row, unless an option asks for it."""
    saving = config.stash.get(_SAVING, None)
    if saving is not None and not saving.asked and not rows:
        Session(config).save_no_default()
