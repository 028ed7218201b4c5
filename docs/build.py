"""Build the site: ``nox -s docs -- [--out FOLDER] [--pictures]``. Warnings and broken links fail."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

_DOCS: Final = Path(__file__).parent
sys.path.insert(0, str(_DOCS.parent))

from lenet.errors import LenetError  # noqa: E402 - found by the line above
from lenet.files import make_directory, typed_path  # noqa: E402
from lenet.terminal import tell  # noqa: E402

_SIZES: Final = ((1440, 900), (390, 844))


def main() -> int:
    """Build the site, and say where it is.

    Returns:
        The exit code: 2 if the folder cannot be written, else Sphinx's.
    """
    parser = argparse.ArgumentParser(prog="nox -s docs --", description="Build the documentation.")
    parser.add_argument("--out", default=str(_DOCS.parent / "build" / "docs"), help="folder of the site")
    parser.add_argument("--pictures", action="store_true", help="take the pictures of docs/pictures as well")
    options = parser.parse_args()
    try:
        out = typed_path(options.out, "--out")
        if (out / ".buildinfo").is_file():  # a site of Sphinx, of which old pages would stay
            shutil.rmtree(out, ignore_errors=True)
        make_directory(out)
    except LenetError as error:
        tell(error.told, err=True)
        return error.exit_code

    from sphinx.cmd.build import main as sphinx

    strict = ["--fail-on-warning", "--quiet", "--jobs=auto"]
    with tempfile.TemporaryDirectory() as read:  # pages are read anew each time, so each warning is said each time
        code = sphinx([*strict, "--builder=html", f"--doctree-dir={read}", str(_DOCS), str(out)])
    if code == 0:
        tell(f"the site is {out / 'index.html'}")
        if options.pictures:
            take_pictures(out)
    return int(code)


def take_pictures(site: Path) -> None:
    """Take the first page's pictures, wide and narrow, light and dark, with the system's Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for width, height in _SIZES:
            for scheme in ("light", "dark"):
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                page.goto((site / "index.html").resolve().as_uri())
                picture = _DOCS / "pictures" / f"site-{width}-{scheme}.png"
                page.screenshot(path=picture)
                tell(f"{picture}: {picture.stat().st_size:,} bytes")
        browser.close()


if __name__ == "__main__":
    sys.exit(main())
