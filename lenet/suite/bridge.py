"""The one module that uses private attributes of pytest-benchmark.

`check` refuses a release that this module was not written for. `tests/suite/test_bridge.py` names each attribute that a
release has moved.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shlex import split
from typing import Any, Final

import pytest
import pytest_benchmark
import pytest_benchmark.plugin
from pytest_benchmark.fixture import BenchmarkFixture
from pytest_benchmark.logger import PytestBenchmarkWarning
from pytest_benchmark.utils import PercentageRegressionCheck, safe_dumps

from lenet.provenance import pip_install
from lenet.suite.replay import Replay
from lenet.terminal import visible

__all__ = ["SUPPORTED", "Compared", "Entry", "Session", "Store", "check", "save_by_default", "use_replay", "was_typed"]

SUPPORTED: Final = ((5, 3), (6,))
"""The first release that the suite supports, and the first later one that it does not."""

_PROFILE: Final = "`python -m cProfile -m lenet evaluate --backend=NAME` profiles a backend"
_NO_EFFECT: Final[Mapping[str, str]] = {
    "--benchmark-min-time": "--rounds=NUMBER chooses how long a row is measured",
    "--benchmark-max-time": "--protocol=adaptive --time-limit=SECONDS bounds a row's time",
    "--benchmark-min-rounds": "--rounds=NUMBER chooses the rounds",
    "--benchmark-precision": "--protocol=adaptive measures until the median is known to 1 %",
    "--benchmark-confidence": "the interval of a median is of 95 %",
    "--benchmark-timer": "rows are timed by the suite's own clock",
    "--benchmark-calibration-precision": "a round is one batch",
    "--benchmark-warmup": "--warmups=NUMBER chooses the batches before the first round",
    "--benchmark-warmup-iterations": "--warmups=NUMBER chooses the batches before the first round",
    "--benchmark-disable-gc": "no garbage is collected during rounds anyway",
    "--benchmark-cprofile": _PROFILE,
    "--benchmark-cprofile-loops": _PROFILE,
    "--benchmark-cprofile-top": _PROFILE,
    "--benchmark-cprofile-dump": _PROFILE,
}
"""pytest-benchmark's options that have no effect on a row, each with the suite's own way."""


def check(config: pytest.Config) -> None:
    """Check that pytest-benchmark is loaded, of a supported release, and without options that have no effect.

    Raises:
        pytest.UsageError: It is not.
    """
    if not config.pluginmanager.is_registered(pytest_benchmark.plugin):
        raise pytest.UsageError("pytest-benchmark, which measures, is not loaded: leave out `-p no:benchmark`")
    version = pytest_benchmark.__version__
    first, last = (".".join(map(str, one)) for one in SUPPORTED)
    found = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if not SUPPORTED[0] <= found < SUPPORTED[1]:
        raise pytest.UsageError(
            f"pytest-benchmark {version} is not known to the suite: "
            + pip_install(f"'pytest-benchmark>={first},<{last}'")
        )
    _refuse_without_effect(config)


def _refuse_without_effect(config: pytest.Config) -> None:
    """Refuse options without effect. The typed text is searched, since a value may also be a default."""
    for option in _typed(config):
        if option in _NO_EFFECT:
            raise pytest.UsageError(f"{option} changes nothing in this suite: {_NO_EFFECT[option]}")


def _typed(config: pytest.Config) -> list[str]:
    """The options of the command line, of pytest's configuration and of its variable, each without its value."""
    typed = (*config.invocation_params.args, *config.getini("addopts"), *split(os.environ.get("PYTEST_ADDOPTS", "")))
    return [str(argument).partition("=")[0] for argument in typed]


def was_typed(config: pytest.Config, option: str) -> bool:
    """Whether an option was typed, whatever its value."""
    return option in _typed(config)


def save_by_default(config: pytest.Config) -> None:
    """Make pytest-benchmark save the run, named after the time in UTC."""
    config.option.benchmark_autosave = f"{datetime.now(UTC):%Y%m%d_%H%M%S}"


def use_replay(item: pytest.Item) -> None:
    """Make pytest-benchmark take a case's times from its `Store`."""
    item.add_marker(pytest.mark.benchmark(timer=Replay()))


class Store:
    """Gives pytest-benchmark seconds that are measured already.

    Args:
        item: The case, prepared by `use_replay`.
        benchmark: The case's fixture of pytest-benchmark.
    """

    def __init__(self, item: pytest.Item, benchmark: BenchmarkFixture) -> None:
        self._item = item
        self._benchmark = benchmark

    def __call__(self, seconds: Iterable[float]) -> None:
        """Store the case's rounds, each in seconds."""
        samples = list(seconds)
        marker = self._item.get_closest_marker("benchmark")
        assert marker is not None
        marker.kwargs["timer"].load(samples)
        self._benchmark.pedantic(lambda: None, rounds=len(samples), iterations=1)


@dataclass(frozen=True, slots=True)
class Entry:
    """One measured case.

    Attributes:
        name: The case's name.
        fullname: The name with its file.
        params: The case's parameters by fixture.
        extra_info: What the case stored beside its times. More may be added.
        median: Median of the rounds, in seconds.
        document: The entry as it is saved, without the rounds.
    """

    name: str
    fullname: str
    params: Mapping[str, Any]
    extra_info: dict[str, Any]
    median: float
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Compared:
    """The file that a run is compared with.

    Attributes:
        path: The file.
        benchmarks: Its benchmarks by full name.
    """

    path: Any
    benchmarks: Mapping[str, Mapping[str, Any]]


class Session:
    """pytest-benchmark's session of a run.

    Args:
        config: pytest's configuration, after pytest-benchmark's own hook ran.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @property
    def _own(self) -> Any:
        return self._config._benchmarksession  # type: ignore[attr-defined]  # noqa: SLF001 - see above

    @property
    def disabled(self) -> bool:
        """Whether nothing is measured, as with ``--benchmark-disable``."""
        return bool(self._own.disabled)

    @property
    def compares(self) -> bool:
        """Whether the run is compared with a file."""
        return bool(self._own.compare)

    def entries(self) -> list[Entry]:
        """The cases that are measured so far."""
        found = []
        for one in self._own.benchmarks:
            if one:
                document = one.as_dict(include_data=False)
                facts = (one.params or {}, one.extra_info, one.stats.median, document)
                found.append(Entry(one.name, one.fullname, *facts))
        return found

    def forget(self, name: str) -> None:
        """Drop what a case measured, because it failed."""
        own = self._own
        own.benchmarks[:] = [kept for kept in own.benchmarks if kept.name != name]

    def save_by(
        self,
        kind: str,
        save: Callable[[bytes, str], Path | None],
        save_json: Callable[[bytes, Path], Path | None],
    ) -> None:
        """Make pytest-benchmark save files with other functions.

        Its own name for the machine holds neither CPU nor GPU, its files may stay half-written, and its numbers end at
        9999.

        Args:
            kind: The kind of machine, which is the name of its folder.
            save: Writes a numbered file, given its content and name. Returns the file, or None if it cannot.
            save_json: Writes the file of ``--benchmark-json``, given its content and path. Returns the file, or None if
                it cannot.
        """
        own = self._own
        own.machine_id = own.storage.default_machine_id = kind

        def keep(document: Mapping[str, Any], name: str) -> None:
            save(_content(document), name)

        def keep_json(document: Mapping[str, Any]) -> None:
            if (path := save_json(_content(document), own.json)) is not None:
                text = f"Wrote benchmark data in: {path}"
                own.logger.info(text)

        own.storage.save, own.save_json = keep, keep_json

    def save_no_default(self) -> None:
        """Undo `save_by_default`."""
        self._own.autosave = None

    def compared(self) -> Compared | None:
        """The file that the run is compared with, if there is one."""
        mapping = self._own.compared_mapping
        if not mapping:
            return None
        ((path, benchmarks),) = mapping.items()
        return Compared(path, benchmarks)

    def compare_alone(self, pairs: Mapping[str, str]) -> dict[str, str]:
        """Compare only some benchmarks of the run, each with one of the file.

        Args:
            pairs: By the full name of a benchmark of the run, the full name of the file's.

        Returns:
            For each benchmark that ``--benchmark-compare-fail`` refuses, by its full name, why it is slower.
        """
        own = self._own
        compared = self.compared()
        assert compared is not None
        chosen = {name: compared.benchmarks[other] for name, other in pairs.items()}
        own.compared_mapping = {compared.path: {name: _printable(one) for name, one in chosen.items()}}
        slower = {}
        for one in own.benchmarks:
            if one and one.fullname in chosen:
                then = chosen[one.fullname]["stats"]
                broken = [_growth(check, one, then) for check in own.compare_fail or () if check.fails(one, then)]
                if broken:
                    slower[one.fullname] = "; ".join(broken)
        return slower

    def rules(self) -> tuple[str, ...]:
        """What ``--benchmark-compare-fail`` refuses, in words."""
        return tuple(f"the {check.field} grows by more than {_threshold(check)}" for check in self._checks)

    def ruled_field(self) -> str | None:
        """The figure that the first rule of ``--benchmark-compare-fail`` is about. None if there is no rule."""
        return next((check.field for check in self._checks), None)

    @property
    def _checks(self) -> tuple[Any, ...]:
        return tuple(self._own.compare_fail or ())

    def raise_no_regression(self) -> None:
        """Keep pytest-benchmark from raising regressions. The suite reports them, with tables and no traceback."""
        self._own.performance_regressions.clear()

    @contextmanager
    def warnings_shown(self) -> Iterator[None]:
        """Show pytest-benchmark's warnings while it saves. pytest's own filters do not cover that time."""
        with warnings.catch_warnings():
            warnings.simplefilter("default", PytestBenchmarkWarning)
            yield


def _threshold(check: Any) -> str:
    """The limit of a rule of ``--benchmark-compare-fail``. pytest-benchmark's are in percent or in seconds."""
    return f"{check.threshold} %" if _in_percent(check) else f"{check.threshold:g} s"


def _growth(check: Any, now: Any, then: Mapping[str, Any]) -> str:
    """What broke a rule."""
    grown = check.compute(now, then)
    unit = f"{grown:.1f} %" if _in_percent(check) else f"{grown:.3g} s"
    return f"the {check.field} grew by {unit}, more than {_threshold(check)}"


def _in_percent(check: Any) -> bool:
    return isinstance(check, PercentageRegressionCheck)


def _content(document: Mapping[str, Any]) -> bytes:
    content: str = safe_dumps(document, indent=4)
    return content.encode()


def _printable(benchmark: Mapping[str, Any]) -> dict[str, Any]:
    """A benchmark of the baseline with safe texts. pytest-benchmark would print them as they are."""
    kept = {name: value for name, value in benchmark["stats"].items() if not isinstance(value, str)}
    return {**benchmark, "stats": {**kept, "outliers": visible(str(benchmark["stats"].get("outliers", "")))}}
