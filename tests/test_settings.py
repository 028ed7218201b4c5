"""The table [tool.lenet] of pyproject.toml: its values, its errors, and who uses them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

import noxfile
from lenet import backends, settings
from lenet.cli import main
from lenet.errors import SettingsError
from lenet.gate import command as gate_command
from lenet.settings import Settings
from lenet.vocabulary import Precision
from tests import preloaded
from tests.benchmarks.test_suite import ROOT, environment

WHOLE = """
[tool.lenet]
backends = ["onnxruntime", "pytorch"]
batch-sizes = [10, 1]
precision = "fp16"
gate-tolerance = 0.02
gate-harm = 0.1
"""
NO_KEY = "[tool.lenet]\n"


def write(directory: Path, text: str) -> Path:
    (directory / "pyproject.toml").write_text(text)
    return directory


def lenet(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), env={"COLUMNS": "120"})


def test_each_key_is_read(tmp_path: Path) -> None:
    found = settings.read(write(tmp_path, WHOLE))
    assert found == Settings(("onnxruntime", "pytorch"), (10, 1), Precision.FP16, 0.02, 0.1)
    assert found.suite_values() == {
        "--backend": ["onnxruntime", "pytorch"],
        "--batch-size": [10, 1],
        "--precision": [Precision.FP16],
    }


@pytest.mark.parametrize("text", [None, "", "[project]\nname = 'x'\n", NO_KEY])
def test_without_the_table_nothing_is_set(tmp_path: Path, text: str | None) -> None:
    assert settings.read(write(tmp_path, text) if text is not None else tmp_path) == Settings()
    assert Settings().suite_values() == {}


WRONG = [
    ("batch_sizes = [1]", "batch_sizes", "did you mean batch-sizes"),
    ("backend = ['pytorch']", "backend", "did you mean backends"),
    ("tolerance = 0.01", "tolerance", "did you mean gate-tolerance?"),
    ("zzz = 1", "zzz", "remove it"),
    ("backends = ['pytroch']", "['pytroch']", "did you mean pytorch"),
    ("backends = 'pytorch'", "'pytorch'", "correct the value"),
    ("backends = []", "[]", "correct the value"),
    ("batch-sizes = [0]", "[0]", "correct the value"),
    ("batch-sizes = [true]", "[True]", "correct the value"),
    ("batch-sizes = 1000", "1000", "correct the value"),
    ("precision = 'fp61'", "'fp61'", "did you mean fp16"),
    ("precision = ['fp16']", "['fp16']", "did you mean fp16"),
    ("gate-tolerance = '1 %'", "'1 %'", "correct the value"),
    ("gate-harm = nan", "nan", "correct the value"),
    ("gate-harm = -0.1", "-0.1", "correct the value"),
]


@pytest.mark.parametrize(("line", "found", "hint"), WRONG)
def test_what_is_not_known_is_refused_with_the_near_match(tmp_path: Path, line: str, found: str, hint: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings.read(write(tmp_path, NO_KEY + line))
    assert str(tmp_path / "pyproject.toml") in refused.value.summary
    assert refused.value.found == found
    assert refused.value.hint.startswith(hint)


@pytest.mark.parametrize("text", ["[tool.lenet", "[tool]\nlenet = 3\n", "\x00"])
def test_a_file_that_holds_no_table_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match=r"pyproject\.toml"):
        settings.read(write(tmp_path, text))


toml_values = st.one_of(st.booleans(), st.integers(), st.text("ab\\n'", max_size=3).map(repr))


@given(
    key=st.sampled_from(["backends", "batch-sizes", "precision", "gate-harm"]), value=toml_values, many=st.booleans()
)
def test_any_value_is_taken_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: Any, many: bool
) -> None:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    directory = write(tmp_path_factory.mktemp("any"), f"{NO_KEY}{key} = {f'[{text}]' if many else text}\n")
    try:
        found = settings.read(directory)
    except SettingsError as error:
        assert error.hint  # noqa: PT017 - either outcome is right
    else:
        assert found != Settings()


def test_the_commands_take_them_and_an_option_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def run(options: gate_command.Options) -> int:
        calls.append((options.suite, options.tolerance, options.harm))
        return 0

    monkeypatch.setattr(gate_command, "run", run)
    monkeypatch.chdir(write(tmp_path, WHOLE))
    assert lenet("gate", "--base=main").exit_code == 0
    backend = ("--backend=onnxruntime", "--backend=pytorch")
    assert calls.pop() == ((*backend, "--batch-size=10", "--batch-size=1", "--precision=fp16"), 0.02, 0.1)
    assert lenet("gate", "--base=main", "--harm=0.5", "--batch-size=7", "--rounds=3").exit_code == 0
    assert calls.pop() == (("--batch-size=7", "--rounds=3", *backend, "--precision=fp16"), 0.02, 0.5)
    for name in "evaluate", "doctor":
        assert "default: fp16" in lenet(name, "--help").stdout
    write(tmp_path, "")
    assert lenet("gate", "--base=main").exit_code == 0
    assert calls.pop() == ((), 0.01, 0.05)


def test_a_command_refuses_an_unknown_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write(tmp_path, NO_KEY + "batch_sizes = [1]"))
    done = lenet("backends")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "has an unknown key\n  found:  batch_sizes\n" in done.stderr
    assert "next:   did you mean batch-sizes" in done.stderr


def collected(directory: Path, *arguments: str) -> Any:
    """The rows that the suite collects in a directory with its cases."""
    return preloaded.run(
        *(
            "-m",
            "pytest",
            "-c",
            "pyproject.toml",
            f"--rootdir={directory}",
            "-p",
            "benchmark",
            "-p",
            "no:cacheprovider",
        ),
        *(
            "--import-mode=importlib",
            "benchmarks/test_inference.py",
            "--collect-only",
            "-q",
            "--device=cpu",
            *arguments,
        ),
        cwd=directory,
        env=environment() | {"PYTHONPATH": str(ROOT)},
    )


@pytest.mark.programs
def test_the_suite_takes_them_and_an_option_wins(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    for name in ("conftest.py", "benchmarks/conftest.py", "benchmarks/test_inference.py"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    write(tmp_path, WHOLE)
    done = collected(tmp_path, "--mode=forward")
    names = [line.partition("[")[2] for line in done.stdout.splitlines() if "::" in line]
    assert names == [
        f"{backend}-forward-{size}-fp16-pinned-float32]" for backend in ("onnxruntime", "pytorch") for size in (10, 1)
    ]
    done = collected(tmp_path, "--mode=forward", "--batch-size=3", "--backend=tripy")
    assert [line.partition("[")[2] for line in done.stdout.splitlines() if "::" in line] == [
        "tripy-forward-3-fp16-pinned-float32]"
    ]
    (tmp_path / "lenet_gate_turns.py").write_text("")
    done = collected(tmp_path, "--mode=forward", "-p", "lenet_gate_turns")
    assert done.stdout.count("-1000-fp32-") == len(backends.names()), "the gate gives each option"
    write(tmp_path, NO_KEY + "backends = ['pytroch']")
    done = collected(tmp_path)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: backends of [tool.lenet] in " in done.stderr
    assert "did you mean pytorch" in done.stderr


SIZES = ("--batch-size=1000", "--batch-size=1")


@pytest.mark.parametrize(
    ("table", "arguments", "sizes"),
    [
        ({}, [], SIZES),
        ({}, ["--rounds=10"], SIZES),
        ({}, ["benchmarks/test_inference.py", "-q"], SIZES),
        ({}, ["--batch-size=7"], ("--batch-size=7",)),
        ({}, ["--batch-size", "7"], ()),
        ({"batch-sizes": [3]}, ["--rounds=10"], ()),
    ],
)
def test_nox_bench_keeps_both_batch_sizes_unless_others_are_named(
    monkeypatch: pytest.MonkeyPatch, table: dict[str, Any], arguments: list[str], sizes: tuple[str, ...]
) -> None:
    ran: list[tuple[str, ...]] = []
    monkeypatch.setitem(noxfile._PROJECT["tool"], "lenet", table)
    monkeypatch.setattr(noxfile, "_in_torch_environment", lambda _, *words: ran.append(words))
    noxfile.bench.func(SimpleNamespace(posargs=arguments))
    (words,) = ran
    assert tuple(word for word in words if word.startswith("--batch-size=")) == sizes
    assert set(arguments) <= set(words)


@pytest.mark.parametrize(
    "text",
    [
        f"gate-tolerance = 1{'0' * 400}",
        f"precision = 0x{'f' * 5000}",
        f"backends = [0x{'f' * 5000}]",
        f"batch-sizes = [0x{'f' * 5000}]",
        f"harm = {'[' * 3000}",
    ],
    ids=["tolerance", "precision", "backends", "batch sizes", "deep"],
)
def test_values_that_python_cannot_hold_or_write_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(f"[tool.lenet]\n{text}\n")
    with pytest.raises(SettingsError):
        settings.read(tmp_path)


def test_a_directory_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    done = CliRunner().invoke(main, ["results"])
    assert done.exit_code == 2
    assert "the working directory is gone" in done.stderr
