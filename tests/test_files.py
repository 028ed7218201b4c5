from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lenet.errors import OutputError
from lenet.files import make_directory, only_writer, write_atomically


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
    assert path.stat().st_mode & 0o777 == 0o644


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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere: run as another user")
def test_a_read_only_directory_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        make_directory(tmp_path)


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
