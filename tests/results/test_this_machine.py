"""Which saved file a command takes if none is named: this machine's latest, or the shipped example on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pynvml
import pytest
from click.testing import CliRunner, Result

from lenet import results
from lenet.cli import main
from lenet.errors import ResultsError
from lenet.measurement.environment import cpu_facts, machine_kind
from lenet.measurement.identity import ThisMachine
from tests.measurement.fakes import UUID, FakeNvml
from tests.results.test_results import document, entry, of_the_documents, save

__all__ = ["of_the_documents"]

NO_RUNS = "no runs of this machine yet: `nox -s bench`"


def made(day: int, **cpu: Any) -> dict[str, Any]:
    """A run of the tests' machine, or of one with another CPU."""
    found = document(entry())
    found["machine_info"]["cpu"] |= cpu
    return found | {"datetime": f"2026-11-{day:02}T12:00:00+00:00"}


def lenet(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)), env={"COLUMNS": "200"})


def shown(storage: Path) -> str:
    """The file that `lenet results` shows."""
    done = lenet("results", "--storage", storage)
    assert done.exit_code == 0, done.output
    return Path(done.stdout.partition(": ")[0]).name


@pytest.mark.usefixtures("of_the_documents")
def test_the_latest_run_of_this_machine_is_taken_wherever_it_is_saved(tmp_path: Path) -> None:
    local = results.local_storage(tmp_path)
    save(tmp_path / "cpu-x" / "0007_baseline.json", made(23))
    assert shown(tmp_path) == "0007_baseline.json"
    save(local / "cpu-x" / "0001_first.json", made(24))
    save(local / "cpu-x" / "0002_second.json", made(25))
    save(local / "cpu-x" / "0003_copied.json", made(29, model="another CPU"))
    assert shown(tmp_path) == "0002_second.json"
    save(local / "cpu-1" / "0001_pinned.json", made(26))  # the same CPU, of which it used less
    assert shown(tmp_path) == "0001_pinned.json"
    save(tmp_path / "cpu-x" / "0008_baseline.json", made(27))
    save(tmp_path / "gpu-y" / "0009_theirs.json", made(30, threads=64))
    assert shown(tmp_path) == "0008_baseline.json"


@pytest.mark.usefixtures("of_the_documents")
@pytest.mark.parametrize("command", ["results", "report"])
def test_without_a_run_of_this_machine_the_next_command_is_named(tmp_path: Path, command: str) -> None:
    out = ("--out", tmp_path / "report.html") if command == "report" else ()
    (results.local_storage(tmp_path) / "cpu-x").mkdir(parents=True)  # an empty folder
    done = lenet(command, "--storage", tmp_path, *out)
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"lenet: {NO_RUNS}\n  found:  no file in {tmp_path / 'local'} or {tmp_path}\n" in done.stderr
    save(results.local_storage(tmp_path) / "cpu-x" / "0001_copied.json", made(24, model="another CPU"))
    save(results.local_storage(tmp_path) / "cpu-x" / "0002_half.json", '{"lenet": {')
    save(tmp_path / "gpu-y" / "0003_half.json", "{")
    done = lenet(command, "--storage", tmp_path, *out)
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"lenet: {NO_RUNS}\n  found:  files of cpu-x, not of this machine; files of gpu-y" in done.stderr
    assert "0002_half.json cannot be read: no whole JSON document" in done.stderr
    assert "0003_half.json" not in done.stderr, "a file of another kind of machine is in nobody's way"
    assert not (tmp_path / "report.html").exists()


@pytest.mark.usefixtures("of_the_documents")
def test_a_half_written_run_is_named_and_the_one_before_is_taken(tmp_path: Path) -> None:
    folder = results.local_storage(tmp_path) / "cpu-x"
    save(folder / "0001_whole.json", made(24))
    half = save(folder / "0002_half.json", '{"lenet": {')
    (folder / ".lenet-1.partial").touch()
    assert shown(tmp_path) == "0001_whole.json"
    assert f"{half} cannot be read" in lenet("results", "--storage", tmp_path).stderr


def test_a_machine_is_known_by_its_processor_and_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(monkeypatch)
    cpu = cpu_facts()
    here = {"cpu": cpu, "gpu": None}
    machine = ThisMachine()
    assert machine.made(here)
    assert machine.made({**here, "gpu": {"uuid": UUID}})
    assert not machine.made({**here, "gpu": {"uuid": "another"}})
    for name in ("model", "architecture", "threads"):
        assert not machine.made({**here, "cpu": cpu | {name: "another"}})
    assert machine.made({**here, "cpu": cpu | {"usable": 1}})
    assert not machine.made({})
    assert machine.may_be(machine_kind(here))
    assert machine.may_be("nvidia-h100")
    assert not machine.may_be("cpu-of-nobody-2c")
    assert nvml.opened == 0, "what was opened is closed"


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", absent)
    machine = ThisMachine()
    assert not machine.made({"cpu": cpu_facts(), "gpu": {"uuid": UUID}})
    assert not machine.may_be("nvidia-h100")


@pytest.mark.parametrize("form", [(), ("--markdown",), ("--csv",)])
def test_the_example_is_the_shipped_campaign_and_says_so(tmp_path: Path, form: tuple[str, ...]) -> None:
    label = "An example: the measurements that lenet-bench ships, not yours.\n"
    refused = lenet("results", "--storage", tmp_path, "--example", *form)
    assert refused.exit_code == 2
    assert f"there is no example in {tmp_path}" in refused.stderr
    save(tmp_path / "gpu-y" / "0003_campaign.json", made(24, model="another CPU"))
    save(tmp_path / "gpu-y" / "0004_mine.json", made(25, model="another CPU"))
    done = lenet("results", "--storage", tmp_path, "--example", *form)
    assert done.exit_code == 0, done.output
    assert (done.stderr if form == ("--csv",) else done.stdout).startswith(label)
    assert "2026-11-24" in done.stdout
    refused = lenet("results", "--example", *form, tmp_path / "gpu-y" / "0003_campaign.json")
    assert refused.exit_code == 2
    assert "--example takes the place of FILES" in refused.stderr


def test_the_project_ships_an_example() -> None:
    storage = Path(__file__).parents[2] / ".benchmarks"
    assert results.example(storage).rows


@pytest.mark.usefixtures("of_the_documents")
def test_a_comparison_takes_the_baseline_and_without_one_the_run_saved_last(tmp_path: Path) -> None:
    local = results.local_storage(tmp_path)
    with pytest.raises(ResultsError, match="no baseline of this machine"):
        results.newest(tmp_path, "cpu-x", "f1", {})
    first = save(local / "cpu-x" / "0001_run.json", made(24))
    second = save(local / "cpu-x" / "0002_run.json", made(25))
    assert results.newest(tmp_path, "cpu-x", "f1", {})[0].path == second
    baseline = save(tmp_path / "cpu-x" / "0001_baseline.json", made(23))
    assert results.newest(tmp_path, "cpu-x", "f1", {})[0].path == baseline
    assert results.find_file(tmp_path, "cpu-x", "1") == baseline
    assert results.find_file(tmp_path, "cpu-x", "0001_run") == first
    assert results.is_local(first)
    assert not results.is_local(baseline)
    with pytest.raises(ResultsError, match=r"found:  0001_baseline.json, 0001_run.json, 0002_run.json"):
        results.find_file(tmp_path, "cpu-x", "3")
