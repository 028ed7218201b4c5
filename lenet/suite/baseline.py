"""Find the saved run that a run is compared with, and compare them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from lenet import results
from lenet.errors import ResultsError
from lenet.measurement.environment import describe_difference
from lenet.report.rounding import significant
from lenet.report.tables import MARK, Sheet, first_names, group_reasons, row_name
from lenet.report.words import overlap
from lenet.results import Case, Measurement, Row
from lenet.suite.bridge import Session
from lenet.suite.run import Compared, Run
from lenet.suite.storage import storage_of
from lenet.terminal import visible
from lenet.vocabulary import BASELINE_BACKEND

__all__ = ["choose", "compare", "refuse_another_machine", "saved_pytorch", "sheet", "told"]


def choose(config: pytest.Config, run: Run) -> None:
    """Find the file for ``--benchmark-compare``, and give its path to pytest-benchmark.

    Raises:
        ResultsError: There is no such file, or it cannot be read.
    """
    option, storage = config.option, storage_of(config)
    if option.benchmark_compare is True:
        found, problems = results.newest(storage, run.kind, run.fingerprint, run.facts)
        for problem in problems:
            print(f"lenet: passed over: {visible(str(problem))}", file=sys.stderr)  # noqa: T201
        chosen = "the run saved last, as there is no baseline of" if results.is_local(found.path) else "the baseline of"
        print(f"lenet: compares with {chosen} this machine: {visible(str(found.path))}", file=sys.stderr)  # noqa: T201
    elif option.benchmark_compare:
        found = results.load(results.find_file(storage, run.kind, option.benchmark_compare))
    else:
        return
    option.benchmark_compare = str(found.path)
    _refuse_a_hidden_name(option.benchmark_compare)


def _refuse_a_hidden_name(path: str) -> None:
    """Refuse a name with control characters: pytest-benchmark prints it as it is."""
    if visible(path) != path or "\n" in path:
        raise ResultsError(
            "the name of the baseline cannot be printed",
            found=path.replace("\n", " "),
            wanted="a name without control characters",
            hint="rename the file",
        )


def refuse_another_machine(run: Run, compared: Mapping[str, Any]) -> None:
    """Refuse a baseline of another machine, or of this machine with an older clock.

    Args:
        run: The run on this machine.
        compared: The content of the baseline's file.

    Raises:
        pytest.UsageError: The baseline is of another machine or clock.
    """
    theirs = results.identity(compared)
    if theirs == run.fingerprint:
        return
    differences = describe_difference(run.facts, compared["machine_info"])
    differs = f"  differs: {'; '.join(differences)}\n" if differences else ""
    raise pytest.UsageError(
        visible(
            f"the baseline is of another machine or clock\n  found:  {theirs}\n  wanted: {run.fingerprint}, this "
            f"one\n{differs}  next:   record a baseline here with `nox -s baseline`"
        )
    )


def compare(session: Session, run: Run) -> None:
    """Make pytest-benchmark compare what measured the same, and note what is slower before it saves the run.

    By itself pytest-benchmark matches by name, which holds neither images nor protocol. It looks for what is slower
    only after saving.
    """
    ours = {entry.fullname: _case(entry.document) for entry in session.entries()}
    compared = session.compared()
    if compared is None or not ours:
        return
    run.matching = results.match(ours, {name: _case(one) for name, one in compared.benchmarks.items()})
    run.baseline, run.rules = Path(compared.path).name, session.rules()
    field = session.ruled_field() or "median"
    for entry in session.entries():
        if (other := run.matching.alike.get(entry.fullname)) is not None:
            run.compared.append(_compared(_short(entry.fullname), entry.document, compared.benchmarks[other], field))
    slower = session.compare_alone(run.matching.alike)
    run.regressed.update({_short(name): why for name, why in slower.items()})


def _compared(name: str, now: Mapping[str, Any], then: Mapping[str, Any], field: str) -> Compared:
    rows = [row for one in (now, then) if (row := results.row(one)) is not None]
    apart = len(rows) == 2 and not overlap(*rows)  # noqa: PLR2004 - both
    unstable = any(one["extra_info"].get("unstable") for one in (now, then))
    before, after = (float(one["stats"][field]) for one in (then, now))
    label = row_name(rows[0].case) if rows else name
    return Compared(name, label, field, before, after, distinct=apart, unstable=unstable)


def sheet(run: Run) -> Sheet | None:
    """The table of a comparison, the worst row first. None if nothing was compared."""
    if not run.compared:
        return None
    lines = []
    for one in sorted(run.compared, key=lambda compared: -compared.change):
        mark = MARK if one.unstable else ""
        then, now = (significant(1e3 * value) for value in (one.then, one.now))
        lines.append((one.label, then, now, f"{100 * one.change:+.1f} %{mark}", _verdict(one, run)))
    field = run.compared[0].field
    rule = f"Fails if {' or '.join(run.rules)}." if run.rules else "No rule: see --benchmark-compare-fail."
    return Sheet(
        f"Compared with {run.baseline}: {field}, ms", ("row", "then", "now", "change", "verdict"), tuple(lines), rule
    )


def _verdict(compared: Compared, run: Run) -> str:
    """A row's verdict. Without a rule that it breaks, a change counts if the medians' intervals are apart."""
    if compared.name in run.regressed:
        return "FAILED"
    if run.rules:
        return "passed"
    if compared.unstable or not compared.distinct:
        return "no claim"
    return "slower" if compared.change > 0 else "faster"


def _case(benchmark: Mapping[str, Any]) -> Case | None:
    found = results.row(benchmark)
    return found.case if found else None


def _short(fullname: str) -> str:
    return results.short_name(fullname.rpartition("::")[2])


def told(run: Run) -> Iterable[str]:
    """The lines that say what was compared with the baseline and what was not."""

    def named(names: Iterable[str]) -> str:
        return first_names([_short(name) for name in names])

    matching = run.matching
    if matching is None:
        return
    for why, those in group_reasons(matching.unlike).items():
        yield f"  not compared, under other conditions in the baseline ({len(those)}): {named(those)}: {why}"
    for names, where in ((matching.new, "not in the baseline"), (matching.gone, "only in the baseline")):
        if names:
            yield f"  {where} ({len(names)}): {named(names)}"
    if len(run.rules) > 1:  # otherwise the table says it all
        yield from (f"Slower than the baseline: {name}: {why}" for name, why in run.regressed.items())
    if not matching.alike:
        yield "Nothing in the baseline measured the same: the comparison has failed."


def saved_pytorch(run: Run, rows: Iterable[Row], storage: Path) -> Measurement | None:
    """The newest saved run of this machine with a PyTorch row that these rows lack. None if they lack none.

    Args:
        run: The run on this machine.
        rows: The run's rows.
        storage: The directory of baselines and saved runs.
    """
    lone = [one for one in rows if one.case.backend != BASELINE_BACKEND and results.speedup(one, rows) is None]

    def has_some(found: Measurement) -> bool:
        return found.fingerprint == run.fingerprint and any(results.speedup(one, found.rows) for one in lone)

    if not lone:
        return None
    # The comparison reports unreadable files.
    newest = [results.last(one, run.kind, has_some)[0] for one in results.storages(storage)]
    return max(filter(None, newest), key=lambda one: one.ended, default=None)
