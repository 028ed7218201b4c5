"""A run that is compared with a saved one, as a person starts it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lenet import results
from tests.benchmarks.test_suite import Saved, benchmarks

pytestmark = pytest.mark.programs
ELSEWHERE = "000000000000"


def put(storage: Path, saved: Saved, name: str, *, here: bool = True, partial: bool = False) -> Path:
    """Store a copy of the saved run under another name, as if of an earlier commit, from here or from elsewhere."""
    document = saved.document()
    document["machine_info"]["commit"] = "0" * 40
    document["lenet"]["partial"] = partial
    if not here:
        document["lenet"]["fingerprint"] = ELSEWHERE
        document["machine_info"]["torch"]["threads"] = 999
    path = storage / saved.path.parent.name / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def test_a_run_is_compared_with_the_newest_whole_one_of_the_same_machine(saved: Saved, tmp_path: Path) -> None:
    put(tmp_path, saved, "0001_oldest.json")
    put(tmp_path, saved, "0002_wanted.json")
    put(tmp_path, saved, "0003_elsewhere.json", here=False)
    put(tmp_path, saved, "0004_partial.json", partial=True)
    done = benchmarks("--mode=forward", "--benchmark-compare", storage=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^Compared with 0002_wanted\.json: median, ms\n +row +then +now", done.stdout, re.MULTILINE)
    assert re.search(r"^ pytorch forward fp32 2 +\S+ +\S+ +\S+ % ! +no claim", done.stdout, re.MULTILINE)
    assert "(NOW)" not in done.stdout, "pytest-benchmark's own table is for -v"
    assert "FAILED" not in done.stdout
    assert "machine_info" not in done.stdout + done.stderr, "another commit is what a baseline is for"
    assert not re.search("oldest|elsewhere|partial", done.stdout + done.stderr)


def test_a_run_that_became_slower_fails_with_its_tables_and_is_no_baseline(saved: Saved, tmp_path: Path) -> None:
    before = put(tmp_path, saved, "0001_before.json")
    document = json.loads(before.read_text())
    for one in document["benchmarks"]:
        one["stats"]["median"] = 1e-9
        one["fullname"] = one["fullname"].replace("-float32]", "]")  # as before names had the input type
    before.write_text(json.dumps(document))
    comparing = ("--benchmark-compare", "--benchmark-compare-fail=median:5%", "--benchmark-autosave")
    done = benchmarks("--mode=forward", *comparing, storage=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "LeNet, batch 2, fp32, CPU" in done.stdout
    name = "pytorch-forward-2-fp32-pinned-float32"
    assert re.search(r"^ pytorch forward fp32 2 +\S+ +\S+ +\S+ % ! +FAILED", done.stdout, re.MULTILINE)
    assert "Fails if the median grows by more than 5 %." in done.stdout
    assert done.stdout.endswith("FAILED: 1 of 1 rows are slower than the baseline\n")
    (after,) = tmp_path.rglob("0002_*.json")
    found = results.load(after)
    assert found.flaw == f"slower than its baseline: {name}"
    assert results.newest(tmp_path, found.kind, found.fingerprint, {})[0].path == before


def test_rows_under_other_conditions_are_not_compared_and_a_comparison_of_none_fails(
    saved: Saved, tmp_path: Path
) -> None:
    path = put(tmp_path, saved, "0001_real.json")
    path.write_text(path.read_text().replace("seeded synthetic images, seed 0", "CIFAR-10 test images"))
    done = benchmarks("--mode=forward", "--batch-size=3", "--benchmark-compare", storage=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    unlike = "pytorch-forward-2-fp32-pinned-float32: images seeded synthetic images, seed 0, not CIFAR-10 test images"
    assert f"not compared, under other conditions in the baseline (1): {unlike}\n" in done.stdout
    assert "not in the baseline (1): pytorch-forward-3-fp32-pinned-float32\n" in done.stdout
    assert "only in the baseline (1): pytorch-forward-1-fp32-pinned-float32\n" in done.stdout
    assert "Nothing in the baseline measured the same: the comparison has failed." in done.stdout
    assert "(NOW)" not in done.stdout


def test_what_may_fail_without_a_baseline_is_refused(tmp_path: Path) -> None:
    done = benchmarks("--benchmark-compare-fail=median:5%", storage=tmp_path)
    assert done.returncode == 4, done.stdout
    assert "--benchmark-compare-fail wants --benchmark-compare" in done.stderr


def test_a_baseline_of_another_machine_is_refused(saved: Saved, tmp_path: Path) -> None:
    put(tmp_path, saved, "0001_elsewhere.json", here=False)
    here = results.load(saved.path).fingerprint
    newest = benchmarks("--benchmark-compare", storage=tmp_path)
    named = benchmarks("--benchmark-compare=0001", storage=tmp_path)
    assert (newest.returncode, named.returncode) == (4, 4)
    assert "no baseline of this machine" in newest.stderr
    assert f"found:  {ELSEWHERE} ({saved.path.parent.name})" in newest.stderr
    assert "the baseline is of another machine or clock" in named.stderr
    assert f"found:  {ELSEWHERE}\n" in named.stderr
    for done in newest, named:
        assert f"wanted: {here}" in done.stderr
        assert re.search(r"torch\.threads: \d+, not 999", done.stderr)
        assert "nox -s baseline" in done.stderr
        assert "test_inference" not in done.stdout


def test_a_damaged_baseline_is_refused_by_name(saved: Saved, tmp_path: Path) -> None:
    truncated = put(tmp_path, saved, "0001_truncated.json")
    truncated.write_text(truncated.read_text()[:-100])
    (tmp_path / "other").mkdir()
    other = put(tmp_path / "other", saved, "0001_other.json")
    other.write_text(other.read_text().replace(f'"schema": {results.SCHEMA}', '"schema": 99'))
    for option, path, found in (
        (f"--benchmark-compare={truncated}", truncated, "no whole JSON document"),
        (f"--benchmark-compare={other}", other, "schema 99\n"),
    ):
        done = benchmarks(option, storage=tmp_path)
        assert done.returncode == 4, done.stdout
        assert f"ERROR: {path} cannot be read\n  found:  {found}" in done.stderr
        assert "test_inference" not in done.stdout


def test_an_unknown_baseline_names_those_that_there_are(saved: Saved, tmp_path: Path) -> None:
    put(tmp_path, saved, "0001_one.json")
    put(tmp_path, saved, "0002_two.json", here=False)
    done = benchmarks("--benchmark-compare=0099", storage=tmp_path)
    assert done.returncode == 4
    assert "there is no baseline '0099'" in done.stderr
    assert "found:  0001_one.json, 0002_two.json\n" in done.stderr


HOSTILE = "\x1b]0;owned\x07\x9b31m\u202e\r"


def test_no_text_of_a_baseline_controls_the_terminal(saved: Saved, tmp_path: Path) -> None:
    baseline = put(tmp_path, saved, "0001_hostile.json")
    document = json.loads(baseline.read_text())
    row, *_ = document["benchmarks"]
    row["stats"] |= {"outliers": f"1;2{HOSTILE}", "name": f"a name{HOSTILE}"}
    gone = json.loads(json.dumps(row))
    gone |= {"name": f"gone{HOSTILE}", "fullname": f"gone{HOSTILE}"}
    gone["extra_info"]["case"] |= {"images": f"images{HOSTILE}", "backend": f"backend{HOSTILE}"}
    document["benchmarks"].append(gone)
    baseline.write_text(json.dumps(document))
    done = benchmarks("--mode=forward", "--benchmark-compare", storage=tmp_path)
    assert "Compared with 0001_hostile.json" in done.stdout, done.stdout + done.stderr
    assert r"gone\u001b]0;owned" in done.stdout
    assert "a name" not in done.stdout
    assert not set(done.stdout + done.stderr) & set("\x1b\x07\x9b\u202e\r")


def test_a_baseline_whose_name_cannot_be_printed_is_refused(saved: Saved, tmp_path: Path) -> None:
    put(tmp_path, saved, f"0001_{HOSTILE.strip()}.json")
    done = benchmarks("--benchmark-compare=0001", storage=tmp_path)
    assert done.returncode == 4
    assert r"0001_\u001b]0;owned" in done.stderr
    assert not set(done.stdout + done.stderr) & set("\x1b\x07\x9b\u202e\r")
