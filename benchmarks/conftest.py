"""The suite's options and cases, and the coursework's table at the end of a run."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from rich.console import Console

from lenet import backends, devices, weights
from lenet.backends.base import Backend, Precision
from lenet.data import cifar10
from lenet.data.cifar10 import Split
from lenet.data.synthetic import synthetic
from lenet.errors import LenetError
from lenet.report.tables import sheet_5
from lenet.results import NotRun, row

_MODES = ("forward", "end_to_end")
_TEST_IMAGES = 10_000
_not_run = pytest.StashKey[list[NotRun]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lenet", "LeNet")
    group.addoption("--backend", action="append", help="measure this backend; repeatable (default: all)")
    group.addoption("--mode", action="append", choices=_MODES, help="measure this mode; repeatable (default: both)")
    group.addoption("--batch-size", action="append", type=int, help="images a batch; repeatable (default: 1000)")
    group.addoption("--precision", action="append", type=Precision, help="repeatable (default: fp32)")
    group.addoption("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    group.addoption("--rounds", type=int, default=100, help="timed batches a row (default: 100)")
    group.addoption("--warmups", type=int, default=5, help="batches before them (default: 5)")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_not_run] = []
    try:
        devices.resolve(config.getoption("--device"))
        for name in config.getoption("--backend") or ():
            backends.entry(name)
    except LenetError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    option = metafunc.config.getoption
    values = {
        "backend_name": option("--backend") or backends.names(),
        "mode": option("--mode") or _MODES,
        "batch_size": option("--batch-size") or (1000,),
        "precision": option("--precision") or (Precision.FP32,),
    }
    for name, choices in values.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, choices, ids=str)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        item.config.stash[_not_run].append(NotRun(item.name, reason.removeprefix("Skipped: ")))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> Any:
    yield
    session = config._benchmarksession  # type: ignore[attr-defined]
    found = [row(benchmark.as_dict(include_data=False)) for benchmark in session.benchmarks if benchmark]
    rows = [item for item in found if item is not None]
    not_run = config.stash[_not_run]
    if not rows and not not_run:
        return
    text = io.StringIO()
    console = Console(file=text, width=terminalreporter._tw.fullwidth, color_system=None)
    console.print(sheet_5(rows, not_run))
    terminalreporter.section("LeNet")
    terminalreporter.write(text.getvalue())


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    return devices.resolve(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def shipped() -> weights.Weights:
    return weights.load()


@pytest.fixture(scope="session")
def test_split(data_directory: Path | None) -> Split:
    """The real test images, or as many synthetic ones."""
    if data_directory is None:
        return synthetic(_TEST_IMAGES)
    # A saved row says what the images are, not where they lie on one's disk.
    return replace(cifar10.load("test", data_directory), source="CIFAR-10 test images")


@pytest.fixture
def backend(backend_name: str, device: torch.device) -> Backend:
    """The backend, or a skip that says why it cannot run here."""
    found = backends.load(backend_name)
    availability = found.probe(device)
    if not availability:
        pytest.skip(availability.reason or "")
    return found


@pytest.fixture
def pedantic(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> Any:
    """``benchmark.pedantic`` with the suite's number of rounds and warm-ups."""
    option = request.config.getoption

    def run(target: Any, *args: Any) -> Any:
        return benchmark.pedantic(
            target, args=args, rounds=option("--rounds"), warmup_rounds=option("--warmups"), iterations=1
        )

    return run
