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
from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from lenet.backends import entry, installed_version
from tests.standins.mlir_tensorrt_cpu import install

MARKER: Final = "nvtripy_on_cpu"
_REPORTS: Final = "LENET_STANDIN_REPORTS"
"""Environment variable that makes a process the child: the file that its reports go to, one JSON object a line."""


@dataclass(frozen=True, slots=True)
class _Child:
    """What a child leaves: its reports by test, as pytest makes JSON of them, and what it printed."""

    reports: Mapping[str, list[dict[str, Any]]]
    output: str


_CHILD_KEY: Final = pytest.StashKey[Future[_Child]]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARKER}: runs nvtripy on the CPU stand-in, in a child process")
    if _REPORTS in os.environ:
        install()
        config.pluginmanager.register(_Sender(config, Path(os.environ[_REPORTS])))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_marked)  # last: the child runs meanwhile
    tripy = entry("tripy")
    if installed_version(tripy) is None:
        skip = pytest.mark.skip(reason=f"nvtripy is not installed: {tripy.install} (its front end alone: --no-deps)")
        for item in filter(_marked, items):
            item.add_marker(skip)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Run the child beside this process's own tests, which come first."""
    if session.config.option.collectonly or not any(map(_delegated, session.items)):
        return (yield)
    with ThreadPoolExecutor(1) as beside:
        session.stash[_CHILD_KEY] = beside.submit(_run_child, session)
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Report a test that ran in the child."""
    if not _delegated(item):
        return None
    child = item.session.stash[_CHILD_KEY].result()
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = [_report(item, data) for data in child.reports[item.nodeid]]
    if not any(report.when == "teardown" for report in reports):
        reports.append(_unfinished(item, child.output))
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _marked(item: pytest.Item) -> bool:
    return item.get_closest_marker(MARKER) is not None


def _delegated(item: pytest.Item) -> bool:
    return _REPORTS not in os.environ and _marked(item) and item.get_closest_marker("skip") is None


def _run_child(session: pytest.Session) -> _Child:
    tests = [item.nodeid for item in session.items if _delegated(item)]
    reports: dict[str, list[dict[str, Any]]] = defaultdict(list)
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
        for line in sent.read_text().splitlines() if sent.exists() else ():
            report = json.loads(line)
            reports[report["nodeid"]].append(report)
    return _Child(reports, child.stdout)


def _report(item: pytest.Item, data: dict[str, Any]) -> pytest.TestReport:
    if isinstance(data["longrepr"], list):  # where and why a test was skipped; JSON has no tuples
        data = data | {"longrepr": tuple(data["longrepr"])}
    report: pytest.TestReport = item.config.hook.pytest_report_from_serializable(config=item.config, data=data)
    return report


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
