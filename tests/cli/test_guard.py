"""What a command's exit code is where things go wrong outside of the project: never a verdict."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from lenet.cli import main
from tests import preloaded
from tests.report import documents

ROOT = Path(__file__).parents[2]
MODULE, SCRIPT = ("-m", "lenet"), ("-c", "from lenet.cli import main; main()")
"""``python -m lenet``, and what the script ``lenet`` does."""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
"""In which Python flushes at its end, as it does by default."""
NO_BASE = ("gate", "--base=no/such")


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    environment = {**ENVIRONMENT, **options.pop("env", {})}  # type: ignore[dict-item]
    return subprocess.run([sys.executable, *arguments], env=environment, check=False, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("name", sorted(main.commands))
def test_an_error_that_nobody_foresaw_is_no_verdict_of_any_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of the blue")

    monkeypatch.setattr(main.commands[name], "invoke", fail)
    monkeypatch.setattr(main.commands[name], "params", [])
    done = CliRunner().invoke(main, [name])
    assert done.exit_code == 70
    assert "Traceback" in done.stderr
    assert "\n  found:  RuntimeError: out of the blue\n  wanted: " in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MemoryError(), 70, "a smaller batch"),
        (FileNotFoundError(2, "No usable temporary directory found"), 70, "mend what the system names"),
        (PermissionError(13, "Permission denied", "/x"), 70, "mend what the system names"),
        (OSError(28, "No space left on device", "/x"), 70, "mend what the system names"),
        (OSError(122, "Disk quota exceeded"), 2, "the output cannot be written"),
        (SystemExit(1), 70, "SystemExit: 1"),
        (EOFError(), 70, "EOFError"),
        (RecursionError("too deep"), 70, "too deep"),
        (BrokenPipeError(32, "Broken pipe"), 2, ""),
        (KeyboardInterrupt(), 130, "lenet: interrupted\n"),
    ],
    ids=repr,
)
def test_each_kind_of_error_has_its_code_and_a_next_step(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("lenet.results.load", fail)
    done = CliRunner().invoke(main, ["results", "a.json"])
    assert done.exit_code == code
    assert said in done.stderr
    assert done.stdout == ""


def test_an_error_that_cannot_be_put_into_words_is_no_verdict(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("lenet.results.load", fail)
    monkeypatch.setattr("traceback.format_exception", fail)
    assert CliRunner().invoke(main, ["results", "a.json"]).exit_code == 70
    assert capfd.readouterr().err == "lenet: failed, and the error cannot be told\n"


def test_an_error_that_cannot_be_printed_either_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("lenet.cli.guard.tell", fail)
    assert CliRunner().invoke(main, ["results", "no such file"]).exit_code == 2
    monkeypatch.setattr("lenet.cli.guard.secure_streams", fail)
    monkeypatch.setattr(os, "write", fail)
    assert CliRunner().invoke(main, ["results", "no such file"]).exit_code == 70


def test_an_interrupt_is_no_verdict_whenever_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def interrupt_at_the_end(*_: object) -> str:
        click.get_current_context().find_root().call_on_close(interrupt)
        return "x"

    monkeypatch.setattr("lenet.results.promote", interrupt_at_the_end)
    assert CliRunner().invoke(main, ["promote", "a.json"]).exit_code == 130
    monkeypatch.setattr("lenet.cli.guard.secure_streams", interrupt)
    assert CliRunner().invoke(main, ["--version"]).exit_code == 130


@pytest.mark.programs
def test_a_reader_that_has_gone_is_no_error_to_tell_of() -> None:
    """As `head` does."""
    reading, stream = os.pipe()
    os.close(reading)
    try:
        done = run("-m", "lenet", "--version", stdout=stream, stderr=subprocess.PIPE)
    finally:
        os.close(stream)
    assert (done.returncode, done.stderr) == (2, b"")


@pytest.mark.programs
def test_what_is_told_comes_before_what_a_library_writes_later() -> None:
    program = "import os\nfrom lenet.terminal import tell\ntell('first')\nos.write(1, b'second')"
    assert run("-c", program, stdout=subprocess.PIPE).stdout == b"first\nsecond"


def test_choices_are_listed_without_tabs() -> None:
    said = CliRunner().invoke(main, ["quantize"]).stderr
    assert said.endswith("Choose from:\n    int8,\n    fp8\n")


def test_a_shell_gets_its_completion() -> None:
    done = CliRunner().invoke(main, [], prog_name="lenet", env={"_LENET_COMPLETE": "bash_source"})
    assert (done.exit_code, done.stderr) == (0, "")
    assert "complete -o nosort -F _lenet_completion lenet" in done.stdout


@pytest.mark.programs
def test_too_little_memory_is_no_verdict(tmp_path: Path) -> None:
    program = (
        "import resource\nfrom lenet import results\nfrom lenet.cli import main\n"
        "results.load = lambda path: bytearray(8 << 30)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\nmain(['results', 'a.json'])"
    )
    done = run("-c", program, capture_output=True, cwd=tmp_path)
    assert done.returncode == 70
    assert b"MemoryError" in done.stderr


@pytest.mark.programs
def test_no_directory_for_temporary_files_is_no_verdict(tmp_path: Path) -> None:
    nothing = "import tempfile\ntempfile.tempdir, tempfile._candidate_tempdir_list = None, lambda: ['/dev/null/x']\n"
    program = f"{nothing}from lenet.cli import main\nmain()"
    nowhere = dict.fromkeys(("HOME", "MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), "/dev/null/x")
    done = preloaded.run("-c", program, "doctor", "pytorch", env=ENVIRONMENT | nowhere, cwd=tmp_path)
    assert done.returncode == 70  # what another process prints is kept in one
    assert "mend what the system names" in done.stderr


@pytest.mark.programs
@pytest.mark.parametrize(
    ("way", "fault"),
    [(MODULE, "full"), (SCRIPT, "full"), (SCRIPT, "closed"), (MODULE, "broken pipe")],
    ids=["module-full", "script-full", "script-closed", "module-broken pipe"],
)
def test_standard_error_that_cannot_be_written_is_no_verdict(way: tuple[str, str], fault: str, tmp_path: Path) -> None:
    """Both streams of `2>&1 | true` are gone, and an error is to be told."""
    if fault == "closed":
        closing = 'exec "$0" "$@" 2>&-'
        command = ["sh", "-c", closing, sys.executable, *way, *NO_BASE]
        done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, check=False)
        assert done.returncode == 2
        return
    if fault == "full":
        if not Path("/dev/full").exists():
            pytest.skip("there is no /dev/full here")
        stream = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, stream = os.pipe()
        os.close(reading)
    try:
        done = run(*way, *NO_BASE, stdout=stream, stderr=stream, cwd=tmp_path)
    finally:
        os.close(stream)
    assert done.returncode == 2


@pytest.mark.programs
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_what_a_library_left_in_a_buffer_is_written_before_the_exit_code_is_settled(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom lenet import results\nfrom lenet.cli import main\n"
        "results.promote = lambda *_: sys.stdout.write('a library says') and 'x'\n"
        "sys.modules['lenet.cli.promote'].tell = lambda *_: None\nmain(['promote', 'a.json'])"
    )
    with Path("/dev/full").open("w") as full:
        done = run("-c", program, stdout=full, stderr=subprocess.PIPE, cwd=tmp_path)
    assert done.returncode == 2  # Python's own at its end is 120
    assert done.stderr.startswith(b"lenet: the output cannot be written\n")


def test_a_file_never_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """Else what a library prints to the descriptor 2 would be written into it."""
    program = (
        "import os\nfrom lenet import results\nfrom lenet.cli import main\n"
        "def promote(*_):\n"
        "    found = os.open('file', os.O_WRONLY | os.O_CREAT)\n"
        "    os.write(2, b'a library says'), os.write(1, b'so')\n"
        "    assert found > 2\n"
        "    return 'x'\n"
        "results.promote = promote\nmain(['promote', 'a.json'])"
    )
    closing = 'exec "$0" "$@" <&- >&- 2>&-'
    command = ["sh", "-c", closing, sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, check=False)
    assert done.returncode == 0
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.programs
@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", b"\\xe9\\u0416"), ("latin-1", b"\xe9\\u0416"), ("utf-8", "éЖ".encode())]
)
def test_a_path_that_standard_output_cannot_encode_is_escaped(encoding: str, shown: bytes, tmp_path: Path) -> None:
    file = documents.measurement(tmp_path / "éЖ.json")
    done = run("-m", "lenet", "results", str(file), capture_output=True, env={"PYTHONIOENCODING": encoding})
    assert done.returncode == 0, done.stderr
    assert shown + b".json" in done.stdout


@pytest.mark.programs
def test_an_error_that_standard_error_cannot_encode_is_escaped() -> None:
    done = run("-m", "lenet", "results", "éЖ.json", stderr=subprocess.PIPE, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 2
    assert b"lenet: \\xe9\\u0416.json cannot be read\n" in done.stderr


@pytest.mark.programs
def test_a_name_that_is_not_utf_8_is_escaped(tmp_path: Path) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.json"))
    documents.measurement(file)
    for environment in ({}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        done = run("-m", "lenet", "results", str(file), capture_output=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert rb"\udcff.json" in done.stdout


@pytest.mark.programs
def test_without_its_dependencies_the_module_reaches_no_verdict(tmp_path: Path) -> None:
    done = run("-S", "-m", "lenet", *NO_BASE, capture_output=True, cwd=tmp_path)
    assert done.returncode == 70
    assert b"No module named" in done.stderr


def test_help_has_the_exit_codes() -> None:
    said = " ".join(CliRunner().invoke(main, ["--help"]).output.split())
    assert all(f" {code}, " in said for code in (0, 1, 2, 3, 70, 130))


def test_help_has_each_command_s_first_sentence_whole() -> None:
    said = " ".join(CliRunner().invoke(main, ["--help"], terminal_width=80).output.split())
    assert "Import, build, run and compare each backend on 32 images, and say what to do next. evaluate" in said


def test_outside_of_the_standalone_mode_errors_are_raised() -> None:
    with pytest.raises(click.UsageError):
        main(["results", "--csv", "--markdown"], standalone_mode=False)
    assert main(["--version"], standalone_mode=False) == 0
