"""Prints a page as PDF with the system's Chromium or Chrome."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from lenet.errors import OutputError
from lenet.files import remedy, write_atomically

__all__ = ["NO_BROWSER", "find_browser", "print_page"]

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
NO_BROWSER: Final = "no Chromium or Chrome is on the PATH: on Debian, `apt-get install chromium`"
_ITSELF: Final = "open the page in a browser and print it there: it asks for A3 paper itself"
_LONGEST: Final = 120
"""Seconds."""


def find_browser() -> str | None:
    """The path of the first Chromium or Chrome on the PATH, or None."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


def print_page(browser: str, page: Path, out: Path) -> None:
    """Print a page of HTML on the paper that its style sheet asks for.

    Args:
        browser: A Chromium or Chrome. It gets a profile of its own, so an open window does not disturb it.
        page: The page.
        out: The PDF to write, whole or not at all.

    Raises:
        OutputError: The browser fails or hangs, or the file cannot be written.
    """
    # Chromium refuses to start as root with its sandbox. The page holds no script and loads nothing.
    root = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
    try:
        with tempfile.TemporaryDirectory(prefix="lenet-pdf-", ignore_cleanup_errors=True) as folder:
            made = Path(folder) / "page.pdf"
            plain = ("--headless=new", "--disable-gpu", "--no-pdf-header-footer", f"--user-data-dir={folder}/profile")
            command = [browser, *plain, *root, f"--print-to-pdf={made}", page.resolve().as_uri()]
            code, messages = _run(command)
            if code or not made.exists():
                last = (messages.strip().splitlines() or [""])[-1]
                raise _failed(browser, page, f"exit code {code}: {last}")
            if not (content := made.read_bytes()).startswith(b"%PDF-"):
                raise _failed(browser, page, f"a file of {len(content)} bytes that is no PDF")
    except subprocess.TimeoutExpired:
        raise _failed(browser, page, f"no end within {_LONGEST} s") from None
    except OSError as error:  # of the browser, or of the temporary directory
        found = ": ".join(filter(None, (error.filename, error.strerror or str(error))))
        raise _failed(browser, page, found, remedy(error, _ITSELF)) from error
    write_atomically(out, content)


def _run(command: list[str]) -> tuple[int, str]:
    """Run a browser. If it takes too long, its children end with it, for they write to its profile.

    Returns:
        Its exit code and its messages.

    Raises:
        subprocess.TimeoutExpired: It took too long.
    """
    with subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
    ) as process:
        try:
            _, messages = process.communicate(timeout=_LONGEST)
        except BaseException:
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            raise
    return process.returncode, messages


def _failed(browser: str, page: Path, found: str, hint: str = _ITSELF) -> OutputError:
    return OutputError(
        f"{browser} did not print {page}",
        found=found,
        wanted="a PDF",
        hint=hint,
    )
