"""What continuous integration runs besides the sessions themselves, with a nox that only does as it is told."""

import ast
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

ROOT = Path(__file__).parents[1]
Gate = Callable[..., "CompletedProcess[str]"]


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """Run ``.ci/gate`` where nox ends with a code, after writing the table that it is given."""

    def run(code: int, table: str, base: str = "origin/main", *options: str, **more: str) -> "CompletedProcess[str]":
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "gate.md").write_text(table)
        nox = tmp_path / "bin" / "nox"
        nox.parent.mkdir()
        nox.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path}/arguments"\nexit {code}\n')
        nox.chmod(0o755)
        environment = {"PATH": f"{nox.parent}:/usr/bin:/bin", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")}
        command = ["bash", str(ROOT / ".ci" / "gate"), base, str(tmp_path / "out"), *options]
        return subprocess.run(
            command, env=environment | more, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    return run


@pytest.mark.parametrize(
    ("code", "title"), [(0, None), (1, "FAIL"), (2, "no verdict"), (3, "INCONCLUSIVE"), (137, "no verdict")]
)
def test_the_gates_verdict_is_shown_and_passed_on(gate: Gate, tmp_path: Path, code: int, title: str | None) -> None:
    done = gate(code, "| row | verdict |\n")
    assert done.returncode == code
    assert (tmp_path / "summary").read_text() == "| row | verdict |\n"
    assert re.findall(r"^::error title=(.*?)::.", done.stdout, flags=re.MULTILINE) == ([title] if title else [])


@pytest.mark.parametrize("code", [0, 1, 3])
def test_a_verdict_without_a_table_is_an_error(gate: Gate, tmp_path: Path, code: int) -> None:
    done = gate(code, "")
    assert done.returncode == 2
    assert "::error title=no verdict::" in done.stdout
    assert not (tmp_path / "summary").exists()


@pytest.mark.parametrize(("code", "title"), [(0, None), (1, "FAIL"), (2, "no verdict"), (3, "INCONCLUSIVE")])
def test_an_advisory_verdict_is_a_warning(gate: Gate, code: int, title: str | None) -> None:
    done = gate(code, "table", ADVISORY="yes")
    assert done.returncode == 0
    assert re.findall(r"^::(\w+) title=(.*?)::.", done.stdout, flags=re.MULTILINE) == (
        [("warning", title)] if title else []
    )


def test_options_are_handed_on_as_they_are(gate: Gate, tmp_path: Path) -> None:
    gate(0, "table", "main", "--budget=25m", "--backend=a b", "$(touch made)")
    given = (tmp_path / "arguments").read_text().splitlines()
    assert given[5:] == ["--out", str(tmp_path / "out"), "--budget=25m", "--backend=a b", "$(touch made)"]


def test_a_branchs_name_is_no_command(gate: Gate, tmp_path: Path) -> None:
    base = 'origin/$(touch made)`touch made`";touch made;" *'
    gate(1, "table", base)
    given = (tmp_path / "arguments").read_text().splitlines()
    assert given == ["-s", "gate", "--", "--base", base, "--out", str(tmp_path / "out")]
    assert not (tmp_path / "made").exists()
    assert not (ROOT / "made").exists()


def test_every_session_that_is_called_exists() -> None:
    module = ast.parse((ROOT / "noxfile.py").read_text())
    sessions = {one.name for one in module.body if isinstance(one, ast.FunctionDef) and one.decorator_list}
    for file in [*ROOT.glob(".ci/*"), *ROOT.glob(".github/workflows/*.yml")]:
        called = re.findall(r"nox -s ([a-z]+(?: [a-z]+)*)", file.read_text())
        assert {name for names in called for name in names.split()} <= sessions, file


def test_what_measures_on_the_lasting_runner_finds_no_code_of_another_run() -> None:
    steps = re.split(r"\n      - ", (ROOT / ".github" / "workflows" / "benchmark.yml").read_text())
    measuring = [step for step in steps if step.startswith("name: measure")]
    assert len(measuring) == 2
    for step in measuring:
        assert "LENET_CACHE: ${{ runner.temp }}/" in step
        assert "TMPDIR: ${{ runner.temp }}" in step
