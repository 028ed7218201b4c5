"""Choose the cases that run, sort them, and note what became of each."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest

from lenet import results
from lenet.measurement.instrumentation import instruments
from lenet.results import NotRun
from lenet.suite.bridge import Session, use_replay
from lenet.suite.options import CHOICES, chosen
from lenet.suite.run import RUN
from lenet.vocabulary import Mode, threads_name

__all__ = ["choose_and_sort", "note_outcome", "parametrize", "refuse_company", "refuse_instruments"]


def refuse_company(config: pytest.Config) -> None:
    """Refuse to measure beside other processes of pytest, or under a tracer.

    Raises:
        pytest.UsageError: There are such processes, or there is a tracer.
    """
    option = config.option
    if getattr(option, "numprocesses", None) or getattr(option, "tx", None) or hasattr(config, "workerinput"):
        raise pytest.UsageError("rows measured side by side would slow each other down: leave out xdist's -n and --tx")
    if not (option.benchmark_disable or option.collectonly) and (found := instruments()):
        raise pytest.UsageError(f"{_traced(found)}, or with --benchmark-disable")


def refuse_instruments(item: pytest.Item) -> None:
    """Fail a case that is traced. A debugger or another test may have started tracing during the run."""
    if not item.config.option.benchmark_disable and (found := instruments()):
        pytest.fail(_traced(found), pytrace=False)


def _traced(found: Iterable[str]) -> str:
    return f"what is timed would include {', '.join(found)}: measure without"


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Give a case the values that the options ask for."""
    for fixture in CHOICES:
        if fixture in metafunc.fixturenames and (values := chosen(metafunc.config, fixture)):
            if fixture == "threads":  # the fixture sets them
                metafunc.parametrize(fixture, values, ids=threads_name, indirect=True)
            else:
                metafunc.parametrize(fixture, values, ids=str)


def choose_and_sort(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the options do not ask for, and sort the rest so that cases of one runner follow each other."""
    for item in items:
        # A library's warning does not make a row wrong. In the tests it is an error.
        item.add_marker(pytest.mark.filterwarnings("default"))
        if "store" in _fixtures(item):
            use_replay(item)
    left_out = [item for item in items if _is_forward_again(config, item) or _is_of_no_backend(config, item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    items.sort(key=partial(_runner_key, config))
    run = config.stash[RUN]
    run.cases = sum("mode" in _fixtures(item) for item in items)
    run.of_backends = sum("backend_name" in _fixtures(item) for item in items)


def note_outcome(item: pytest.Item, report: pytest.TestReport, session: Session) -> None:
    """Note a case that was not measured, and drop what a failed case measured.

    A plugin may run a case again. Its last attempt then decides.
    """
    run = item.config.stash[RUN]
    if report.when == "setup":
        run.not_run.pop(item.nodeid, None)
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        run.not_run[item.nodeid] = NotRun(results.short_name(item.name), reason)
    if report.failed:
        session.forget(item.name)
        run.not_run[item.nodeid] = NotRun(results.short_name(item.name), results.FAILED + _first_line(report))


def _fixtures(item: pytest.Item) -> Iterable[str]:
    return getattr(item, "fixturenames", ())


def _parameters(item: pytest.Item) -> dict[str, Any]:
    """A case's parameters by fixture."""
    return getattr(getattr(item, "callspec", None), "params", {})


def _is_forward_again(config: pytest.Config, item: pytest.Item) -> bool:
    """Whether a forward case repeats another. It copies nothing, so one host memory is enough."""
    found = _parameters(item)
    return found.get("mode") is Mode.FORWARD and found["host_memory"] != chosen(config, "host_memory")[0]


def _is_of_no_backend(config: pytest.Config, item: pytest.Item) -> bool:
    """Whether backends were named, and a case has no backend and its file was not named."""
    if not config.getoption("--backend") or "backend_name" in _fixtures(item):
        return False
    named = (argument.partition("::")[0] for argument in config.args)
    return item.path.resolve() not in {(config.invocation_params.dir / one).resolve() for one in named}


def _runner_key(config: pytest.Config, item: pytest.Item) -> tuple[str, *tuple[int, ...]]:
    """The sort key of a case: what its runner depends on, in the order of the options."""
    found = _parameters(item)
    names = ("backend_name", "precision", "batch_size", "input_type", "threads")
    return (str(item.path), *(chosen(config, name).index(found[name]) if name in found else 0 for name in names))


def _first_line(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    return next(iter(text.strip().removeprefix("Failed: ").splitlines()), "no message")
