"""The hooks that `benchmarks/conftest.py` imports for pytest.

The conftest does not name this module as a plugin, because pytest calls a conftest's hooks only for the cases below it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

import pytest

from lenet import results
from lenet.errors import LenetError
from lenet.measurement.environment import machine_facts
from lenet.measurement.readiness import disturbances
from lenet.results import speedup
from lenet.suite import baseline, bridge, cases, storage, summary
from lenet.suite.bridge import Session
from lenet.suite.options import (
    add_options,
    check_depth,
    check_device,
    check_options,
    only_lists,
    protocol_of,
    use_settings,
)
from lenet.suite.progress import Progress
from lenet.suite.run import RUN, Run, rows_of
from lenet.terminal import forgive_output, secure_streams, tell, visible

__all__ = [
    "pytest_addoption",
    "pytest_benchmark_compare_machine_info",
    "pytest_benchmark_generate_machine_info",
    "pytest_benchmark_group_stats",
    "pytest_benchmark_update_json",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_generate_tests",
    "pytest_report_collectionfinish",
    "pytest_runtest_call",
    "pytest_runtest_makereport",
    "pytest_sessionfinish",
    "pytest_sessionstart",
    "pytest_terminal_summary",
]

_LOOK: Final = 0.5
"""Seconds for which other work is watched before the first case."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the suite's options."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Check the options, describe the machine and choose the baseline, before anything is measured.

    This runs before pytest-benchmark's own hook, which reads the baseline.
    """
    secure_streams()
    output_lost = forgive_output()  # before pytest makes its reporter
    bridge.check(config)
    cases.refuse_company(config)
    check_options(config.option)
    # pytest-benchmark warns after an interrupted row that it was not used. As an error this would hide the tables.
    config.addinivalue_line("filterwarnings", "default::pytest_benchmark.logger.PytestBenchmarkWarning")
    option = config.option
    try:
        if not storage.in_gate(config):
            use_settings(config)
        run = config.stash[RUN] = Run({} if only_lists(option) else _machine(config))
        run.output_lost = output_lost
        storage.prepare(config, run)
        baseline.choose(config, run)
    except LenetError as error:
        raise pytest.UsageError(visible(str(error))) from error


def _machine(config: pytest.Config) -> dict[str, Any]:
    """The facts of the machine, on which the options can be measured. PyTorch is imported here."""
    from lenet import devices, weights

    option = config.option
    if option.weights:
        weights.load(option.weights)
    device = devices.resolve(option.device)
    check_device(option, device)
    check_depth(config, device)
    return machine_facts(device)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Save results in the folder of the kind of machine, each file whole or not at all."""
    run = session.config.stash[RUN]
    if run.facts:
        storage.save_files(session.config, run)


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    """The machine's facts, instead of pytest-benchmark's own."""
    return config.stash[RUN].facts


@pytest.hookimpl(tryfirst=True)
def pytest_benchmark_compare_machine_info(
    config: pytest.Config, machine_info: dict[str, Any], compared_benchmark: dict[str, Any]
) -> None:
    """Refuse a baseline of another machine."""
    baseline.refuse_another_machine(config.stash[RUN], compared_benchmark)
    # pytest-benchmark's own check follows. It would warn of any difference, even of the commit.
    compared_benchmark["machine_info"] = machine_info


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Add the suite's facts about the run."""
    run = config.stash[RUN]
    output_json["lenet"] = {
        "schema": results.SCHEMA,
        "kind": run.kind,
        "fingerprint": run.fingerprint,
        "limits": run.limits.to_json() if run.limits else None,
        "protocol": asdict(protocol_of(config)),
        "weights": run.weights,
        "partial": run.partial,
        "cause": run.cause,
        "regressed": list(run.regressed),
        "not_run": [{"name": item.name, "reason": item.reason} for item in run.not_run.values()],
    }


def pytest_benchmark_group_stats(config: pytest.Config | None) -> list[Any] | None:
    """Leave out pytest-benchmark's own table, unless runs are compared and ``-v`` is given."""
    return None if config is None or (Session(config).compares and config.option.verbose > 0) else []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give cases their parameters."""
    cases.parametrize(metafunc)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose and sort the cases."""
    cases.choose_and_sort(config, items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Note a case that was not measured."""
    report = yield
    cases.note_outcome(item, report, Session(item.config))
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    """Fail a case that is traced."""
    cases.refuse_instruments(item)
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Any:
    """Finish the run before pytest-benchmark saves it. Its hook is a wrapper, so this must be one too."""
    run = session.config.stash.get(RUN, None)
    if run is not None and not session.config.option.collectonly:
        _finish(session, run, exitstatus)
    foreseen = len(run.unsaved) if run is not None else 0
    with Session(session.config).warnings_shown():
        done = yield
    if run is not None and len(run.unsaved) > foreseen and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR  # 1 says that a row failed or became slower
    if run is not None and session.exitstatus and (why := summary.failure(run)):
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(visible(f"FAILED: {why}"), red=True)
    if run is not None and run.output_lost():
        tell("lenet: the run's output could not be written" + (f"; saved: {run.saved}" if run.saved else ""), err=True)
        if session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
    return done


def _finish(session: pytest.Session, run: Run, exitstatus: int) -> None:
    """Store each row's speed-up, compare the run with its baseline, and decide whether it has failed."""
    measured = Session(session.config)
    run.partial = exitstatus == pytest.ExitCode.INTERRUPTED
    rows = rows_of(measured)
    storage.save_nothing_without_rows(session.config, len(rows))
    run.pytorch = baseline.saved_pytorch(run, rows, storage.storage_of(session.config))
    others = [*rows, *(run.pytorch.rows if run.pytorch else ())]
    for entry in measured.entries():
        if (row := results.row(entry.document)) is not None:
            entry.extra_info["speedup_over_pytorch"] = speedup(row, others)
    baseline.compare(measured, run)
    busy = run.work.look()
    if rows and run.work.disturbs(busy):
        run.cause = f"other work kept {busy:.1f} of {len(run.work.cpus)} CPUs busy: end it, and measure again"
    if measured.disabled:
        run.verdict = "pytest-benchmark is disabled: nothing that was measured is kept."
        return
    if run.cases and not rows:
        run.verdict = "No inference row was measured: the run has failed."
    elif run.of_backends and not any("backend_name" in entry.params for entry in measured.entries()):
        run.verdict = "No case of a backend was measured: the run has failed."
    unmatched = run.matching is not None and not run.matching.alike
    if (run.verdict or run.regressed or unmatched) and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> Any:
    """Print the suite's tables last. Without ``-v`` they also stand for pytest's list of skipped cases and warnings."""
    session = Session(config)
    session.raise_no_regression()
    run = config.stash.get(RUN, None)
    verbose = config.option.verbose > 0
    counted = dict(terminalreporter.stats)
    if run is not None and not verbose:
        summary.hide_what_is_told(terminalreporter.stats, run)
    try:
        return (yield)
    finally:
        terminalreporter.stats.update(counted)  # the last line counts all
        if run is not None and not config.option.collectonly:
            summary.print_summary(terminalreporter, run, session, verbose=verbose)


@pytest.hookimpl(trylast=True)
def pytest_report_collectionfinish(config: pytest.Config, items: Sequence[pytest.Item]) -> list[str]:
    """Say what disturbs the measurements, and take over pytest's progress."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if not items or config.option.collectonly:
        return []
    session = Session(config)
    if reporter is not None and config.option.verbose == 0:
        config.pluginmanager.register(Progress(reporter, items, session))
    if session.disabled or storage.in_gate(config):
        return []
    from lenet import devices

    work = config.stash[RUN].work
    work.look()
    time.sleep(_LOOK)
    found = disturbances(work, work.look(), devices.resolve(config.option.device))
    return [f"! {line}" for line in found]
