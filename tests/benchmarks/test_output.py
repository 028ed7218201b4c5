"""A run whose standard output cannot be written is saved all the same."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO

import pytest
from click.testing import CliRunner

from lenet import results
from lenet.cli import main
from tests import preloaded
from tests.benchmarks.test_suite import ROOT, benchmarks, environment, the_file
from tests.report import documents


def full() -> IO[bytes]:
    return Path("/dev/full").open("wb")


def without_a_reader() -> IO[bytes]:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "wb")


def _lose(output: Callable[[], IO[bytes]]) -> None:
    with output() as lost:
        os.dup2(lost.fileno(), 1)


@pytest.mark.programs
@pytest.mark.parametrize("output", [full, without_a_reader])
def test_a_run_whose_output_is_lost_is_saved_and_exits_with_3(output: Callable[[], IO[bytes]], tmp_path: Path) -> None:
    if output is full and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here, as on macOS")
    options = ("--device=cpu", "--benchmark-autosave", f"--benchmark-storage={tmp_path}", "-p", "no:cacheprovider")
    command = ("-m", "pytest", "benchmarks/test_canary.py", *options)
    done = preloaded.run(*command, cwd=ROOT, env=environment(), prepare=partial(_lose, output))
    assert done.returncode == 3, done.stderr
    (saved,) = results.stored_files(tmp_path)
    assert f"lenet: the run's output could not be written; saved: {saved}" in done.stderr
    assert "Traceback" not in done.stderr


BUSY = "from lenet.measurement.readiness import OtherWork\nOtherWork.disturbs = lambda *_: True\n"


@pytest.mark.programs
def test_what_disturbed_the_whole_run_is_saved_with_it(tmp_path: Path) -> None:
    (tmp_path / "busy_for_a_test.py").write_text(BUSY)
    done = benchmarks(
        "--mode=forward", "--backend=pytorch", "-p", "busy_for_a_test", storage=tmp_path / "storage", plugins=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    cause = results.load(the_file(tmp_path / "storage")).cause
    assert cause is not None
    assert cause.startswith("other work kept ")


def test_the_cause_of_a_saved_run_is_told_in_the_place_of_single_reasons(tmp_path: Path) -> None:
    path = documents.measurement(tmp_path / "1.json")
    document = json.loads(path.read_text())
    document["lenet"]["cause"] = "other work kept 2 CPUs busy"
    document["benchmarks"][0]["extra_info"]["unstable"] = ["it drifts"]
    path.write_text(json.dumps(document))
    told = CliRunner().invoke(main, ["results", str(path)]).stdout
    assert "1 of 4 rows are unstable: other work kept 2 CPUs busy." in told
