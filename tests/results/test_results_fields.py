"""What each field of a file of measurements is for: what makes rows unlike, what tables get, what errors say."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lenet import results
from lenet.errors import ResultsError
from lenet.measurement.energy import Energy
from lenet.measurement.floor import Workload
from lenet.results import Measurement
from lenet.results.case import FIRST_WEIGHTS
from lenet.vocabulary import Mode
from tests.results.test_results import CASE, document, entry, measurement, of_a_gpu, row, save


def load(tmp_path: Path, benchmark: dict[str, Any], **about: Any) -> Measurement:
    return results.load(save(tmp_path / "a.json", document(benchmark, **about)))


CONDITIONS: dict[str, Any] = {
    "mode": Mode.END_TO_END,
    "asked": "fp16",
    "batch_size": 1,
    "device": "another",
    "images": "others",
    "host_memory": "pinned",
    "cold_cache": True,
    "protocol": "adaptive",
    "input": "uint8",
    "weights": "5eed" * 16,
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_row_under_any_other_condition_is_no_row_to_compare_with(name: str) -> None:
    fused = row(replace(CASE, backend="fused"))
    elsewhere = row(replace(CASE, **{name: CONDITIONS[name]}))
    assert results.find_row([elsewhere], "pytorch", fused) is None
    assert results.find_row([elsewhere, row(), fused], "pytorch", fused) == row()
    assert results.speedup(fused, [elsewhere]) is None


def test_what_a_backend_runs_is_no_condition_and_no_host_memory_is_one() -> None:
    fused = row(replace(CASE, backend="fused", precision="tf32"))
    assert results.find_row([row()], "pytorch", fused) == row()
    assert results.find_row([row()], "pytorch", row(replace(CASE, host_memory=""))) == row()


def test_a_floor_depends_on_what_a_case_moves() -> None:
    case = replace(
        CASE, mode=Mode.END_TO_END, host_memory="zero-copy", input="uint8", precision="fp16", cold_cache=True
    )
    assert case.workload == Workload(Mode.END_TO_END, 1000, "fp16", "uint8", "zero-copy", cold_cache=True)
    assert case.zero_copy
    assert not CASE.zero_copy


PLACE = ("mode", "asked", "batch_size", "host_memory", "input")
"""What the options name: a row with another is another row; under other conditions it is the same, and not compared."""


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_row_of_the_baseline_is_another_or_the_same_under_other_conditions(name: str) -> None:
    found = results.match({"a": CASE}, {"a": replace(CASE, **{name: CONDITIONS[name]})})
    assert not found.alike
    if name in PLACE:
        assert (found.unlike, found.new, found.gone) == ({}, ("a",), ("a",))
    else:
        assert (found.new, found.gone) == ((), ())
        here, there = (
            (FIRST_WEIGHTS[:12], "5eed5eed5eed") if name == "weights" else (getattr(CASE, name), CONDITIONS[name])
        )
        assert found.unlike == {"a": f"{name} {here}, not {there}"}


def test_the_weights_of_a_file_without_any_are_the_first_that_were_shipped(tmp_path: Path) -> None:
    shipped = replace(CASE, weights=FIRST_WEIGHTS)
    assert (
        results.match({"a": shipped}, {"a": CASE}).alike
        == results.match({"a": CASE}, {"a": shipped}).alike
        == {"a": "a"}
    )
    assert results.speedup(row(replace(shipped, backend="fused"), median=0.001), [row()]) == pytest.approx(2.0)
    (read,) = load(tmp_path, entry()).rows
    assert read.case.weights is None


@pytest.mark.parametrize("device", ["CPU, 1 thread", "CPU, 4 threads"])
def test_rows_of_each_number_of_threads_are_compared_with_their_own_alone(device: str) -> None:
    one, two = (replace(CASE, device=f"CPU, {words}") for words in ("1 thread", "2 threads"))
    found = results.match({"a": replace(one, threads=1), "b": replace(two, threads=2)}, {"2": two, "1": one})
    assert found.alike == {"a": "1", "b": "2"}  # asked for or PyTorch's own choice
    assert (found.unlike, found.new, found.gone) == ({}, (), ())
    found = results.match({"a": one, "b": two}, {"other": replace(one, device=device), "b": two})
    assert found.alike["b"] == "b"
    assert found.unlike == ({} if device == one.device else {"a": f"device CPU, 1 thread, not {device}"})
    assert results.speedup(row(replace(two, backend="fused")), [row(one)]) is None
    assert (one.cpu_threads, two.cpu_threads, CASE.cpu_threads) == (1, 2, None)


def test_a_benchmark_that_is_no_row_has_only_its_name() -> None:
    found = results.match({"epoch": None, "x": None, "y": CASE}, {"epoch": None, "x": CASE, "z": None})
    assert found.alike == {"epoch": "epoch", "y": "x"}
    assert (found.unlike, found.new, found.gone) == ({}, ("x",), ("z",))


def test_a_csv_has_every_figure_under_its_name(tmp_path: Path) -> None:
    benchmark = entry()
    benchmark["extra_info"] |= {"floor": {"seconds": 0.0005, "term": "launch"}, "unstable": ["one", "two"]}
    benchmark["extra_info"]["energy"] = Energy("NVML", 1000.0, 2.0, 5000, 50.0).to_json()
    (line,) = csv.DictReader(io.StringIO(results.to_csv([load(tmp_path, benchmark, partial=True)])))
    assert line == {
        "backend": "pytorch",
        "mode": "forward",
        "asked": "fp32",
        "precision": "fp32",
        "batch_size": "1000",
        "device": "a GPU",
        "images": "CIFAR-10 test images",
        "host_memory": "",
        "cold_cache": "False",
        "protocol": "coursework",
        "input": "float32",
        "weights": "",
        "threads": "",
        "depth": "",
        "rounds": "100",
        "median": "0.002",
        "mean": "0.003",
        "stddev": "0.001",
        "minimum": "0.0015",
        "p95": "0.004",
        "p99": "0.005",
        "iqr": "0.0005",
        "median_low": "0.0019",
        "median_high": "0.0021",
        "wall_median": "0.0022",
        "peak_memory_bytes": "1048576",
        "throttled": "3",
        "max_abs_delta": "1.5e-05",
        "share_of_tolerance": "0.25",
        "images_per_second": "500000.0",
        "speedup_over_pytorch": "1.0",
        "floor": "0.0005",
        "floor_term": "launch",
        "times_floor": "4.0",
        "unstable": "one; two",
        "energy_counter": "NVML",
        "joules_per_1000_images": "200.0",
        "joules_above_idle_per_1000_images": "180.0",
        "images_per_joule": "5.0",
        "watts": "500.0",
        "idle_watts": "50.0",
        "energy_missing": "",
        **dict.fromkeys(("in_flight", "latency_p50", "latency_p95", "latency_p99", "copy_alone", "forward_alone"), ""),
        "kind": "cpu-x",
        "fingerprint": "f1",
        "commit": "c0ffee",
        "date": "2026-11-24T00:00:00+00:00",
        "partial": "True",
    }


def test_a_run_is_described_in_a_line(tmp_path: Path) -> None:
    whole = load(tmp_path, entry())
    date = "2026-11-24 00:00:00+00:00"
    assert whole.describe() == f"{whole.path}: cpu-x, fingerprint f1, c0ffee, {date}"
    assert replace(whole, date="2026-11-24T01:02:03.456789").moment == "2026-11-24 01:02:03+00:00"
    cut = replace(whole, commit=None, partial=True)
    assert (
        cut.describe()
        == f"{whole.path}: cpu-x, fingerprint f1, an unknown commit, {date}, PARTIAL: the run was interrupted"
    )


def test_a_date_is_in_utc_where_it_does_not_say(tmp_path: Path) -> None:
    found = replace(load(tmp_path, entry()), date="2026-11-24T08:00:00")
    assert found.ended == datetime(2026, 11, 24, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    ("commit", "unknown"), [("c0ffee", False), ("c0ffee+dirty", True), ("dirty", False), (None, True)]
)
def test_sources_are_known_by_a_commit_without_changes(tmp_path: Path, commit: str | None, unknown: bool) -> None:
    assert replace(load(tmp_path, entry()), commit=commit).of_unknown_sources is unknown


def test_of_flaws_the_first_is_told(tmp_path: Path) -> None:
    whole = load(tmp_path, entry(), not_run=[{"name": "x", "reason": "no GPU"}])
    assert whole.flaw is None
    flaws: list[tuple[Callable[[Measurement], Measurement], str]] = [
        (lambda found: replace(found, rows=()), "no row"),
        (lambda found: replace(found, regressed=("y", "z")), "slower than its baseline: y, z"),
        (lambda found: replace(found, not_run=(results.NotRun("a", "failed: "),) * 2), "failed rows: a, a"),
        (lambda found: replace(found, partial=True), "the run was interrupted"),
    ]
    for damage, flaw in flaws:
        whole = damage(whole)
        assert whole.flaw == flaw


def test_a_run_that_cannot_be_a_baseline_is_told_with_what_to_do(tmp_path: Path) -> None:
    source = save(tmp_path / "a.json", document(entry(), partial=True))
    with pytest.raises(ResultsError) as caught:
        results.promote(source, tmp_path / "storage")
    assert str(caught.value) == (
        f"{source} cannot be a baseline\n  found:  the run was interrupted\n"
        "  wanted: a whole run without a failure\n  next:   mend what failed and measure again"
    )


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("test_inference[pytorch-forward-1]", "pytorch-forward-1"),
        ("test_transfer[1000-pinned]", "transfer 1000-pinned"),
        ("test_epoch", "epoch"),
    ],
)
def test_a_benchmark_s_short_name_is_its_case(name: str, short: str) -> None:
    assert results.short_name(name) == short


def test_stored_files_are_in_the_order_of_their_numbers_whatever_their_folder(tmp_path: Path) -> None:
    names = ["b/0001_z.json", "a/0002_a.json", "c/0002_a.json", "a/0010_a.json"]
    for name in [*names, "a/7_x.json", "a/0003_x.txt", "0004_x.json", "a/b/0005_x.json"]:
        save(tmp_path / name, {})
    assert results.stored_files(tmp_path) == [tmp_path / name for name in names]
    assert results.stored_files(tmp_path, "a") == [tmp_path / "a/0002_a.json", tmp_path / "a/0010_a.json"]


def test_of_several_the_last_is_taken(tmp_path: Path) -> None:
    paths = [save(tmp_path / "cpu-x" / f"{name}.json", document(entry())) for name in ("0001_x", "0012_x", "0012_y")]
    assert results.newest(tmp_path, "cpu-x", "f1", {})[0].path == paths[-1]
    assert results.find_file(tmp_path, "cpu-x", "12") == results.find_file(tmp_path, "cpu-x", "0012_") == paths[-1]
    found, problems = results.last(tmp_path, "cpu-x", lambda one: one.fingerprint == "f1")
    assert found is not None
    assert (found.path, problems) == (paths[-1], [])


@pytest.mark.parametrize(("schema", "clock"), [(3, "f1 by the clock of schema 3"), (4, "f1")])
def test_an_older_clock_of_a_gpu_is_part_of_what_is_compared(tmp_path: Path, schema: int, clock: str) -> None:
    assert results.identity(of_a_gpu(schema)) == clock
    assert results.load(save(tmp_path / "a.json", of_a_gpu(schema))).fingerprint == clock


def test_the_later_of_two_reasons_is_told_and_a_row_measured_later_is_not_missing(tmp_path: Path) -> None:
    def run(day: int, reason: str, *benchmarks: dict[str, Any]) -> Measurement:
        found = measurement(tmp_path, f"{day}.json", *benchmarks, not_run=[{"name": "y", "reason": reason}])
        return replace(found, date=f"2026-11-{day}")

    early, late = run(24, "no GPU", entry()), run(25, "no driver", entry())
    for order in ([early, late], [late, early]):
        assert results.not_run(order) == (results.NotRun("y", "no driver"),)
    assert early.measured == {"x"}


def test_runs_that_cannot_be_put_together_are_named_in_the_order_of_their_difference(tmp_path: Path) -> None:
    one, other = (measurement(tmp_path, f"{name}.json", entry()) for name in ("one", "other"))
    elsewhere = replace(other, fingerprint="f2", machine={**other.machine, "cpu": {"model": "another", "usable": 2}})
    for found, difference in (
        (replace(other, commit="c1"), "commit: c0ffee, not c1"),
        (replace(other, fingerprint="f2"), "fingerprint: f1, not f2"),
        (elsewhere, "cpu.model: 'a CPU', not 'another'"),
    ):
        with pytest.raises(ResultsError, match="cannot be put together") as caught:
            results.merge([one, found])
        assert f"{one.path} and {other.path} cannot be put together\n  found:  {difference}\n" in str(caught.value)
    dirty = [replace(found, commit="c1+dirty") for found in (one, other)]
    with pytest.raises(ResultsError) as caught:
        results.merge(dirty)
    assert f"{one.path} and {other.path} cannot be put together\n  found:  commit: c1+dirty, which" in str(caught.value)


def test_where_there_is_no_baseline_it_is_said_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(ResultsError) as caught:
        results.newest(tmp_path, "cpu-x", "f1", {})
    assert str(caught.value) == (
        f"no baseline of this machine in {tmp_path}\n  found:  no file at all\n  wanted: f1 (cpu-x)\n"
        "  next:   record one here with `nox -s baseline`; times of another machine cannot be compared"
    )
    with pytest.raises(ResultsError) as caught:
        results.find_file(tmp_path, "cpu-x", "0001")
    assert str(caught.value) == (
        f"there is no baseline '0001' in {tmp_path / 'cpu-x'}\n  found:  no file at all\n"
        "  wanted: a path, or the number that a saved file's name begins with\n"
        "  next:   `--benchmark-compare` alone takes the newest of this machine"
    )
