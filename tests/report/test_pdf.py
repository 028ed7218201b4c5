"""What is said where a page cannot be printed as PDF."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from lenet.errors import OutputError
from lenet.report import pdf

pytestmark = pytest.mark.programs

PRINT = """
import resource, sys
from pathlib import Path
from lenet.errors import OutputError
from lenet.report import pdf

resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # as on a full disk, no byte can be written
try:
    pdf.print_page("true", Path(sys.argv[1]), Path(sys.argv[2]))
except OutputError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the browser here is a shell script")
def test_a_browser_that_hangs_ends_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(pdf, "_LONGEST", 1)
    browser = tmp_path / "chromium"
    pid = tmp_path / "pid"
    browser.write_text(f"#!/bin/sh\nsleep 300 &\necho $! > '{pid}'\nwait\n")
    browser.chmod(0o755)
    with pytest.raises(OutputError, match="no end within 1 s"):
        pdf.print_page(str(browser), tmp_path / "page.html", tmp_path / "page.pdf")
    child = int(pid.read_text())
    with suppress(psutil.NoSuchProcess):
        psutil.Process(child).wait(20)
    assert list(temporary.iterdir()) == []


def test_a_full_temporary_directory_is_told(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<p>")
    done = subprocess.run(
        [sys.executable, "-c", PRINT, page, tmp_path / "page.pdf"], capture_output=True, text=True, check=True
    )
    assert f"true did not print {page}" in done.stdout
    assert "No usable temporary directory" in done.stdout
    assert "open the page in a browser and print it there" in done.stdout
    assert list(tmp_path.iterdir()) == [page]
