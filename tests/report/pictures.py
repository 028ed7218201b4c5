"""Takes the documentation's pictures of the report: ``python -m tests.report.pictures``.

They show the first screen of the shipped campaign's report, on a desktop and on a phone, light and dark. The packages
are those of the group ``browser`` in pyproject.toml, and the browser is the system's.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final

from click.testing import CliRunner

from lenet.cli import main
from lenet.report.pdf import find_browser

ROOT: Final = Path(__file__).parents[2]
CAMPAIGN: Final = max((ROOT / ".benchmarks").glob("*/*_campaign.json"))
SCREENS: Final = {"1440": (1440, 900), "390": (390, 844)}


def take(folder: Path) -> None:
    """Take the pictures into a folder."""
    from playwright.sync_api import sync_playwright

    schemes: tuple[Any, ...] = ("light", "dark")
    with tempfile.TemporaryDirectory() as made, sync_playwright() as playwright:
        page = Path(made) / "report.html"
        done = CliRunner().invoke(main, ["report", "--out", str(page), str(CAMPAIGN)])
        assert done.exit_code == 0, done.output
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        for name, (width, height) in SCREENS.items():
            for scheme in schemes:
                size: Any = {"width": width, "height": height}
                with browser.new_context(viewport=size, color_scheme=scheme) as context:
                    looked = context.new_page()
                    looked.goto(page.as_uri())
                    looked.screenshot(path=folder / f"report-{name}-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    take(ROOT / "docs" / "pictures")
