"""`lenet coursework` from end to end on noise, and what stops it."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lenet.cli import coursework, main
from lenet.data import cifar10
from lenet.errors import OutputError
from lenet.files import only_writer
from lenet.report import pdf
from tests import preloaded
from tests.forked import ForkedProgram
from tests.report import documents

ROOT = Path(__file__).parents[2]
BROWSER = pdf.find_browser()
needs_browser = pytest.mark.skipif(BROWSER is None, reason=pdf.NO_BROWSER)


def command(*arguments: object) -> list[str]:
    return ["-m", "lenet", "coursework", *map(str, arguments)]


def run_few_images() -> None:
    """Make the steps of this process's coursework quick: fork them, and let them read the first images alone."""
    from tests.benchmarks import short_limits  # noqa: F401 - the machine's limits are not looked for long

    def load_few(*arguments: Any, **options: Any) -> cifar10.Split:
        return load(*arguments, **options).head(1000)

    load, cifar10.load = cifar10.load, load_few
    vars(coursework)["subprocess"] = SimpleNamespace(**{**vars(subprocess), "Popen": ForkedProgram})


def environment(**changed: str) -> Mapping[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    kept = {name: value for name, value in os.environ.items() if name != "LENET_DATA"}
    return {**kept, "PYTHONPATH": path, **changed}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose settings name one runtime, as all of them take minutes."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "pyproject.toml").write_text('[tool.lenet]\nbackends = ["pytorch"]\n')
    return folder


@pytest.fixture(scope="module")
def runs(place: Path, noise_directory: Path) -> Mapping[str, subprocess.CompletedProcess[str]]:
    """A quick run in each language, the second into the folder of the first."""
    options = ("--quick", "--data", noise_directory, "--accept-unknown-data", "--device=cpu")
    done = {}
    for language in "en", "ru":
        given = command(*options, "--lang", language)
        done[language] = preloaded.run(*given, cwd=place, env=environment(), prepare=run_few_images)
        assert done[language].returncode == 0, done[language].stdout + done[language].stderr
        shutil.copy(place / "coursework" / "quick" / "sheets.html", place / f"{language}.html")
    return done


@pytest.mark.programs
def test_each_step_says_what_it_does_and_how_long_it_took(
    runs: Mapping[str, subprocess.CompletedProcess[str]], place: Path
) -> None:
    said = runs["en"].stdout
    assert said.startswith("A quick run: 2 epochs and 10 rounds. The coursework has 60 and 100.\n5 steps.")
    assert re.findall(r"^\[(\d)/5\] (?!took|skipped)[a-z].*\((?:about|a few)", said, re.MULTILINE) == list("12345")
    assert re.findall(r"^\[(\d)/5\] took (?:\d+ min )?\d+ s$", said, re.MULTILINE) == list("12345")
    folder = place / "coursework" / "quick"
    for name in "sheets.html", "training", "parity.json", "measured.json":
        assert str((folder / name).relative_to(place)) in said
        assert (folder / name).exists()
    assert (folder / "sheets.pdf").exists() == (BROWSER is not None)
    assert list((place / ".benchmarks").rglob("*.json")) == []


@pytest.mark.programs
@pytest.mark.parametrize(
    ("language", "quick", "row"),
    [
        ("en", "2 epochs of training instead of 60; 1,000 training images instead of 50,000; 10 rounds", "epochs"),
        ("ru", "эпох обучения — 2 вместо 60; обучающие изображения — 1\xa0000 вместо 50\xa0000; замеров", "эпохи"),
    ],
)
def test_the_sheets_hold_what_was_trained_evaluated_and_measured(
    runs: Mapping[str, subprocess.CompletedProcess[str]], place: Path, language: str, quick: str, row: str
) -> None:
    assert runs[language].returncode == 0
    page = (place / f"{language}.html").read_text()
    assert f'<html lang="{language}">' in page
    assert page.count(quick) == 5
    assert f'<th scope="row">{row}</th><td>2</td><td>60</td>' in page
    digests = set(re.findall(r"\b[0-9a-f]{12}\b", page.split('id="sheet-5"')[1]))
    assert digests
    assert digests <= set(re.findall(r"\b[0-9a-f]{12}\b", page.split('id="sheet-3"')[1].split('id="sheet-4"')[0]))
    assert page.count('<th scope="row">pytorch</th>') == 2


def test_missing_images_are_not_fetched_unasked(tmp_path: Path) -> None:
    result = run("--out", tmp_path / "out", "--data", tmp_path / "data")
    assert result.exit_code == 2
    assert "add --download to `lenet coursework`, which then fetches it (170 MB)" in result.stderr
    assert not (tmp_path / "data").exists()
    assert list(tmp_path.iterdir()) == [], "no empty folder is left"


def test_a_folder_that_another_coursework_writes_is_refused(tmp_path: Path, noise_directory: Path) -> None:
    with only_writer(tmp_path):
        result = run("--out", tmp_path, "--data", noise_directory, "--accept-unknown-data")
    assert result.exit_code == 2
    assert f"{tmp_path} cannot be locked" in result.stderr
    assert "train LeNet" not in result.stdout


def test_a_folder_whose_name_begins_with_a_dash_is_no_option(
    tmp_path: Path, noise_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        coursework, "_run", lambda steps, _: ran.extend([str(one) for one in step.arguments] for step in steps)
    )
    result = run("--out=-x", "--shipped", "--data", noise_directory, "--accept-unknown-data")
    assert result.exit_code == 0, result.output
    assert any(str(tmp_path / "-x") in word for command in ran for word in command)
    assert not any(word.startswith("-x") for command in ran for word in command)


@pytest.mark.parametrize("kind", ["below a file", "a page that is a folder"])
def test_a_folder_that_cannot_be_written_is_found_before_the_training(
    tmp_path: Path, noise_directory: Path, kind: str
) -> None:
    out = tmp_path / "out"
    if kind == "below a file":
        (tmp_path / "file").touch()
        out = tmp_path / "file" / "out"
    else:
        (out / "sheets.html").mkdir(parents=True)
    result = run("--out", out, "--data", noise_directory, "--accept-unknown-data")
    assert result.exit_code == 2
    assert "cannot write" in result.stderr
    assert "--out" in result.stderr
    assert "[1/5]" not in result.stdout


@pytest.mark.programs
def test_a_failed_step_is_named_and_the_last(place: Path, tmp_path: Path, noise_directory: Path) -> None:
    layout = tmp_path / "data" / "cifar-10-batches-bin"
    shutil.copytree(noise_directory / "cifar-10-batches-bin", layout)
    (layout / "data_batch_3.bin").write_bytes(b"cut")
    out = tmp_path / "out"
    given = command("--quick", "--out", out, "--data", layout.parent, "--accept-unknown-data")
    done = preloaded.run(*given, cwd=place, env=environment())
    assert done.returncode == 2
    assert "data_batch_3.bin" in done.stderr
    assert "[1/5] failed: train LeNet by the coursework's recipe\n  found:  lenet train: exit code 2" in done.stderr
    assert f"coursework --quick --out {out}" in done.stderr
    assert "[2/5]" not in done.stdout
    assert not (out / "parity.json").exists()


@pytest.mark.programs
@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_step_and_says_how_to_go_on(
    place: Path, tmp_path: Path, noise_directory: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    arguments = ("--out", out, "--data", noise_directory, "--accept-unknown-data", "--device=cpu")
    with preloaded.start(*command(*arguments), cwd=place, env=environment(), prepare=run_few_images) as running:
        wait_for(out / "training" / "checkpoint.safetensors")
        os.kill(running.pid, number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.pid, number)  # as from nox beside the terminal
        done = running.finish()
    told = done.stderr
    assert done.returncode == 130
    assert "[1/5] interrupted: train LeNet by the coursework's recipe. To go on: " in told
    assert f"coursework --out {out}" in told
    assert "Traceback" not in told
    from lenet.files import only_writer

    with only_writer(out / "training"):  # the training has ended
        pass


@pytest.mark.programs
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux binds a step to its coursework")
def test_a_killed_coursework_leaves_no_step_running(place: Path, tmp_path: Path, noise_directory: Path) -> None:
    from lenet.files import only_writer

    out = tmp_path / "out"
    arguments = ("--out", out, "--data", noise_directory, "--accept-unknown-data", "--device=cpu")
    with subprocess.Popen(
        [sys.executable, *command(*arguments)],
        cwd=place,
        env=environment(TMPDIR=str(tmp_path)),  # which a killed process leaves something in
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        wait_for(out / "training" / ".lock")  # the training takes the lock as soon as there is one
        time.sleep(0.5)
        process.kill()
    with only_writer(out / "training", wait=20):  # the training has ended
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="the step here is a shell script")
def test_a_killed_step_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    step = ["/bin/sh", "-c", 'mkdir "$TMPDIR/of-a-library" && echo made; kill -KILL $$']
    assert coursework._run_program(step, captured=True) == (b"made\n", -signal.SIGKILL)
    assert list(tmp_path.iterdir()) == []


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 250
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.1)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["coursework", *map(str, arguments)])


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids.add(found.get("id") or "")
        if tag == "a":
            self.targets.add(found.get("href") or "")


@pytest.fixture(params=["en", "ru"])
def sheets(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The sheets of a whole run of six runtimes in both modes."""
    names = ("pytorch", "tensorrt", "tripy", "onnxruntime", "openvino", "fused")
    measured = documents.measurement(tmp_path / "measured.json", backends=names)
    sources = (
        "--run",
        documents.run_directory(tmp_path / "run", 60),
        "--parity",
        documents.parity(tmp_path / "p.json"),
    )
    page = tmp_path / "sheets.html"
    arguments = ["report", measured, "--sheets", *sources, "--lang", request.param, "--out", page]
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return page


def test_the_sheets_alone_are_unfolded_and_hold_no_dead_link(sheets: Path) -> None:
    page = sheets.read_text()
    assert page.count("<details open>") == page.count("<details") == 5
    assert 'id="beyond"' not in page
    assert 'class="quick"' not in page  # 60 epochs, 100 rounds
    links = _Links()
    links.feed(page)
    assert {target for target in links.targets if target.removeprefix("#") not in links.ids} == set()


@pytest.mark.programs
@needs_browser
def test_the_pdf_has_five_pages(sheets: Path) -> None:
    assert BROWSER is not None
    out = sheets.with_suffix(".pdf")
    pdf.print_page(BROWSER, sheets, out)
    sizes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", out.read_bytes())
    assert [(round(float(width)), round(float(height))) for width, height in sizes] == [(1191, 842)] * 5


@pytest.mark.programs
@pytest.mark.skipif(sys.platform == "win32", reason="the browser here is a shell script")
def test_a_browser_that_fails_leaves_the_old_pdf(tmp_path: Path) -> None:
    browser = tmp_path / "chromium"
    browser.write_text("#!/bin/sh\necho no display >&2\nexit 3\n")
    browser.chmod(0o755)
    out = tmp_path / "sheets.pdf"
    out.write_bytes(b"old")
    with pytest.raises(OutputError, match="no display") as caught:
        pdf.print_page(str(browser), tmp_path / "sheets.html", out)
    assert caught.value.found == "exit code 3: no display"
    assert out.read_bytes() == b"old"


@pytest.mark.programs
@pytest.mark.skipif(sys.platform == "win32", reason="the browser here is a shell script")
def test_a_browser_that_writes_no_pdf_leaves_the_old_one(tmp_path: Path) -> None:
    browser = tmp_path / "chromium"
    browser.write_text('#!/bin/sh\nfor one; do case $one in --print-to-pdf=*) : > "${one#*=}" ;; esac; done\n')
    browser.chmod(0o755)
    out = tmp_path / "sheets.pdf"
    out.write_bytes(b"old")
    with pytest.raises(OutputError) as caught:
        pdf.print_page(str(browser), tmp_path / "sheets.html", out)
    assert caught.value.found == "a file of 0 bytes that is no PDF"
    assert out.read_bytes() == b"old"


def test_without_a_browser_the_pdf_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lenet.cli.coursework import _Files, _print

    monkeypatch.setenv("PATH", str(tmp_path))
    files = _Files(tmp_path)
    files.pdf.write_bytes(b"of an earlier run")
    assert not _print(files)
    assert "apt-get install chromium" in capsys.readouterr().out
    assert not files.pdf.exists()
