"""Files of measurements under faults: saves that are cut short, damaged baselines, a read-only checkout."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lenet import results
from lenet.errors import ResultsError
from lenet.measurement.environment import machine_facts, machine_kind
from tests.benchmarks.test_baseline import put
from tests.benchmarks.test_suite import ROOT, Saved, benchmarks, environment, the_file
from tests.permissions import run_with_permissions

pytestmark = pytest.mark.programs

# The plugins fail the writing of a file when it is nearly done.
KILLED = "import os, signal; os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)"
# The limit comes after git was asked for the commit: it would kill git too, and leave its lock in the repository.
FULL = """
import resource


def pytest_benchmark_update_json():
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
"""
NO_VALUE = object()
WRONG: tuple[object, ...] = (NO_VALUE, None, True, -1.5, "text", [], {}, [5], {"text": 5})


def canary(*arguments: str, storage: Path, plugin: str | None = None, folder: Path | None = None) -> Any:
    """The suite's quickest case, which is saved as any other."""
    options: tuple[str, ...] = ("--device=cpu", "-p", "no:cacheprovider")
    if plugin is not None:
        assert folder is not None
        (folder / "fault_for_a_test.py").write_text(plugin)
        options += ("-p", "fault_for_a_test")
    return benchmarks(*arguments, storage=storage, quick=options, file="test_canary.py", plugins=folder)


def test_a_run_that_is_killed_while_it_is_saved_leaves_nothing_that_is_taken_for_a_file(tmp_path: Path) -> None:
    storage, dump = tmp_path / "storage", tmp_path / "dump"
    saving = ("--benchmark-autosave", f"--benchmark-json={dump / 'saved.json'}")
    assert canary(*saving, storage=storage, plugin=KILLED, folder=tmp_path).returncode == -9
    assert not list(tmp_path.rglob("*.json"))
    assert canary(*saving, storage=storage).returncode == 0
    assert results.load(the_file(storage)).path.name.startswith("0001_")
    assert [path.name for path in dump.iterdir()] == ["saved.json"]


def test_a_run_that_cannot_be_saved_shows_its_tables_and_says_so(tmp_path: Path) -> None:
    storage, dump = tmp_path / "storage", tmp_path / "saved.json"
    dump.write_text("previous")
    done = canary("--benchmark-save=mine", f"--benchmark-json={dump}", storage=storage, plugin=FULL, folder=tmp_path)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert re.search(r"^test_canary: [\d.]+ ms", done.stdout, flags=re.MULTILINE)
    (folder,) = storage.iterdir()
    for path in (dump, folder / "0001_mine.json"):
        assert f"Not saved: cannot write {path}\n  found:  File too large\n" in done.stdout
    assert "raise the size that a file may have" in done.stdout
    assert dump.read_text() == "previous"
    assert not list(storage.rglob("*.json"))


@pytest.mark.parametrize("option", ["--benchmark-save={}".format("x" * 250), "--benchmark-json={}/pipe"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path: Path, option: str) -> None:
    (tmp_path / "pipe").symlink_to(tmp_path / "elsewhere")
    done = canary(option.format(tmp_path), storage=tmp_path / "storage")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "ERROR: cannot write " in done.stderr
    assert "test_canary" not in done.stdout


def test_numbers_of_saved_runs_go_on_after_9999(tmp_path: Path) -> None:
    folder = tmp_path / machine_kind(machine_facts(torch.device("cpu")))
    folder.mkdir()
    (folder / "9999_first.json").touch()
    for _ in range(2):
        done = canary("--benchmark-save=more", storage=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    stored = [path.name for path in results.stored_files(tmp_path)]
    assert stored == ["9999_first.json", "10000_more.json", "10001_more.json"]


def test_stored_files_that_cannot_be_read_are_passed_over_and_named(saved: Saved, tmp_path: Path) -> None:
    put(tmp_path, saved, "0001_wanted.json")
    empty = put(tmp_path, saved, "0002_empty.json")
    empty.write_text("")
    damaged = put(tmp_path, saved, "0003_damaged.json")
    document = json.loads(damaged.read_text())
    del document["benchmarks"][1]["stats"]["iqr"]
    damaged.write_text(json.dumps(document))
    done = benchmarks("--mode=forward", "--benchmark-compare", storage=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"lenet: passed over: {empty} cannot be read\n  found:  no whole JSON document" in done.stderr
    assert f"lenet: passed over: {damaged} cannot be read\n" in done.stderr
    assert "benchmarks[1].stats.iqr is missing" in done.stderr
    assert "0001_wanted.json" in done.stderr
    assert "Compared with 0001_wanted.json" in done.stdout


def test_a_baseline_without_a_field_is_refused_before_anything_is_measured(saved: Saved, tmp_path: Path) -> None:
    path = put(tmp_path, saved, "0001_damaged.json")
    document = json.loads(path.read_text())
    del document["benchmarks"][0]["fullname"]
    path.write_text(json.dumps(document))
    done = benchmarks(f"--benchmark-compare={path}", storage=tmp_path)
    assert done.returncode == 4, done.stdout + done.stderr
    assert f"ERROR: {path} cannot be read\n" in done.stderr
    assert "misshapen: benchmarks[0].fullname is missing\n" in done.stderr
    assert "test_inference" not in done.stdout


def places(document: Any, above: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where a value stands, of each list the first alone; what is above another comes before it."""
    items = document.items() if isinstance(document, dict) else list(enumerate(document))[:1]
    for key, value in items:
        yield (*above, key)
        if isinstance(value, dict | list):
            yield from places(value, (*above, key))


def at(document: Any, place: tuple[str | int, ...]) -> Any:
    for key in place:
        document = document[key]
    return document


def change(document: Any, place: tuple[str | int, ...], value: object) -> None:
    *above, last = place
    if value is NO_VALUE:
        del at(document, tuple(above))[last]
    else:
        at(document, tuple(above))[last] = value


def is_of_the_same_kind(one: object, other: object) -> bool:
    number = (int, float)
    both_numbers = isinstance(one, number) and isinstance(other, number) and other == other  # noqa: PLR0124 - not NaN
    return type(one) is type(other) or (both_numbers and not isinstance(one, bool) and not isinstance(other, bool))


def refused(path: Path) -> str | None:
    try:
        results.load(path)
    except ResultsError as error:
        return error.found
    return None


def harmless(document: Any, path: Path) -> dict[tuple[str | int, ...], list[object]]:
    """The places of a baseline that may be damaged, each with the values that it is not refused for.

    What it is refused for must be named.
    """
    found: dict[tuple[str | int, ...], list[object]] = {}
    for place in places(document):
        for value in WRONG:
            if value is not NO_VALUE and is_of_the_same_kind(at(document, place), value):
                continue
            damaged = copy.deepcopy(document)
            change(damaged, place, value)
            path.write_text(json.dumps(damaged))
            refusal = refused(path)
            if refusal is None:
                found.setdefault(place, []).append(value)
            else:
                name = next(key for key in reversed(place) if isinstance(key, str))
                assert name in refusal, (place, value)
    return found


def test_a_damaged_baseline_is_refused_with_the_field_s_name_or_does_no_harm(saved: Saved, tmp_path: Path) -> None:
    """Each field is deleted and mistyped; all that is not refused is put into two baselines that are compared with."""
    document = saved.document()
    allowed = harmless(document, tmp_path / "damaged.json")
    info = ("benchmarks", 0, "extra_info")
    others = {info, (*info, "case")}
    assert others <= allowed.keys(), "with another it is no row, or another row"
    assert not {("benchmarks",), ("benchmarks", 0, "fullname"), ("benchmarks", 0, "stats")} & allowed.keys()
    for deleted in True, False:
        baseline = copy.deepcopy(document)
        del baseline["benchmarks"][1]["extra_info"]
        for number, (place, values) in enumerate(allowed.items()):
            chosen = [value for value in values if (value is NO_VALUE) is deleted]
            if not chosen or place in others or place == ("benchmarks", 0):
                continue
            try:
                change(baseline, place, chosen[number % len(chosen)])
            except (KeyError, IndexError, TypeError):
                continue  # what is above it is damaged already
        path = tmp_path / f"damaged_{deleted}.json"
        path.write_text(json.dumps(baseline))
        comparing = (f"--benchmark-compare={path}", "--benchmark-compare-fail=median:100000%")
        done = benchmarks("--mode=forward", *comparing, storage=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"Compared with {path.name}" in done.stdout
        assert "Traceback" not in done.stdout + done.stderr


def test_a_read_only_checkout_can_be_measured_and_tested(tmp_path: Path) -> None:
    """What cannot be written is said, and the rest works."""
    root = tmp_path / "checkout"
    leave = shutil.ignore_patterns("__pycache__")
    for name in ("benchmarks", "lenet", "tests", "conftest.py", "pyproject.toml"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, ignore=leave)
        else:
            shutil.copy(ROOT / name, root / name)
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    try:
        options: Any = {"cwd": root, "env": environment() | {"PYTHONPATH": str(root)}}
        del options["env"]["PYTEST_DISABLE_PLUGIN_AUTOLOAD"]  # Hypothesis's plugin is a part of what is tested
        pytest_here = ("-m", "pytest", "-q")
        measured = run_with_permissions(*pytest_here, "benchmarks/test_canary.py", "--device=cpu", **options)
        property_based = "tests/measurement/test_median_interval.py"
        tested = run_with_permissions(*pytest_here, property_based, "-k", "interval_is_scipys", **options)
        reported = run_with_permissions("-m", "lenet", "report", "--parity=nothing", **options)
    finally:
        for folder in folders:
            folder.chmod(0o700)
    assert measured.returncode == 0, measured.stdout + measured.stderr
    assert "test_canary: " in measured.stdout
    assert tested.returncode == 0, tested.stdout + tested.stderr
    for done in measured, tested:
        assert re.search(rf"could not create cache path {re.escape(str(root))}/\.pytest_cache", done.stdout)
        assert "Traceback" not in done.stdout + done.stderr
    assert reported.returncode == 2
    assert "cannot write report.html\n  found:  Permission denied\n" in reported.stderr
