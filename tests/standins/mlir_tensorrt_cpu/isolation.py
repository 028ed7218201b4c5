"""pytest hooks: tests marked ``nvtripy_on_cpu`` run in a child process, in which the stand-in is installed.

nvtripy keeps what it finds at its first import, so a process has either the stand-in or NVIDIA's compiled half, for
good. The child runs all marked tests that were selected, and sends its reports; here each test then reports as if it
had run in this process. A module of such tests is imported in both, and so imports nvtripy within its tests alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from lenet.backends import entry, installed_version
from tests.standins.mlir_tensorrt_cpu import install

MARKER: Final = "nvtripy_on_cpu"
_REPORTS: Final = "LENET_STANDIN_REPORTS"
"""Environment variable that makes a process the child: the file that its reports go to, one JSON object a line."""

_Reports: TypeAlias = dict[str, list[pytest.TestReport]]
_REPORTS_KEY: Final = pytest.StashKey[_Reports]()
_OUTPUT_KEY: Final = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARKER}: runs nvtripy on the CPU stand-in, in a child process")
    if _REPORTS in os.environ:
        install()
        config.pluginmanager.register(_Sender(config, Path(os.environ[_REPORTS])))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_marked)  # last: pytest expects the next test of this process right after the one before
    tripy = entry("tripy")
    if installed_version(tripy) is None:
        skip = pytest.mark.skip(reason=f"nvtripy is not installed: {tripy.install} (its front end alone: --no-deps)")
        for item in filter(_marked, items):
            item.add_marker(skip)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Run the child before any test, so that no test's time limit counts it."""
    if not session.config.option.collectonly and any(map(_delegated, session.items)):
        session.stash[_REPORTS_KEY], session.stash[_OUTPUT_KEY] = _run_child(session)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Report a test that ran in the child."""
    if not _delegated(item):
        return None
    stash = item.session.stash
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = stash[_REPORTS_KEY][item.nodeid]
    if not any(report.when == "teardown" for report in reports):
        reports.append(_unfinished(item, stash[_OUTPUT_KEY]))
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _marked(item: pytest.Item) -> bool:
    return item.get_closest_marker(MARKER) is not None


def _delegated(item: pytest.Item) -> bool:
    return _REPORTS not in os.environ and _marked(item) and item.get_closest_marker("skip") is None


def _run_child(session: pytest.Session) -> tuple[_Reports, str]:
    """The child's reports by test, and what it printed."""
    tests = [item.nodeid for item in session.items if _delegated(item)]
    reports: _Reports = defaultdict(list)
    with tempfile.TemporaryDirectory() as directory:
        sent = Path(directory) / "reports"
        child = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *tests],
            check=False,
            cwd=session.config.rootpath,
            env=os.environ | {_REPORTS: str(sent)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lines = sent.read_text().splitlines() if sent.exists() else []
    for line in lines:
        report = session.config.hook.pytest_report_from_serializable(config=session.config, data=json.loads(line))
        if isinstance(report.longrepr, list):  # where and why a test was skipped; JSON has no tuples
            report.longrepr = tuple(report.longrepr)
        reports[report.nodeid].append(report)
    return reports, child.stdout


def _unfinished(item: pytest.Item, output: str) -> pytest.TestReport:
    """The report of a test that the child did not finish."""
    text = f"the child process ended before this test did; it printed:\n{output}"
    return pytest.TestReport(item.nodeid, item.location, dict.fromkeys(item.keywords, 1), "failed", text, "call")


class _Sender:
    """In the child: writes each report down."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        self._config = config
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data: dict[str, Any] = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        with self._path.open("a") as file:
            file.write(json.dumps(data) + "\n")
