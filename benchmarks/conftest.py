"""The suite's options, its cases, what is kept of a run, and the tables at its end."""

from __future__ import annotations

import argparse
import io
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import pytest
import pytest_benchmark.plugin
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from pytest_benchmark.logger import PytestBenchmarkWarning
from pytest_benchmark.utils import safe_dumps

from lenet import backends, comparison, devices, results, weights
from lenet.architecture import STAGES
from lenet.backends.base import Backend, BuildSpec, Runner
from lenet.data import cifar10
from lenet.data.cifar10 import Split, SplitName
from lenet.data.synthetic import synthetic
from lenet.errors import BackendError, DataError, LenetError, OutputError, ResultsError, did_you_mean
from lenet.files import prepare_file, write_atomically
from lenet.measurement.clocks import Adaptive, Coursework, Protocol, Replay
from lenet.measurement.environment import describe_difference, fingerprint, machine_facts, machine_kind
from lenet.measurement.floor import Limits
from lenet.measurement.gpu_state import GpuSampler
from lenet.measurement.host_state import HostWatch, NoHostWatch
from lenet.measurement.instrumentation import instruments
from lenet.measurement.limits import measure_limits
from lenet.measurement.memory import PeakMemory, allocated, free_workspaces
from lenet.parity import ENOUGH_IMAGES, Reference
from lenet.report.rounding import significant
from lenet.report.tables import first_names, group_reasons, limits_line, remarks, rows_sheets, sheet_5, to_rich
from lenet.results import Matching, NotRun, Row
from lenet.terminal import Terminal, visible
from lenet.vocabulary import HostMemory, InputType, Mode, Precision

_TEST_IMAGES: Final = 10_000
_DEFAULTS: Final[Mapping[str, tuple[Any, ...]]] = {
    "backend": backends.names(),
    "mode": tuple(Mode),
    "batch_size": (1000,),
    "precision": (Precision.FP32,),
    "host_memory": (HostMemory.PINNED,),
    "input": (InputType.FLOAT32,),
}
_OPTIONS: Final = {
    "backend_name": "backend",
    "mode": "mode",
    "batch_size": "batch_size",
    "precision": "precision",
    "host_memory": "host_memory",
    "input_type": "input",
}
"""The option that each fixture of a case takes its values from."""


class _Run:
    """What is known of a run beside its benchmarks.

    Attributes:
        facts: The machine's.
        kind: Of the machine.
        fingerprint: Of the machine.
        not_run: Cases that were skipped or failed, by their node.
        partial: Whether the run was interrupted.
        cases: Inference cases that were collected.
        of_backends: Cases of a backend that were collected, inference or not.
        verdict: What is to be said of the run as a whole.
        limits: The machine's, once they are measured.
        matching: What the run has in common with its baseline, where there is one.
        regressed: Why each row fails `--benchmark-compare-fail`, by its name.
        unsaved: Why a file could not be saved.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        self.kind = machine_kind(facts)
        self.fingerprint = fingerprint(facts)
        self.not_run: dict[str, NotRun] = {}
        self.partial = False
        self.cases = 0
        self.of_backends = 0
        self.verdict: str | None = None
        self.limits: Limits | None = None
        self.matching: Matching | None = None
        self.regressed: dict[str, str] = {}
        self.unsaved: list[OutputError] = []


_run_key = pytest.StashKey[_Run]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lenet", "LeNet")

    def several(name: str, kind: Callable[[str], Any], text: str) -> None:
        group.addoption(name, action="append", type=kind, help=f"{text}; repeatable")

    several("--backend", _choice("backend", backends.names()), "measure this backend (default: all)")
    several("--mode", _choice("mode", Mode), "forward or end_to_end (default: both)")
    several("--batch-size", _positive, "images a batch (default: 1000)")
    several("--precision", _choice("precision", Precision), "fp32, tf32, fp16, bf16 or fp16x2 (default: fp32)")
    several(
        "--host-memory",
        _choice("memory", HostMemory),
        "where end-to-end's batch lies: pinned or pageable memory that is copied from, or zero-copy, which is pinned "
        "memory that the device reads itself (default: pinned)",
    )
    several(
        "--input", _choice("input type", InputType), "float32, normalised images, or uint8, bytes (default: float32)"
    )
    group.addoption("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    group.addoption("--cold-cache", action="store_true", help="empty the GPU's L2 cache before each forward pass")
    group.addoption(
        "--protocol",
        type=_choice("protocol", ("coursework", "adaptive")),
        default="coursework",
        help="coursework: 5 warm-ups, 100 rounds; adaptive: until the median is known to 1 %% (default: coursework)",
    )
    group.addoption("--rounds", type=_positive, help="rounds of the coursework's protocol (default: 100)")
    group.addoption("--warmups", type=_whole, default=5, help="batches before the first round (default: 5)")
    group.addoption("--time-limit", type=_seconds, help="seconds a row may take, adaptive (default: 10)")


def _choice(what: str, choices: Iterable[str]) -> Callable[[str], str]:
    """A converter for an option that takes one of some words, and names the nearest for any other."""
    by_name = {str(choice): choice for choice in choices}

    def convert(text: str) -> str:
        if text not in by_name:
            hint = " ".join(filter(None, [did_you_mean(text, by_name), f"there are {', '.join(by_name)}"]))
            raise pytest.UsageError(f"there is no {what} {text!r}: {hint}")
        return by_name[text]

    return convert


def _whole(text: str, least: int = 0) -> int:
    """A converter for an option that takes a whole number; argparse puts the option's name before the message."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
    return int(text)


_positive = partial(_whole, least=1)


def _seconds(text: str) -> float:
    """A converter for an option that takes a time."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number of seconds")
    return found


def pytest_configure(config: pytest.Config) -> None:
    """Describe the machine, and refuse a comparison with another before anything is measured.

    This runs before pytest-benchmark's own, which reads the file to compare with.
    """
    _refuse_company(config)
    option = config.option
    if option.benchmark_compare_fail and not option.benchmark_compare:
        raise pytest.UsageError("--benchmark-compare-fail wants --benchmark-compare: nothing is compared without it")
    adaptive = option.protocol == "adaptive"
    if option.rounds if adaptive else option.time_limit:
        own, other = ("--rounds", "coursework") if adaptive else ("--time-limit", "adaptive")
        raise pytest.UsageError(f"{own} is for --protocol={other}: --protocol={option.protocol} does not use it")
    # Where a row is interrupted pytest-benchmark warns that it was not used; as an error that would hide the tables.
    config.addinivalue_line("filterwarnings", "default::pytest_benchmark.logger.PytestBenchmarkWarning")
    try:
        run = config.stash[_run_key] = _Run(machine_facts(devices.resolve(option.device)))
        storage = _storage(config)
        if name := option.benchmark_save or option.benchmark_autosave:
            prepare_file(storage / run.kind / f"0000_{name}.json", "--benchmark-storage")
        if option.benchmark_json:
            prepare_file(option.benchmark_json, "--benchmark-json")
        if option.benchmark_compare is True:
            found, problems = results.newest(storage, run.kind, run.fingerprint, run.facts)
            for problem in problems:
                print(f"lenet: passed over: {problem}", file=sys.stderr)  # noqa: T201
            option.benchmark_compare = str(found.path)
        elif option.benchmark_compare:
            found = results.load(results.find_file(storage, run.kind, option.benchmark_compare))
            option.benchmark_compare = str(found.path)
        if option.benchmark_compare:
            _refuse_a_hidden_name(option.benchmark_compare)
    except LenetError as error:
        raise pytest.UsageError(visible(str(error))) from error


def _refuse_a_hidden_name(path: str) -> None:
    """pytest-benchmark prints the name as it is."""
    if visible(path) != path or "\n" in path:
        raise ResultsError(
            "the name of the baseline cannot be printed",
            found=path.replace("\n", " "),
            wanted="a name without control characters",
            hint="rename the file",
        )


def _refuse_company(config: pytest.Config) -> None:
    """Refuse to measure without pytest-benchmark, beside other processes of pytest, or under a tracer."""
    if not config.pluginmanager.is_registered(pytest_benchmark.plugin):
        raise pytest.UsageError("pytest-benchmark, which measures, is not loaded: leave out `-p no:benchmark`")
    option = config.option
    if getattr(option, "numprocesses", None) or getattr(option, "tx", None) or hasattr(config, "workerinput"):
        raise pytest.UsageError("rows measured side by side would slow each other down: leave out xdist's -n and --tx")
    if not (option.benchmark_disable or option.collectonly) and (found := instruments()):
        raise pytest.UsageError(f"{_traced(found)}, or with --benchmark-disable")


def _storage(config: pytest.Config) -> Path:
    return Path(config.option.benchmark_storage.removeprefix("file://"))


def pytest_sessionstart(session: pytest.Session) -> None:
    """File results under the kind of machine, each file whole or not at all.

    pytest-benchmark's own name for the machine holds neither CPU nor GPU, its own files can be left half-written, and
    its numbers end at 9999.
    """
    stored, run = session.config._benchmarksession, session.config.stash[_run_key]  # type: ignore[attr-defined]
    stored.machine_id = stored.storage.default_machine_id = run.kind

    def save(document: dict[str, Any], name: str) -> None:
        folder = stored.storage.path / run.kind
        keep(document, lambda content: results.store(content, name, folder, "--benchmark-storage"))

    def save_json(document: dict[str, Any]) -> None:
        def write(content: bytes) -> Path:
            write_atomically(stored.json, content)
            return Path(stored.json)

        keep(document, write)

    def keep(document: dict[str, Any], write: Callable[[bytes], Path]) -> None:
        try:
            path = write(safe_dumps(document, indent=4).encode())
        except OutputError as error:
            run.unsaved.append(error)
        else:
            said = f"Saved benchmark data in: {path}"
            stored.logger.info(said)

    stored.storage.save, stored.save_json = save, save_json


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    return config.stash[_run_key].facts


@pytest.hookimpl(tryfirst=True)
def pytest_benchmark_compare_machine_info(
    config: pytest.Config, machine_info: dict[str, Any], compared_benchmark: dict[str, Any]
) -> None:
    """Refuse a named baseline of another machine, or of this one by an older clock; the newest is of this one."""
    run = config.stash[_run_key]
    theirs = results.identity(compared_benchmark)
    if theirs != run.fingerprint:
        differences = describe_difference(run.facts, compared_benchmark["machine_info"])
        differs = f"  differs: {'; '.join(differences)}\n" if differences else ""
        raise pytest.UsageError(
            visible(
                f"the baseline is of another machine or clock\n  found:  {theirs}\n  wanted: {run.fingerprint}, this "
                f"one\n{differs}  next:   record a baseline here with `nox -s baseline`"
            )
        )
    # pytest-benchmark's own check comes after, and warns of any difference, the commit's too.
    compared_benchmark["machine_info"] = machine_info


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    run = config.stash[_run_key]
    output_json["lenet"] = {
        "schema": results.SCHEMA,
        "kind": run.kind,
        "fingerprint": run.fingerprint,
        "limits": run.limits.to_json() if run.limits else None,
        "protocol": asdict(_protocol(config)),
        "partial": run.partial,
        "regressed": list(run.regressed),
        "not_run": [{"name": item.name, "reason": item.reason} for item in run.not_run.values()],
    }


def pytest_benchmark_group_stats(config: pytest.Config | None) -> list[Any] | None:
    """No table of pytest-benchmark's own beside the suite's, unless runs are compared."""
    return [] if config is not None and not config._benchmarksession.compare else None  # type: ignore[attr-defined]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture in _OPTIONS:
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, _chosen(metafunc.config, fixture), ids=str)


def _chosen(config: pytest.Config, fixture: str) -> list[Any]:
    """What the options ask for, in their order."""
    option = _OPTIONS[fixture]
    return list(dict.fromkeys(config.getoption(f"--{option.replace('_', '-')}") or _DEFAULTS[option]))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        # A warning of a library is no fault of what is measured; in the tests it is an error.
        item.add_marker(pytest.mark.filterwarnings("default"))
        if "store" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.benchmark(timer=Replay()))
    # Forward copies nothing: it is measured once, beside the first kind of host memory.
    again = [item for item in items if _is_forward_again(config, item)]
    if again:
        config.hook.pytest_deselected(items=again)
        items[:] = [item for item in items if item not in again]
    items.sort(key=partial(_runner_key, config))
    run = config.stash[_run_key]
    run.cases = sum("mode" in getattr(item, "fixturenames", ()) for item in items)
    run.of_backends = sum("backend_name" in getattr(item, "fixturenames", ()) for item in items)


def _parameters(item: pytest.Item) -> dict[str, Any]:
    """A case's values by fixture. (pytest numbers the cases, not the values: the place of one is looked up.)"""
    return getattr(getattr(item, "callspec", None), "params", {})


def _is_forward_again(config: pytest.Config, item: pytest.Item) -> bool:
    found = _parameters(item)
    return found.get("mode") is Mode.FORWARD and found["host_memory"] != _chosen(config, "host_memory")[0]


def _runner_key(config: pytest.Config, item: pytest.Item) -> tuple[str, *tuple[int, ...]]:
    """What a case's runner depends on, in the order of the options: cases that share one run one after the other."""
    found = _parameters(item)
    names = ("backend_name", "precision", "batch_size", "input_type")
    return (str(item.path), *(_chosen(config, name).index(found[name]) if name in found else 0 for name in names))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Note what was not measured; of a test that failed at any moment, nothing is kept.

    A plugin may run a test again: it then begins anew, and its last attempt decides.
    """
    report = yield
    run = item.config.stash[_run_key]
    if report.when == "setup":
        run.not_run.pop(item.nodeid, None)
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        run.not_run[item.nodeid] = NotRun(results.short_name(item.name), reason)
    if report.failed:
        session = item.config._benchmarksession  # type: ignore[attr-defined]
        session.benchmarks[:] = [kept for kept in session.benchmarks if kept.name != item.name]
        run.not_run[item.nodeid] = NotRun(results.short_name(item.name), results.FAILED + _first_line(report))
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    """Time nothing that is traced: a debugger or another test may have begun to since the run did."""
    if not item.config.option.benchmark_disable and (found := instruments()):
        pytest.fail(_traced(found), pytrace=False)
    return (yield)


def _traced(found: Iterable[str]) -> str:
    return f"what is timed would include {', '.join(found)}: measure without"


def _first_line(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    return next(iter(text.strip().removeprefix("Failed: ").splitlines()), "no message")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Any:
    """Finish the run before pytest-benchmark saves it, which it does in a wrapper, ahead of all that is none."""
    _finish(session, exitstatus)
    with warnings.catch_warnings():
        # Nor is it an error that there is nothing to save. It warns outside of what pytest's own filters cover.
        warnings.simplefilter("default", PytestBenchmarkWarning)
        done = yield
    run = session.config.stash.get(_run_key, None)
    if run is not None and run.unsaved and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR  # 1 says that a row failed or became slower
    return done


def _finish(session: pytest.Session, exitstatus: int) -> None:
    """Put each row's speed-up beside it; a run that was to measure inference and measured none has failed."""
    run = session.config.stash.get(_run_key, None)
    if run is None or session.config.option.collectonly:
        return
    run.partial = exitstatus == pytest.ExitCode.INTERRUPTED
    rows = _rows(session.config)
    for benchmark in session.config._benchmarksession.benchmarks:  # type: ignore[attr-defined]
        found = results.row(benchmark.as_dict(include_data=False)) if benchmark else None
        if found is not None:
            benchmark.extra_info["speedup_over_pytorch"] = results.speedup(found, rows)
    _compare(session.config, run)
    benchmarks = session.config._benchmarksession  # type: ignore[attr-defined]
    if benchmarks.disabled:
        run.verdict = "pytest-benchmark is disabled: nothing that was measured is kept."
        return
    if run.cases and not rows:
        run.verdict = "No inference row was measured: the run has failed."
    elif run.of_backends and not any("backend_name" in (one.params or {}) for one in benchmarks.benchmarks if one):
        run.verdict = "No case of a backend was measured: the run has failed."
    unmatched = run.matching is not None and not run.matching.alike
    if (run.verdict or run.regressed or unmatched) and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _compare(config: pytest.Config, run: _Run) -> None:
    """Have pytest-benchmark compare what measured the same, and note what is slower before the run is saved.

    It matches by name, which tells neither the images nor the protocol, and looks for what is slower after it saved.
    """
    session = config._benchmarksession  # type: ignore[attr-defined]
    ours = {one.fullname: _case(one.as_dict(include_data=False)) for one in session.benchmarks if one}
    if not session.compared_mapping or not ours:
        return
    ((path, theirs),) = session.compared_mapping.items()
    run.matching = results.match(ours, {name: _case(one) for name, one in theirs.items()})
    session.compared_mapping = {path: {name: _printable(theirs[other]) for name, other in run.matching.alike.items()}}
    for one in session.benchmarks:
        if one and (other := run.matching.alike.get(one.fullname)):
            checks = [check.fails(one, theirs[other]["stats"]) for check in session.compare_fail or ()]
            if any(checks):
                run.regressed[results.short_name(one.name)] = "; ".join(filter(None, checks))


def _printable(benchmark: Mapping[str, Any]) -> dict[str, Any]:
    """A benchmark of the baseline: pytest-benchmark prints its texts as they are, and lets them replace the run's."""
    kept = {name: value for name, value in benchmark["stats"].items() if not isinstance(value, str)}
    return {**benchmark, "stats": {**kept, "outliers": visible(str(benchmark["stats"].get("outliers", "")))}}


def _case(benchmark: Mapping[str, Any]) -> results.Case | None:
    found = results.row(benchmark)
    return found.case if found else None


def _comparison(run: _Run) -> Iterable[str]:
    """What was compared with the baseline and what was not, in lines."""

    def named(names: Iterable[str]) -> str:
        return first_names([results.short_name(name.rpartition("::")[2]) for name in names])

    matching = run.matching
    if matching is None:
        return
    yield f"Compared with the baseline: {len(matching.alike)}"
    for why, those in group_reasons(matching.unlike).items():
        yield f"  not compared, under other conditions in the baseline ({len(those)}): {named(those)}: {why}"
    for names, where in ((matching.new, "not in the baseline"), (matching.gone, "only in the baseline")):
        if names:
            yield f"  {where} ({len(names)}): {named(names)}"
    for name, why in run.regressed.items():
        yield f"Slower than the baseline: {name}: {why}"
    if not matching.alike:
        yield "Nothing in the baseline measured the same: the comparison has failed."


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> Any:
    # It would raise what `_finish` has noted: a traceback in the place of the tables.
    config._benchmarksession.performance_regressions.clear()  # type: ignore[attr-defined]
    try:
        return (yield)
    finally:
        _print_summary(terminalreporter, config)


def _print_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    run = config.stash.get(_run_key, None)
    if run is None or config.option.collectonly:
        return
    rows = _rows(config)
    text = io.StringIO()
    console = Terminal(file=text, width=terminalreporter._tw.fullwidth, color_system=None)
    others = [one for one in config._benchmarksession.benchmarks if one and "case" not in one.extra_info]  # type: ignore[attr-defined]
    for other in others:
        facts = ", ".join(f"{key} {value}" for key, value in other.extra_info.items() if value not in ({}, None))
        median = f"{significant(1e3 * other.stats.median, 4)} ms"
        console.print(f"{other.name}: {median}{f' ({facts})' if facts else ''}", highlight=False, markup=False)
    if rows:
        if run.limits:
            console.print(limits_line(run.limits), highlight=False)
        console.print(*map(to_rich, rows_sheets(rows)), crop=False)
    for remark in remarks(rows):
        console.print(f"! {remark}", highlight=False, markup=False)
    console.print(sheet_5(rows, list(run.not_run.values())), crop=False)
    if run.partial:
        console.print("The run was interrupted: rows are missing.")
    if run.verdict:
        console.print(run.verdict)
    for line in (*_comparison(run), *(f"Not saved: {error}" for error in run.unsaved)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    terminalreporter.section("LeNet")
    terminalreporter.write(text.getvalue())


def _rows(config: pytest.Config) -> list[Row]:
    benchmarks = config._benchmarksession.benchmarks  # type: ignore[attr-defined]
    found = [results.row(one.as_dict(include_data=False)) for one in benchmarks if one]
    return [row for row in found if row is not None]


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    return devices.resolve(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def sampler(device: torch.device) -> Any:
    with GpuSampler(device) as opened:
        yield opened


@pytest.fixture(scope="session")
def host(device: torch.device) -> NoHostWatch:
    """Watches the thread that launches a GPU's work; on a CPU the work is many threads'."""
    return HostWatch() if device.type == "cuda" else NoHostWatch()


@pytest.fixture(scope="session")
def shipped() -> weights.Weights:
    return weights.load()


@pytest.fixture(scope="session")
def protocol(request: pytest.FixtureRequest) -> Protocol:
    return _protocol(request.config)


def _protocol(config: pytest.Config) -> Protocol:
    option = config.getoption
    if option("--protocol") == "adaptive":
        return Adaptive(warmups=option("--warmups"), time_limit=option("--time-limit") or 10.0)
    return Coursework(warmups=option("--warmups"), rounds=option("--rounds") or 100)


@pytest.fixture(scope="session")
def test_split(load_split: Callable[[SplitName, int], Split]) -> Split:
    return load_split("test", _TEST_IMAGES)


@pytest.fixture(scope="session")
def load_split(data_directory: Path | None, request: pytest.FixtureRequest) -> Callable[[SplitName, int], Split]:
    accept_unknown = request.config.getoption("--accept-unknown-data")
    return partial(_load_split, data_directory, accept_unknown=accept_unknown)


def _load_split(directory: Path | None, split: SplitName, count: int, *, accept_unknown: bool) -> Split:
    """The images of a split, or so many synthetic ones where there is no directory."""
    if directory is None:
        return synthetic(count)
    try:
        return cifar10.load(split, directory, accept_unknown=accept_unknown)
    except DataError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def limits(request: pytest.FixtureRequest, device: torch.device) -> Callable[[], Limits | None]:
    """Tells the machine's limits, which are measured when the first row asks, and saved with the run."""
    run = request.config.stash[_run_key]
    measured: list[Limits | None] = []

    def find() -> Limits | None:
        if not measured:
            measured.append(_limits_or_none(device))
            run.limits = measured[0]
        return run.limits

    return find


def _limits_or_none(device: torch.device) -> Limits | None:
    """The machine's limits; rows can be measured without, so that a fault here costs their floors alone."""
    try:
        return measure_limits(device)
    except Exception as error:  # noqa: BLE001 - whatever a library raises
        warnings.warn(f"no row has a floor: the machine's limits cannot be measured: {error!r}", stacklevel=2)
        return None


def _refuse_what_does_not_fit(batch_size: int) -> None:
    """Fail before the system ends the process.

    The host's memory has a batch's images, and each layer's output for its reference. A GPU refuses by itself.
    """
    elements = sum(np.prod(stage.input_shape) for stage in STAGES)
    needed = int(4 * elements * batch_size)
    free = psutil.virtual_memory().available
    if needed > free:
        pytest.fail(
            f"batch {batch_size:,} does not fit: about {needed:,} bytes, {free:,} free in the host's memory",
            pytrace=False,
        )


@pytest.fixture(scope="session")
def reference_of(shipped: weights.Weights, test_split: Split) -> Callable[[int, InputType], Reference]:
    """The reference of whole batches of test images, normalised or as bytes: one, or as many as `ENOUGH_IMAGES` take.

    The images are the first ones, and again from the first where the batch is larger than the test set.
    """

    @cache
    def find(batch_size: int, input_type: InputType) -> Reference:
        count = batch_size * math.ceil(ENOUGH_IMAGES / batch_size)
        _refuse_what_does_not_fit(count)
        return comparison.reference_of(shipped.arrays, _first_images(test_split, count), input_type)

    return find


def _first_images(split: Split, batch_size: int) -> torch.Tensor:
    """uint8 (batch size, 3, 32, 32): the first ones, and again from the first where the batch is larger."""
    return split.images[torch.arange(batch_size) % len(split)]


@pytest.fixture(scope="session")
def host_images(
    reference_of: Callable[[int, InputType], Reference],
) -> Callable[[int, InputType, HostMemory], torch.Tensor]:
    """A batch in the host's memory, which rows may fill with other images; pinned once for all that want it so."""

    @cache
    def memory(batch_size: int, input_type: InputType, *, pinned: bool) -> torch.Tensor:
        batch = reference_of(batch_size, input_type).images[:batch_size]
        return batch.pin_memory() if pinned else batch.clone()

    def find(batch_size: int, input_type: InputType, host_memory: HostMemory) -> torch.Tensor:
        return memory(batch_size, input_type, pinned=host_memory is not HostMemory.PAGEABLE)

    return find


@pytest.fixture
def backend(backend_name: str, device: torch.device) -> Backend:
    """The backend, or a skip that says why it cannot run here."""
    found = backends.load(backend_name)
    availability = found.probe(device)
    if not availability:
        pytest.skip(availability.reason or "")
    return found


@pytest.fixture
def executed(backend: Backend, precision: Precision, device: torch.device) -> str:
    """The precision that the backend really runs, or a skip where it runs none such."""
    try:
        return backend.executed_precision(precision, device)
    except BackendError as error:
        pytest.skip(error.summary)


@dataclass(slots=True)
class Built:
    """A runner, the bytes of device memory that were in use before it was built, and how long that took, in seconds."""

    runner: Runner
    held_before: int
    build_seconds: float = 0.0
    _buffer: torch.Tensor | None = None

    def buffer(self, batch: torch.Tensor) -> torch.Tensor:
        """Where a batch such as this lies on the device: one place for all rows of the runner.

        So a row's memory does not depend on which rows ran before. What lies there is all zeros.
        """
        if self._buffer is None:
            self._buffer = torch.empty_like(batch, device=self.runner.spec.device)
        return self._buffer.zero_()

    def taken(self, peak: PeakMemory, *, zero_copy: bool) -> int | None:
        """The bytes that a row's call took, the runner's own among them; None where that cannot be told.

        Where the call reads the host's memory, the batch on the device is of the runner's other rows.
        """
        others = self._buffer.nbytes if zero_copy and self._buffer is not None else 0
        return peak.beyond(self.held_before + others)


class Builds:
    """The last runner that was built, and no other.

    Args:
        arrays: The weights by parameter name.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = arrays
        self._last: dict[tuple[str, BuildSpec], Built] = {}

    def __call__(self, backend: Backend, spec: BuildSpec) -> Built:
        """The runner, built anew unless it is the last one."""
        key = (backend.name, spec)
        if key not in self._last:
            self.close()  # else the last runner's memory would count as in use before this one
            free_workspaces(spec.device)
            held, began = allocated(spec.device), time.perf_counter()
            runner = backend.build(self._arrays, spec)
            self._last[key] = Built(runner, held, time.perf_counter() - began)
        return self._last[key]

    def close(self) -> None:
        """Close the last runner."""
        while self._last:
            self._last.popitem()[1].runner.close()


@pytest.fixture(scope="session")
def build(shipped: weights.Weights) -> Iterator[Callable[[Backend, BuildSpec], Built]]:
    """Builds a runner, or hands out the last one again: the rows of one runner stand side by side."""
    with closing(Builds(shipped.arrays)) as builds:
        yield builds


@pytest.fixture
def store(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> Callable[[Iterable[float]], None]:
    """Hands seconds that were measured already to pytest-benchmark, a round each."""

    def keep(seconds: Iterable[float]) -> None:
        samples = list(seconds)
        marker = request.node.get_closest_marker("benchmark")
        marker.kwargs["timer"].load(samples)
        benchmark.pedantic(lambda: None, rounds=len(samples), iterations=1)

    return keep
