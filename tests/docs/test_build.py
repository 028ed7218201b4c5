"""The build is strict and says what is wrong. Without Sphinx, which `nox -s docs` installs, some tests are skipped."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.permissions import run_with_permissions

DOCS = Path(__file__).parents[2] / "docs"
needs_sphinx = pytest.mark.skipif(
    importlib.util.find_spec("furo") is None, reason="Sphinx and furo are not installed: `nox -s docs` has them"
)


@pytest.mark.programs
def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    done = run_with_permissions(str(DOCS / "build.py"), "--out", str(tmp_path / "locked" / "site"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"cannot write into {tmp_path / 'locked' / 'site'}" in done.stderr
    assert "Traceback" not in done.stderr
    for part in ("found:  Permission denied", "wanted: a directory", "next:   ", "--out"):
        assert part in done.stderr


FAULTS = {
    "[gone](gone.md)": "'gone.md'",
    "[part](index.md#missing)": "'missing'",
    "[source](../lenet/gone.py)": "'../lenet/gone.py'",
    "![picture](gone.png)": "gone.png",
    "```{nothing}\n```": "'nothing'",
    "```{eval-rst}\n.. automodule:: lenet.gone\n```": "'gone' from module 'lenet'",
}
"""By the text of a page: how its warning names it."""


@needs_sphinx
def test_each_thing_that_is_broken_is_named_and_fails_the_build(tmp_path: Path) -> None:
    done = build(small_site(tmp_path, "\n\n".join(FAULTS)), tmp_path / "site")
    assert done.returncode == 1
    assert [name for name in FAULTS.values() if name not in done.stderr] == []
    assert done.stderr.count("WARNING") == len(FAULTS)


@needs_sphinx
def test_a_page_without_a_fault_is_built(tmp_path: Path) -> None:
    docs = small_site(tmp_path, "[source](../lenet/errors.py), $x^2$\n\n| a |\n|---|\n| b |\n")
    done = build(docs, tmp_path / "site")
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "site" / "index.html").read_text("utf-8")
    assert re.search(r'class="table-wrapper[^"]*" tabindex="0"', page)
    assert "<math" in page
    assert "_downloads" in page


@needs_sphinx
def test_a_page_that_was_removed_leaves_the_site(tmp_path: Path) -> None:
    docs = small_site(tmp_path, "```{toctree}\nother\n```")
    (docs / "other.md").write_text("# Another page\n")
    assert build(docs, tmp_path / "site").returncode == 0
    assert (tmp_path / "site" / "other.html").exists()
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "mine.txt").write_text("no part of a site")
    (docs / "other.md").unlink()
    (docs / "index.md").write_text("# A page\n")
    assert build(docs, tmp_path / "site").returncode == 0
    assert not (tmp_path / "site" / "other.html").exists()
    assert build(docs, tmp_path / "beside").returncode == 0
    assert (tmp_path / "beside" / "mine.txt").exists()


def small_site(folder: Path, text: str) -> Path:
    """A site with this project's settings and one page, beside the package."""
    docs = folder / "docs"
    shutil.copytree(DOCS, docs, ignore=shutil.ignore_patterns("*.md", "results", "pictures", "*.png"))
    (folder / "lenet").symlink_to(DOCS.parent / "lenet")
    (docs / "index.md").write_text(f"# A page\n\n{text}\n")
    return docs


def build(docs: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(docs / "build.py"), "--out", str(out)]
    return subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
