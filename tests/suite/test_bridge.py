"""What the suite uses of pytest-benchmark's, attribute by attribute, and what it refuses of its options."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytest_benchmark
import pytest_benchmark.plugin
from pytest_benchmark.fixture import BenchmarkFixture
from pytest_benchmark.session import BenchmarkSession
from pytest_benchmark.stats import Metadata
from pytest_benchmark.utils import parse_compare_fail

from lenet.suite import bridge

PLAIN_OPTIONS = {"min_rounds": 1, "max_time": 1, "min_time": 1, "timer": None}


def configuration(arguments: Iterable[str] = (), addopts: Iterable[str] = ()) -> pytest.Config:
    """As much of pytest's configuration as `bridge.check` reads."""
    found = SimpleNamespace(
        pluginmanager=SimpleNamespace(is_registered=lambda plugin: plugin is pytest_benchmark.plugin),
        invocation_params=SimpleNamespace(args=tuple(arguments)),
        getini=lambda name: list(addopts) if name == "addopts" else None,
    )
    return cast("pytest.Config", found)


@pytest.fixture
def own(request: pytest.FixtureRequest) -> Any:
    """A session of pytest-benchmark's, with one benchmark that was measured."""
    session = BenchmarkSession(request.config)
    fixture = SimpleNamespace(
        name="test_x[1]",
        fullname="benchmarks/test_x.py::test_x[1]",
        group=None,
        param="1",
        params={"batch_size": 1},
        extra_info={},
        cprofile_stats=None,
        has_error=False,
    )
    measured = Metadata(fixture, iterations=1, options=PLAIN_OPTIONS)
    for seconds in (0.5, 0.25, 0.125):
        measured.update(seconds)
    session.benchmarks.append(measured)
    return session


@pytest.fixture
def session(own: Any) -> bridge.Session:
    return bridge.Session(cast("pytest.Config", SimpleNamespace(_benchmarksession=own)))


def test_pytest_keeps_the_session_where_the_bridge_looks(request: pytest.FixtureRequest) -> None:
    assert isinstance(request.config._benchmarksession, BenchmarkSession)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "name",
    [
        "autosave",
        "benchmarks",
        "compare",
        "compare_fail",
        "compared_mapping",
        "disabled",
        "json",
        "logger.info",
        "machine_id",
        "performance_regressions.clear",
        "save_json",
        "storage.default_machine_id",
        "storage.save",
    ],
)
def test_each_attribute_of_the_session_is_where_the_bridge_looks(own: Any, name: str) -> None:
    for part in name.split("."):
        assert hasattr(own, part), f"pytest-benchmark {pytest_benchmark.__version__} has moved {name}"
        own = getattr(own, part)


def test_each_attribute_of_the_fixture_is_where_the_bridge_looks() -> None:
    assert callable(BenchmarkFixture.pedantic), "it takes a row's rounds"


def test_what_was_measured_is_told(own: Any, session: bridge.Session) -> None:
    (entry,) = session.entries()
    assert (entry.name, entry.fullname) == ("test_x[1]", "benchmarks/test_x.py::test_x[1]")
    assert entry.params == {"batch_size": 1}
    assert entry.median == 0.25
    assert entry.document["stats"]["rounds"] == 3
    assert "data" not in entry.document["stats"]
    entry.extra_info["speedup_over_pytorch"] = 2.0
    assert own.benchmarks[0].as_dict()["extra_info"] == {"speedup_over_pytorch": 2.0}


def test_what_was_never_timed_is_not_told(own: Any, session: bridge.Session) -> None:
    own.benchmarks.insert(0, Metadata(own.benchmarks[0].fixture, iterations=1, options=PLAIN_OPTIONS))
    assert len(session.entries()) == 1


def test_a_case_that_failed_is_forgotten(session: bridge.Session) -> None:
    session.forget("test_y")
    assert len(session.entries()) == 1
    session.forget("test_x[1]")
    assert session.entries() == []


def test_files_are_written_by_the_suite(own: Any, session: bridge.Session, tmp_path: Path) -> None:
    saved = []

    def save(content: bytes, name: str) -> Path:
        saved.append((content, name))
        return tmp_path / name

    def save_json(content: bytes, path: Path) -> None:
        saved.append((content, path.name))

    said: list[str] = []
    own.logger.info = said.append
    own.json = tmp_path / "x.json"
    session.save_by("cpu-x", save, save_json)
    assert own.machine_id == own.storage.default_machine_id == "cpu-x"
    own.storage.save({"a": 1}, "baseline")
    own.save_json({"a": 2})
    assert saved == [
        (b'{\n    "a": 1\n}', "baseline"),
        (b'{\n    "a": 2\n}', "x.json"),
    ]
    assert said == [], "the summary names the numbered file, and what was not written is not told"


def test_a_run_is_saved_by_default_under_its_time_or_not_at_all(own: Any, session: bridge.Session) -> None:
    option = SimpleNamespace(benchmark_autosave=None)
    bridge.save_by_default(cast("pytest.Config", SimpleNamespace(option=option)))
    assert re.fullmatch(r"\d{8}_\d{6}", option.benchmark_autosave)
    own.autosave = option.benchmark_autosave
    session.save_no_default()
    assert own.autosave is None


def test_only_pairs_are_compared_and_what_is_slower_is_told(own: Any, session: bridge.Session) -> None:
    assert session.compared() is None
    theirs = {"stats": {"median": 0.1, "outliers": "1;\x1b[0m", "note": "text"}}
    own.compared_mapping = {"0001.json": {"b": theirs, "c": theirs}}
    own.compare_fail = [parse_compare_fail("median:10%")]
    found = session.compared()
    assert found is not None
    assert (found.path, set(found.benchmarks)) == ("0001.json", {"b", "c"})
    name = own.benchmarks[0].fullname
    slower = session.compare_alone({name: "b"})
    assert list(slower) == [name]
    assert "150.0" in slower[name]
    shown = own.compared_mapping["0001.json"]
    assert list(shown) == [name]
    assert shown[name]["stats"] == {"median": 0.1, "outliers": r"1;\u001b[0m"}, (
        "texts of a file are escaped or left out"
    )
    own.performance_regressions.append("x")
    session.raise_no_regression()
    assert own.performance_regressions == []


@pytest.mark.parametrize("version", ["5.2.9", "6.0.0", "10.1"])
def test_another_release_is_refused_with_the_range(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(pytest_benchmark, "__version__", version)
    message = rf"pytest-benchmark {version} is not known to the suite: \S*pip install 'pytest-benchmark>=5\.3,<6'"
    with pytest.raises(pytest.UsageError, match=message):
        bridge.check(configuration())


@pytest.mark.parametrize("version", ["5.3.0", "5.11.2"])
def test_a_known_release_is_used(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(pytest_benchmark, "__version__", version)
    bridge.check(configuration(["benchmarks", "--benchmark-save=x", "--rounds=3"]))


EFFECTLESS = (
    "--benchmark-min-rounds=3",
    "--benchmark-warmup",
    "--benchmark-max-time=2",
    "--benchmark-cprofile=tottime",
)


@pytest.mark.parametrize("option", EFFECTLESS)
def test_an_option_without_effect_is_refused_wherever_it_was_typed(
    monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    name = option.partition("=")[0]
    refusal = pytest.raises(pytest.UsageError, match=f"{name} changes nothing in this suite: ")
    with refusal:
        bridge.check(configuration(["benchmarks", option]))
    with refusal:
        bridge.check(configuration(addopts=[option]))
    monkeypatch.setenv("PYTEST_ADDOPTS", f"-q {option}")
    with refusal:
        bridge.check(configuration())


def test_each_option_without_effect_is_one_of_pytest_benchmark_s() -> None:
    """Its help and not the table says which options there are."""
    parser = pytest.Parser(_ispytest=True)
    pytest_benchmark.plugin.pytest_addoption(parser)
    known = {name for group in parser._groups for option in group.options for name in option.names()}
    assert set(bridge._NO_EFFECT) <= known
    effective = known - set(bridge._NO_EFFECT)
    shown = {"--benchmark-sort", "--benchmark-group-by", "--benchmark-columns", "--benchmark-name"}
    shown |= {"--benchmark-time-unit", "--benchmark-histogram", "--benchmark-verbose", "--benchmark-quiet"}
    kept = {f"--benchmark-{name}" for name in ("save", "autosave", "save-data", "json", "compare", "compare-fail")}
    kept |= {"--benchmark-storage", "--benchmark-netrc"}
    chosen = {f"--benchmark-{name}" for name in ("skip", "disable", "enable", "only")}
    assert effective == shown | kept | chosen, "decide for a new option whether it has an effect here"
