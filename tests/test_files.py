from __future__ import annotations

import errno
import os
import re
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lenet.errors import OutputError
from lenet.files import make_directory, only_writer, prepare_file, write_atomically
from tests.permissions import run_with_permissions

# Writes the file that is named first; says when it is about to rename it, and waits for a line.
HELD = """
import os, sys
from pathlib import Path
from lenet.files import write_atomically

def held(descriptor):
    print(flush=True)
    sys.stdin.readline()

os.fsync = held
write_atomically(Path(sys.argv[1]), b"of the held process")
"""


@contextmanager
def held_writer(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has written its temporary file and not renamed it."""
    command = [sys.executable, "-c", HELD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"a long first content")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_the_whole_content_is_on_the_disk_before_it_has_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append((os.fstat(descriptor).st_size, path.exists())))
    write_atomically(path, b"content")
    assert synced == [(len(b"content"), False)]


def test_a_directory_has_one_writer_at_a_time(tmp_path: Path) -> None:
    with only_writer(tmp_path), pytest.raises(OutputError, match="another process that writes"), only_writer(tmp_path):
        pass
    with only_writer(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_a_full_disk_leaves_the_previous_file(tmp_path: Path) -> None:
    """The file-size limit stands for the full disk: the kernel refuses the write half-way in both."""
    path = tmp_path / "file"
    write_atomically(path, b"previous")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OutputError, match=r"(?s)cannot write .*File too large.*2,000 bytes.*previous file"):
            write_atomically(path, bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"previous"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.programs
def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    script = """
import itertools, sys
from pathlib import Path
from lenet.files import write_atomically
for number in itertools.count():
    write_atomically(Path(sys.argv[1]), bytes([number % 256]) * 1_000_000)
    print(number, flush=True)
"""
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        content = path.read_bytes()
        assert len(content) == 1_000_000
        assert len(set(content)) == 1


def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    with pytest.raises(OutputError, match=r"(?s)cannot write into .*Not a directory.*--out"):
        make_directory(blocker / "run")
    with pytest.raises(OutputError, match="cannot write"):
        write_atomically(tmp_path / "nothing" / "file", b"")


@pytest.mark.programs
@pytest.mark.parametrize("call", ["make_directory(path)", "write_atomically(path / 'file', b'')"])
def test_a_read_only_directory_is_refused(tmp_path: Path, call: str) -> None:
    tmp_path.chmod(0o500)
    script = f"import sys; from lenet.files import *; from pathlib import Path; path = Path(sys.argv[1]); {call}"
    done = run_with_permissions("-c", script, str(tmp_path))
    assert re.search(r"OutputError: cannot write .*\n  found:  Permission denied\n", done.stderr)
    assert "next:   get the right to write there, or choose another directory" in done.stderr
    assert "space" not in done.stderr


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("there")], ids=["pipe", "link"])
def test_what_is_no_regular_file_is_left_alone(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A rename over it would replace it: for root even /dev/null."""
    (tmp_path / "there").write_bytes(b"previous")
    path = tmp_path / "file"
    make(path)
    mode = path.lstat().st_mode
    with pytest.raises(OutputError, match=r"(?s)cannot write .*no regular file.*name another file"):
        write_atomically(path, b"content")
    assert path.lstat().st_mode == mode
    assert (tmp_path / "there").read_bytes() == b"previous"


@pytest.mark.parametrize("umask", [0o077, 0o002, 0o022, 0o027])
def test_a_new_file_has_what_the_umask_leaves_and_a_replaced_one_keeps_its_permissions(
    tmp_path: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "new", b"")
        for permissions in (0o600, 0o640, 0o664, 0o444):
            path = tmp_path / "replaced"
            path.touch()
            path.chmod(permissions)
            write_atomically(path, b"content")
            assert (mode(path), path.read_bytes()) == (permissions, b"content")
            write_atomically(path, b"content", 0o600)
            assert mode(path) == 0o600
    finally:
        os.umask(before)
    assert mode(tmp_path / "new") == 0o666 & ~umask


def test_the_permissions_of_another_file_never_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may write in the directory can put a link into the place of the temporary file."""
    victim = tmp_path / "victim"
    victim.touch(0o600)
    path = tmp_path / "file"
    path.touch(0o644)

    def swap(_: int) -> None:
        (temporary,) = tmp_path.glob(".*")
        temporary.unlink()
        temporary.symlink_to(victim)

    monkeypatch.setattr(os, "fsync", swap)
    write_atomically(path, b"content", 0o644)
    assert mode(victim) == 0o600


@pytest.mark.parametrize("length", [1, 250, 255])
def test_every_name_that_a_file_can_have_is_written(tmp_path: Path, length: int) -> None:
    path = tmp_path / ("x" * length)
    write_atomically(path, b"content")
    assert path.read_bytes() == b"content"


def test_a_name_that_is_too_long_is_to_be_made_shorter(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 256)
    told = r"found:  File name too long\n.*\n  next:   give it a shorter name, or"
    with pytest.raises(OutputError, match=told):
        write_atomically(path, b"")
    with pytest.raises(OutputError, match=told):
        prepare_file(path, "--out")
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space, or choose another directory;"),
        (errno.EDQUOT, "delete files of yours, for `quota` allows no more, or choose another directory;"),
        (errno.EROFS, "choose another directory;"),
        (errno.EIO, "choose another directory;"),
        (errno.EPERM, "get the right to write there, or choose another directory;"),
    ],
)
def test_the_advice_fits_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match=os.strerror(number)) as caught:
        write_atomically(tmp_path / "file", b"content")
    assert caught.value.hint.startswith(advice)
    assert names(tmp_path) == set()


def test_the_command_that_creates_a_missing_directory_works(tmp_path: Path) -> None:
    path = tmp_path / "not here" / "file"
    with pytest.raises(OutputError) as caught:
        write_atomically(path, b"content")
    found = re.search(r"first: (mkdir .*); ", caught.value.hint)
    assert found is not None
    subprocess.run(found.group(1), shell=True, check=True)  # noqa: S602 - it is quoted, and this shows it
    write_atomically(path, b"content")


@pytest.mark.programs
def test_the_next_writer_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    with held_writer(tmp_path / "file"):
        pass
    (left,) = names(tmp_path)
    write_atomically(tmp_path / "another", b"content")
    assert names(tmp_path) == {"another"}
    (tmp_path / left).touch()
    make_directory(tmp_path)
    assert names(tmp_path) == {"another"}


@pytest.mark.programs
def test_what_a_living_writer_writes_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with held_writer(path) as process:
        write_atomically(path, b"of this process")
        make_directory(tmp_path)
        process.communicate("\n", timeout=60)
        assert process.returncode == 0
    assert path.read_bytes() == b"of the held process"
    assert names(tmp_path) == {"file"}


@pytest.mark.programs
def test_many_writers_of_one_directory_do_not_disturb_each_other(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from lenet.files import make_directory, write_atomically
for number in range(200):
    write_atomically(Path(sys.argv[1], str(number % 3)), bytes([number]) * 1000)
    make_directory(Path(sys.argv[1]))
"""
    processes = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(4)]
    assert [process.wait(timeout=120) for process in processes] == [0] * 4
    assert names(tmp_path) == {"0", "1", "2"}
    assert all(len(set(path.read_bytes())) == 1 for path in tmp_path.iterdir())


def test_only_what_a_writer_left_is_removed(tmp_path: Path) -> None:
    others = {".lenet-notes", "mine.partial", ".lenet-directory.partial", ".lenet-link.partial", ".lenet-pipe.partial"}
    (tmp_path / ".lenet-notes").touch()
    (tmp_path / "mine.partial").touch()
    (tmp_path / ".lenet-directory.partial").mkdir()
    (tmp_path / ".lenet-link.partial").symlink_to(tmp_path / "mine.partial")
    os.mkfifo(tmp_path / ".lenet-pipe.partial")
    if os.geteuid() == 0:
        others.add(".lenet-another-user.partial")
        (tmp_path / ".lenet-another-user.partial").touch()
        os.chown(tmp_path / ".lenet-another-user.partial", 65534, 65534)
    write_atomically(tmp_path / "file", b"content")
    assert names(tmp_path) == others | {"file"}


@pytest.mark.programs
def test_a_directory_of_another_writer_is_waited_for(tmp_path: Path) -> None:
    script = "import sys, time; from lenet.files import *; from pathlib import Path\n"
    script += "with only_writer(Path(sys.argv[1])): print(flush=True); time.sleep(0.5)"
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with only_writer(tmp_path, wait=60):
            assert process.wait(timeout=60) == 0


def test_a_lock_that_cannot_be_had_has_advice_that_fits(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    told = r"(?s)cannot be locked.*Is a directory.*choose another directory"
    with pytest.raises(OutputError, match=told) as caught, only_writer(tmp_path):
        pass
    assert "wait" not in caught.value.hint
