"""Every page of the built site in headless Chromium: silent, without requests, readable on a phone, in light and dark.

Skipped where the site is not built (`nox -s docs`), and where there is no Chromium or no playwright (`nox -s browser`
installs playwright); the accessibility check where there is no axe-core.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

AXE = Path(os.environ.get("AXE_CORE", "node_modules/axe-core/axe.min.js"))
SITE = Path(os.environ.get("LENET_SITE", Path(__file__).parents[2] / "build" / "docs"))
ALL = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
# Large pages that one template makes: two of a kind stand for all, where a page takes seconds.
KINDS = ("_modules/", "reference/api/", "results/")
FEW = [page for page in ALL if not page.startswith(KINDS)]
FEW += [page for kind in KINDS for page in [one for one in ALL if one.startswith(kind)][:2]]
PAGES = [page for page in ALL if not page.startswith("_modules/") or page in FEW]

pytestmark = [
    pytest.mark.programs,
    pytest.mark.skipif(not ALL, reason=f"no site in {SITE}: `nox -s docs` builds it"),
]


@pytest.fixture(scope="module", params=["light", "dark"])
def phone(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page as wide as a phone, in one of the colour schemes."""
    with browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=request.param) as context:
        yield context.new_page()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_nothing_asks_no_other_host_and_fits_a_phone(phone: Page, name: str) -> None:
    said: list[str] = []
    asked: list[str] = []
    listeners: list[tuple[Any, Any]] = [
        ("console", lambda message: said.append(message.text)),
        ("pageerror", lambda error: said.append(str(error))),
        ("request", lambda request: asked.append(request.url)),
    ]
    for event, listener in listeners:
        phone.on(event, listener)
    phone.goto((SITE / name).as_uri())
    for event, listener in listeners:
        phone.remove_listener(event, listener)
    assert said == []
    assert [url for url in asked if not url.startswith((SITE.as_uri(), "data:"))] == []
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("name", FEW)
def test_axe_finds_no_serious_violation(phone: Page, name: str) -> None:
    if not AXE.exists():
        pytest.skip(f"no axe-core at {AXE}: `npm install axe-core`, or name its axe.min.js in AXE_CORE")
    phone.goto((SITE / name).as_uri())
    phone.evaluate(AXE.read_text(encoding="utf-8"))
    found: dict[str, Any] = phone.evaluate("axe.run({resultTypes: ['violations']})")
    bad = [one for one in found["violations"] if one["impact"] in {"serious", "critical"}]
    assert [(one["id"], one["nodes"][0]["html"][:120], len(one["nodes"])) for one in bad] == []


def test_the_search_finds_a_page(browser: Browser) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{(SITE / 'search.html').as_uri()}?q=tolerance")
        page.wait_for_selector("#search-results li a")
        assert any("tolerance" in link for link in page.locator("#search-results li a").all_inner_texts())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_browsers_colour_scheme_is_followed(browser: Browser, scheme: Any) -> None:
    with browser.new_context(color_scheme=scheme) as context:
        page = context.new_page()
        page.goto((SITE / "index.html").as_uri())
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(part) for part in color[4:-1].split(",")[:3]) / 765
        assert (brightness > 0.8) == (scheme == "light")
