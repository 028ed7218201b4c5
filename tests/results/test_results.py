from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lenet import results
from lenet.cli import main
from lenet.errors import ResultsError
from lenet.measurement import identity
from lenet.measurement.floor import Floor, Limits
from lenet.report.sources import Machine
from lenet.results import Case, Measurement, NotRun, Row
from lenet.vocabulary import Mode
from tests.report import documents

CASE = Case(
    backend="pytorch",
    mode=Mode.FORWARD,
    asked="fp32",
    precision="fp32",
    batch_size=1000,
    device="a GPU",
    images="CIFAR-10 test images",
    host_memory=None,
    cold_cache=False,
    protocol="coursework",
)
SUMMARY = {
    "rounds": 100,
    "median": 0.002,
    "mean": 0.003,
    "stddev": 0.001,
    "minimum": 0.0015,
    "p95": 0.004,
    "p99": 0.005,
    "iqr": 0.0005,
    "median_low": 0.0019,
    "median_high": 0.0021,
    "maximum": 0.006,
    "coverage": 0.95,
    "relative_half_width": 0.05,
    "autocorrelation": -0.25,
}
TYPES = ("float32", "uint8")


def entry(case: Case = CASE, **summary: float) -> dict[str, Any]:
    """A benchmark as the suite stores it."""
    return {
        "name": "test_inference[x]",
        "fullname": "benchmarks/test_inference.py::test_inference[x]",
        "stats": documents.stats([0.002, 0.002]),
        "extra_info": {
            "case": asdict(case),
            "summary": SUMMARY | summary,
            "wall_median": 0.0022,
            "peak_memory_bytes": 1 << 20,
            "throttled": 3,
            "unstable": ["the median is known to 2 % only"],
            "facts": {"plan_sha256": "abc"},
            "max_abs_delta": 1.5e-5,
            "share_of_tolerance": 0.25,
            "weights": case.weights,
        },
    }


def document(*benchmarks: dict[str, Any], **about: Any) -> dict[str, Any]:
    facts = {
        "cpu": {"model": "a CPU", "usable": 2},
        "gpu": None,
        "system": {"distribution": "Linux"},
        "python": {"version": "3.12"},
        "packages": {"torch": "2"},
        "commit": "c0ffee",
    }
    lenet = {"schema": results.SCHEMA, "kind": "cpu-x", "fingerprint": "f1", "partial": False, "not_run": []}
    return {
        "lenet": lenet | about,
        "machine_info": facts,
        "datetime": "2026-11-24T00:00:00+00:00",
        "benchmarks": list(benchmarks),
    }


def save(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def row(case: Case = CASE, **summary: float) -> Row:
    found = results.row(entry(case, **summary))
    assert found is not None
    return found


@pytest.fixture
def of_the_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this machine be the one of `document`."""
    facts = {"model": "a CPU", "architecture": None, "threads": None, "usable": 2}
    monkeypatch.setattr(identity, "cpu_facts", lambda: facts)
    monkeypatch.setattr(identity, "machine_kind", lambda _: "cpu-x")


def printed(*arguments: object) -> Result:
    """What `lenet results` prints."""
    return CliRunner().invoke(main, ["results", *map(str, arguments)], env={"COLUMNS": "200"})


def measurement(tmp_path: Path, name: str, *benchmarks: dict[str, Any], **about: Any) -> Measurement:
    return results.load(save(tmp_path / name, document(*benchmarks, **about)))


def test_a_row_survives_being_stored(tmp_path: Path) -> None:
    not_run = [{"name": "tripy", "reason": "not installed"}]
    loaded = measurement(tmp_path, "a.json", entry(), {**entry(), "extra_info": {}}, not_run=not_run)
    (found,) = loaded.rows
    assert found.case == CASE
    assert (found.summary.as_dict(), found.wall_median) == (SUMMARY, 0.0022)
    assert (found.throttled, found.unstable) == (3, ("the median is known to 2 % only",))
    assert found.samples == (0.002, 0.002)
    assert found.facts == {"plan_sha256": "abc"}
    assert (found.max_abs_delta, found.share_of_tolerance) == (1.5e-5, 0.25)
    assert (loaded.kind, loaded.fingerprint, loaded.commit, loaded.partial) == ("cpu-x", "f1", "c0ffee", False)
    assert loaded.not_run == (NotRun("tripy", "not installed"),)
    assert (loaded.limits, found.floor, found.times_floor) == (None, None, None)


def test_what_a_run_could_not_tell_is_none(tmp_path: Path) -> None:
    few = entry(median_low=None, median_high=None)  # type: ignore[arg-type]
    few["extra_info"] |= dict.fromkeys(("wall_median", "peak_memory_bytes", "max_abs_delta", "share_of_tolerance"))
    content = document(few)
    content["machine_info"]["commit"] = None
    loaded = results.load(save(tmp_path / "a.json", content))
    (found,) = loaded.rows
    assert (found.summary.median_low, found.summary.median_high, found.wall_median, found.peak_memory_bytes) == (
        None,
    ) * 4
    assert (loaded.commit, found.max_abs_delta, found.share_of_tolerance) == (None,) * 3


def test_limits_and_floors_survive_being_stored(tmp_path: Path) -> None:
    limits = Limits({"fp32": 1e12}, ((100, 1e9),), {"pinned": ((100, 1e9),), "pageable": ((100, 5e8),)}, 1e-6, 2e-6)
    floored = entry()
    floored["extra_info"]["floor"] = {"seconds": 0.0005, "term": "copy"}
    loaded = measurement(tmp_path, "a.json", floored, limits=limits.to_json())
    assert loaded.limits == limits
    assert loaded.rows[0].floor == Floor(0.0005, "copy")
    assert loaded.rows[0].times_floor == pytest.approx(4.0)


def test_a_file_of_the_first_schema_is_of_float32_images_without_limits(tmp_path: Path) -> None:
    old = entry(replace(CASE, input="uint8"))
    del old["extra_info"]["case"]["input"]
    loaded = measurement(tmp_path, "a.json", old, schema=1)
    assert loaded.rows[0].case == CASE
    assert loaded.rows[0].case.input == "float32"
    assert (loaded.limits, loaded.rows[0].floor) == (None, None)


def of_a_gpu(schema: int) -> dict[str, Any]:
    content = document(entry(), schema=schema)
    content["machine_info"]["gpu"] = {"name": "NVIDIA H100 80GB HBM3"}
    return content


@pytest.mark.parametrize("schema", [1, 2])
def test_an_older_file_of_a_gpu_is_refused_for_its_forward_rows_hold_launches(tmp_path: Path, schema: int) -> None:
    path = save(tmp_path / "old.json", of_a_gpu(schema))
    with pytest.raises(ResultsError, match=rf"found:  schema {schema}\n  wanted: schema 3 or 4\n"):
        results.load(path)


def test_a_file_of_a_gpu_by_the_clock_before_is_read_and_compared_with_nothing_newer(tmp_path: Path) -> None:
    older, newer = (results.load(save(tmp_path / f"{schema}.json", of_a_gpu(schema))) for schema in (3, 4))
    assert older.rows == newer.rows
    assert (older.fingerprint, newer.fingerprint) == ("f1 by the clock of schema 3", "f1")
    with pytest.raises(ResultsError, match="fingerprint: f1 by the clock of schema 3, not f1"):
        results.merge([older, newer])
    save(tmp_path / "cpu-x" / "0001_old.json", of_a_gpu(3))
    with pytest.raises(ResultsError, match=r"(?s)no baseline of this machine.*f1 by the clock of schema 3 \(cpu-x\)"):
        results.newest(tmp_path, "cpu-x", "f1", {})


def test_on_a_cpu_the_clock_is_the_same_in_every_schema(tmp_path: Path) -> None:
    assert {measurement(tmp_path, "a.json", entry(), schema=schema).fingerprint for schema in (1, 2, 3, 4)} == {"f1"}


def test_derived_columns() -> None:
    found = row()
    assert found.milliseconds_per_batch == pytest.approx(2.0)
    assert found.milliseconds_per_image == pytest.approx(0.002)
    assert found.microseconds_per_image == pytest.approx(2.0)
    assert found.images_per_second == pytest.approx(500_000)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "no whole JSON document"),
        (json.dumps(document(entry()))[:-40], "no whole JSON document"),
        ("[" * 10_000, "nested too deeply"),
        (document(entry(), kind="\ud800"), "surrogates not allowed"),
        ("[1, 2]", "it is not of this suite"),
        ({"benchmarks": []}, "it is not of this suite"),
        (document(entry(), schema=99), "schema 99"),
        (document({**entry(), "extra_info": {"case": asdict(CASE)}}), "extra_info.summary is missing"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: Any, found: str) -> None:
    path = save(tmp_path / "bad.json", content)
    with pytest.raises(ResultsError, match=rf"(?s){path} cannot be read\n  found:  .*{found}.*\n  wanted: .*schema "):
        results.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    wanted = r"\n  wanted: .* schema 1 to 4, of a GPU 3 to 4\n  next:   "
    with pytest.raises(ResultsError, match=rf"nothing\.json cannot be read\n  found:  No such file.*{wanted}look at"):
        results.load(tmp_path / "nothing.json")
    with pytest.raises(ResultsError, match=rf"cannot be read\n  found:  Is a directory{wanted}name a file in it"):
        results.load(tmp_path)


def test_runs_of_one_machine_and_commit_merge_the_later_row_winning(tmp_path: Path) -> None:
    other = replace(CASE, batch_size=1)
    first = measurement(tmp_path, "1.json", entry(), entry(other))
    second = measurement(tmp_path, "2.json", entry(median=0.009))
    later = replace(second, date="2026-12-01")
    for order in ([first, later], [later, first]):
        rows = results.merge(order)
        assert {found.case.batch_size: found.summary.median for found in rows} == {1000: 0.009, 1: 0.002}


def test_speedup_is_over_pytorch_under_the_same_conditions() -> None:
    slow, fast = row(), row(replace(CASE, backend="tripy", precision="tf32"), median=0.0005)
    elsewhere = row(replace(CASE, batch_size=1), median=1.0)
    assert results.speedup(fast, [elsewhere, slow, fast]) == pytest.approx(4.0)
    assert results.speedup(slow, [slow, fast]) == 1.0
    assert results.speedup(fast, [fast, elsewhere]) is None


def test_the_input_type_is_a_condition_and_zero_copy_is_compared_with_the_same_memory_copied() -> None:
    floats, bytes_ = (row(replace(CASE, mode=Mode.END_TO_END, host_memory="pinned", input=name)) for name in TYPES)
    fused = replace(bytes_.case, backend="fused", host_memory="zero-copy")
    assert results.speedup(row(fused, median=0.0005), [floats]) is None
    assert results.speedup(row(fused, median=0.0005), [floats, bytes_]) == pytest.approx(4.0)
    assert results.speedup(row(replace(fused, host_memory="pageable")), [floats, bytes_]) is None


def test_csv_has_a_line_a_row(tmp_path: Path) -> None:
    floored = entry(replace(CASE, backend="tripy"), median=0.001)
    floored["extra_info"]["floor"] = {"seconds": 0.0005, "term": "launch"}
    whole = replace(measurement(tmp_path, "2.json", floored), date="2026-12-01")
    files = [whole, measurement(tmp_path, "1.json", entry(), partial=True)]
    lines = list(csv.DictReader(io.StringIO(results.to_csv(files))))
    assert [(line["kind"], line["fingerprint"], line["commit"]) for line in lines] == [("cpu-x", "f1", "c0ffee")] * 2
    assert [line["partial"] for line in lines] == ["True", "False"]
    assert [line["backend"] for line in lines] == ["pytorch", "tripy"]
    assert [float(line["speedup_over_pytorch"]) for line in lines] == [1.0, 2.0]
    assert float(lines[0]["median"]) == 0.002
    assert [line["input"] for line in lines] == ["float32", "float32"]
    assert [(line["floor"], line["floor_term"], line["times_floor"]) for line in lines] == [
        ("", "", ""),
        ("0.0005", "launch", "2.0"),
    ]


def test_only_what_measured_the_same_is_compared() -> None:
    there = {"a": CASE, "b": replace(CASE, batch_size=1), "epoch": None, "gone": replace(CASE, backend="tripy")}
    there["newer"] = replace(CASE, backend="fused")
    here = {
        "other name": CASE,
        "b": replace(CASE, batch_size=1, protocol="adaptive", images="synthetic"),
        "epoch": None,
        "new": replace(CASE, batch_size=10),
        "newer": None,
    }
    found = results.match(here, there)
    assert found.alike == {"other name": "a", "epoch": "epoch"}
    differs = "images synthetic, not CIFAR-10 test images, protocol adaptive, not coursework"
    assert found.unlike == {"b": differs}
    assert (found.new, found.gone) == (("new", "newer"), ("gone", "newer"))


def test_what_failed_and_was_measured_later_is_no_longer_missing(tmp_path: Path) -> None:
    missing = [{"name": "x", "reason": "failed: wrong"}, {"name": "y", "reason": "no GPU"}]
    first = measurement(
        tmp_path, "1.json", entry(replace(CASE, batch_size=1)) | {"name": "test_inference[z]"}, not_run=missing
    )
    later = replace(measurement(tmp_path, "2.json", entry()), date="2026-12-01")
    assert results.not_run([later, first]) == (NotRun("y", "no GPU"),)
    failed_again = replace(first, date="2026-12-02")
    assert [item.name for item in results.not_run([failed_again, later])] == ["x", "y"]
    for form in (), ("--markdown",):
        text = printed(*form, first.path, first.path).stdout
        assert "x: failed: wrong" in text
        save(tmp_path / "2.json", {**document(entry()), "datetime": "2026-12-01T00:00:00+00:00"})
        text = printed(*form, first.path, later.path).stdout
        assert "x: failed: wrong" not in text
        assert "y: no GPU" in text


@pytest.mark.parametrize(("commit", "told"), [("c0+dirty", r"c0\+dirty"), (None, "unknown")])
def test_runs_of_unknown_sources_are_never_put_together(tmp_path: Path, commit: str | None, told: str) -> None:
    first, second = (replace(measurement(tmp_path, f"{one}.json", entry()), commit=commit) for one in (1, 2))
    assert len(results.merge([first, first])) == 1
    with pytest.raises(ResultsError, match=rf"(?s)cannot be put together\n  found:  commit: {told}, which may be"):
        results.merge([first, second])
    assert Machine([first, second]).rows == second.rows


def test_a_row_that_no_table_could_hold_is_refused_with_its_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.json", document(entry(), entry(replace(CASE, batch_size=0))))
    done = printed(path)
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"{path} cannot be read" in done.stderr
    assert "misshapen: benchmarks[1].extra_info.case.batch_size is 0" in done.stderr


def test_two_forms_at_once_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.json", document(entry()))
    done = printed("--csv", "--markdown", path)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--csv and --markdown are two forms" in done.stderr
    assert printed("--csv", path).stdout.splitlines()[1].endswith(",cpu-x,f1,c0ffee,2026-11-24T00:00:00+00:00,False")


def test_a_precision_that_is_not_known_is_refused_where_its_floor_is_told(tmp_path: Path) -> None:
    broken = entry(replace(CASE, precision="fp4"))
    broken["extra_info"]["floor"] = {"seconds": 1e-6, "term": "copy"}
    with pytest.raises(ResultsError, match="misshapen: 'fp4'"):
        results.load(save(tmp_path / "a.json", document(broken)))


@pytest.mark.parametrize("form", [("--details",), ("--markdown",)])
def test_a_row_that_is_marked_says_why(tmp_path: Path, form: tuple[str, ...]) -> None:
    text = printed(*form, save(tmp_path / "a.json", document(entry()))).stdout
    assert " ! " in text
    assert "pytorch forward fp32 1000: the median is known to 2 % only\n" in text


def test_brackets_of_a_file_are_text(tmp_path: Path) -> None:
    case = replace(CASE, backend="[/x]", device="GPU [bold]", images="[red]")
    done = printed(save(tmp_path / "a.json", document(entry(case))))
    assert done.exit_code == 0, done.output
    for text in ("[/x]", "GPU [bold]", "[red]"):
        assert text in done.stdout


def test_facts_that_are_not_there_are_unknown(tmp_path: Path) -> None:
    content = document(entry())
    del content["machine_info"]["packages"], content["machine_info"]["system"]
    done = printed("--markdown", save(tmp_path / "a.json", content))
    assert done.exit_code == 0, done.output
    assert "a CPU, 2 CPUs, unknown;\nPython 3.12.\n" in done.stdout
    assert not re.search("GPU:|Limits|Not run", done.stdout)
    on_a_gpu = printed("--markdown", save(tmp_path / "b.json", of_a_gpu(4))).stdout
    assert on_a_gpu.startswith("# LeNet on NVIDIA H100 80GB HBM3\n")
    assert "GPU: NVIDIA H100 80GB HBM3, compute capability unknown" in on_a_gpu


def test_a_damaged_file_of_another_kind_of_machine_is_in_nobody_s_way(tmp_path: Path) -> None:
    damaged = save(tmp_path / "gpu-y" / "0009_x.json", "{")
    with pytest.raises(
        ResultsError, match=rf"no baseline of this machine.*\n  found:  {damaged} cannot be read: no whole JSON"
    ):
        results.newest(tmp_path, "cpu-x", "f1", {})
    ours = save(tmp_path / "cpu-x" / "0001_x.json", document(entry()))
    found, problems = results.newest(tmp_path, "cpu-x", "f1", {})
    assert (found.path, problems) == (ours, [])


@pytest.mark.parametrize("content", ["", "{", "\0", json.dumps(document())[:-9]])
@pytest.mark.usefixtures("of_the_documents")
def test_a_stored_file_that_cannot_be_read_is_passed_over_and_named(tmp_path: Path, content: str) -> None:
    ours = save(tmp_path / "cpu-x" / "0001_x.json", document(entry()))
    damaged = save(tmp_path / "cpu-x" / "0002_x.json", content)
    found, problems = results.newest(tmp_path, "cpu-x", "f1", {})
    assert (found.path, [one.summary for one in problems]) == (ours, [f"{damaged} cannot be read"])
    with pytest.raises(ResultsError, match=f"(?s)no baseline of this machine.*{damaged} cannot be read: no whole JSON"):
        results.newest(tmp_path, "cpu-x", "another", {})
    done = printed("--storage", tmp_path)
    assert done.exit_code == 0
    assert f"{damaged} cannot be read" in done.stderr
    page = tmp_path / "report.html"
    done = CliRunner().invoke(main, ["report", "--storage", str(tmp_path), "--out", str(page)])
    assert (done.exit_code, f"{damaged} cannot be read" in done.stderr) == (1, True)
    assert "a CPU" in page.read_text()
