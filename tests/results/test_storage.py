"""Where files of measurements lie: which one is found, promoted and numbered how."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lenet import results
from lenet.errors import ResultsError
from lenet.files import only_writer
from tests.results.test_results import document, entry, save


def test_the_newest_is_this_machine_s_whole_one(tmp_path: Path) -> None:
    failed = [{"name": "tripy", "reason": "failed: the logits are wrong"}]
    abouts: list[dict[str, Any]] = [{}, {}, {"partial": True}, {"fingerprint": "f2"}, {"not_run": failed}]
    abouts.append({"kind": "gpu-y", "fingerprint": "f3"})
    for number, about in enumerate(abouts):
        save(tmp_path / about.get("kind", "cpu-x") / f"000{number + 1}_x.json", document(entry(), **about))
    assert results.newest(tmp_path, "cpu-x", "f1", {})[0].path.name == "0002_x.json"
    there = r"f1 \(cpu-x\), f1 \(cpu-x; failed rows: tripy\), .*f2 \(cpu-x\), f3 \(gpu-y\)"
    message = rf"(?s)no baseline of this machine.*found:  {there}.*wanted: f9 \(cpu-x\)"
    with pytest.raises(ResultsError, match=message + r"; it differs by cpu\.model: 'another', not 'a CPU'"):
        results.newest(tmp_path, "cpu-x", "f9", {"cpu": {"model": "another"}})
    with pytest.raises(ResultsError, match="no file at all"):
        results.newest(tmp_path / "empty", "cpu-x", "f1", {})


def test_a_baseline_is_found_by_its_number_or_path(tmp_path: Path) -> None:
    path = save(tmp_path / "cpu-x" / "0007_name.json", document(entry()))
    assert results.find_file(tmp_path, "cpu-x", "0007") == results.find_file(tmp_path, "cpu-x", str(path)) == path
    with pytest.raises(ResultsError, match=r"(?s)no baseline '0008'.*found:  0007_name\.json"):
        results.find_file(tmp_path, "cpu-x", "0008")


def test_a_baseline_is_promoted_under_the_next_number(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    source = save(tmp_path / "0001_baseline.json", document(entry(), not_run=[{"name": "x", "reason": "no GPU"}]))
    assert results.promote(source, storage) == storage / "cpu-x" / "0001_baseline.json"
    second = results.promote(source, storage)
    assert second == storage / "cpu-x" / "0002_baseline.json"
    assert second.read_bytes() == source.read_bytes()


@pytest.mark.programs
def test_two_processes_never_promote_under_one_number(tmp_path: Path) -> None:
    source, storage = save(tmp_path / "baseline.json", document(entry())), tmp_path / "storage"
    (storage / "cpu-x").mkdir(parents=True)
    with only_writer(storage / "cpu-x"):
        done = subprocess.run(
            [sys.executable, "-m", "lenet", "promote", str(source), "--storage", str(storage)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert "another process that writes into it" in done.stderr
    assert "choose another directory with --storage" in done.stderr
    assert not results.stored_files(storage)
    assert results.promote(source, storage) == storage / "cpu-x" / "0001_baseline.json"


@pytest.mark.parametrize(
    ("name", "promoted"),
    [("2026.json", "0001_2026.json"), ("mine.txt", "0001_mine.txt.json"), ("12345_x.json", "0001_x.json")],
)
def test_whatever_its_name_a_baseline_is_found_again(tmp_path: Path, name: str, promoted: str) -> None:
    target = results.promote(save(tmp_path / name, document(entry())), tmp_path / "storage")
    assert target.name == promoted
    assert results.stored_files(tmp_path / "storage") == [target]


@pytest.mark.programs
def test_processes_that_store_at_once_wait_for_each_other(tmp_path: Path) -> None:
    source, storage = save(tmp_path / "baseline.json", document(entry())), tmp_path / "storage"
    script = "import sys; from pathlib import Path; from lenet.results import store\n"
    script += "for _ in range(10): store(Path(sys.argv[1]).read_bytes(), 'x', Path(sys.argv[2]), '--storage')"
    command = [sys.executable, "-c", script, str(source), str(storage / "cpu-x")]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(timeout=200) for process in processes] == [0] * 3
    assert [path.name for path in results.stored_files(storage)] == [f"{one:04d}_x.json" for one in range(1, 31)]


def test_numbers_have_no_end(tmp_path: Path) -> None:
    source, storage = save(tmp_path / "baseline.json", document(entry())), tmp_path / "storage"
    last = save(storage / "cpu-x" / "9999_a.json", document(entry()))
    promoted = [results.promote(source, storage) for _ in range(3)]
    assert [path.name for path in promoted] == [f"{number}_baseline.json" for number in (10000, 10001, 10002)]
    assert results.stored_files(storage) == [last, *promoted]
    assert results.newest(storage, "cpu-x", "f1", {})[0].path == promoted[-1]
    assert results.find_file(storage, "cpu-x", "10000") == promoted[0]
    again = results.promote(promoted[0], storage)
    assert again.name == "10003_baseline.json"
    save(storage / "cpu-x" / f"{'9' * 30}_a.json", document(entry()))
    assert results.promote(source, storage).name == f"1{'0' * 30}_baseline.json"


def test_a_number_names_one_file_and_no_longer_one(tmp_path: Path) -> None:
    for number in (100, 1000, 10000):
        save(tmp_path / "cpu-x" / f"{number:04d}_x.json", document(entry()))
    for name, found in ("1000", "1000"), ("0100", "0100"), ("100", "0100"), ("1000_", "1000"), ("10000_x", "10000"):
        assert results.find_file(tmp_path, "cpu-x", name).name == f"{found}_x.json"
    for name in "10", "0", "9" * 5000:
        with pytest.raises(ResultsError, match="there is no baseline"):
            results.find_file(tmp_path, "cpu-x", name)


@pytest.mark.parametrize(
    ("about", "found"),
    [
        ({"partial": True}, "the run was interrupted"),
        ({"not_run": [{"name": "tripy", "reason": "failed: the logits are wrong"}]}, "failed rows: tripy"),
        ({"regressed": ["tripy-forward"]}, "slower than its baseline: tripy-forward"),
    ],
)
def test_a_run_that_failed_is_never_promoted(tmp_path: Path, about: dict[str, Any], found: str) -> None:
    source = save(tmp_path / "a.json", document(entry(), **about))
    with pytest.raises(ResultsError, match=f"cannot be a baseline\n  found:  {found}"):
        results.promote(source, tmp_path / "storage")
    assert not (tmp_path / "storage").exists()
