"""The suite beside other plugins, tracers and libraries that fail: what it refuses, and what stands all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from lenet import results
from tests.benchmarks.test_suite import QUICK, benchmarks, refused, the_file

pytestmark = pytest.mark.programs

# As a coverage tool or a debugger does it.
TRACING = """
import sys
sys.settrace(lambda *_: None)
"""

# As pytest-rerunfailures does it: rows of batch 1 and 3 are right when they are run again, in batch 2 nothing helps.
AGAIN = """
import pytest
from _pytest.runner import runtestprotocol

tried = {}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    for left in (1, 0):
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        if left and any(report.failed for report in reports):
            item._initrequest()
            continue
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        return True


def is_to_fail(item, size):
    tried.setdefault(item.nodeid, 0)
    return item.callspec.params["batch_size"] == size and (tried[item.nodeid] == 1 or size == 2)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    tried[item.nodeid] = tried.get(item.nodeid, 0) + 1
    if is_to_fail(item, 1) or is_to_fail(item, 2):
        raise RuntimeError("before it was timed")
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    yield
    if is_to_fail(item, 3):
        raise RuntimeError("after it was timed")
"""

# Nothing tells the machine's limits; what is called in a row of batch 2 is traced from its setup on.
FAULTS = """
import sys
import pytest
import lenet.measurement.limits

def fail(device):
    raise ArithmeticError("of a library")

lenet.measurement.limits.measure_limits = fail

@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    yield
    if item.callspec.params["batch_size"] == 2:
        sys.settrace(lambda *_: None)

@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    sys.settrace(None)
    return (yield)
"""


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir()
    for name, code in {"tracing": TRACING, "again": AGAIN, "faults": FAULTS}.items():
        (folder / f"{name}_for_a_test.py").write_text(code)
    return folder


def test_what_would_spoil_every_row_is_refused_in_a_line(plugins: Path) -> None:
    messages = {
        "-p no:benchmark": "pytest-benchmark, which measures, is not loaded: leave out `-p no:benchmark`",
        "-p xdist --numprocesses=4": "rows measured side by side would slow each other down: leave out xdist's -n and ",
        "-p tracing_for_a_test": "what is timed would include tracing_for_a_test (sys.settrace): measure without, or ",
    }
    for option, message in messages.items():
        done = refused(*option.split(), plugins=plugins)
        assert "INTERNALERROR" not in done.stdout + done.stderr
        assert done.stderr.startswith(f"ERROR: {message}"), (option, done.stderr)


def test_it_measures_where_plugins_do_not_load_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    done = benchmarks("--mode=forward", "--benchmark-autosave", storage=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(results.load(the_file(tmp_path)).rows) == 1


def test_of_a_row_that_is_run_again_the_last_attempt_decides(plugins: Path, tmp_path: Path) -> None:
    sizes = [f"--batch-size={size}" for size in (1, 2, 3)]
    options = (*QUICK, "--mode=forward", "-p", "again_for_a_test")
    done = benchmarks(*sizes, "--benchmark-autosave", storage=tmp_path, quick=options, plugins=plugins)
    found = results.load(the_file(tmp_path))
    assert [row.case.batch_size for row in found.rows] == [1, 3], done.stdout
    assert [(one.name, one.reason) for one in found.not_run] == [
        ("pytorch-forward-2-fp32-pinned-float32", "failed: RuntimeError: before it was timed")
    ]
    assert done.returncode == 1


def test_limits_that_cannot_be_measured_cost_the_floors_and_a_tracer_costs_its_row(
    plugins: Path, tmp_path: Path
) -> None:
    options = (*QUICK, "--mode=forward", "-p", "faults_for_a_test", "--batch-size=1", "--batch-size=2")
    done = benchmarks("--benchmark-autosave", storage=tmp_path, quick=options, plugins=plugins)
    found = results.load(the_file(tmp_path))
    assert [(row.case.batch_size, row.floor) for row in found.rows] == [(1, None)], done.stdout
    assert found.limits is None
    assert "No row has a floor: the machine's limits cannot be measured: ArithmeticError('of a library')" in done.stdout
    (missing,) = found.not_run
    assert missing.name == "pytorch-forward-2-fp32-pinned-float32"
    assert missing.reason == "failed: what is timed would include faults_for_a_test (sys.settrace): measure without"
    assert done.returncode == 1
