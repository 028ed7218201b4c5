"""What is said where a page cannot be printed as PDF."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
