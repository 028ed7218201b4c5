"""The built site's links: each leads to a file of the site and to a part of it; nothing is loaded from another host."""

from __future__ import annotations

import os
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

SITE = Path(os.environ.get("LENET_SITE", Path(__file__).parents[2] / "build" / "docs"))

pytestmark = pytest.mark.skipif(
    not (SITE / "index.html").exists(), reason=f"no site in {SITE}: `nox -s docs` builds it"
)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.parts: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.parts |= {found[name] for name in ("id", "name") if name in found}
        if "href" in found:
            (self.links if tag == "a" else self.loaded).append(found["href"])
        if "src" in found:
            self.loaded.append(found["src"])


@cache
def read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text("utf-8"))
    return page


def test_no_link_is_broken_and_nothing_comes_from_another_host() -> None:
    broken = []
    for path in SITE.rglob("*.html"):
        page = read(path)
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loaded and parts.scheme != "data":
                    broken.append((path.name, link))
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file() or (
                target.suffix == ".html" and parts.fragment and unquote(parts.fragment) not in read(target).parts
            ):
                broken.append((path.name, link))
    assert broken == []


def test_every_page_is_in_the_menu() -> None:
    menu = {urlsplit(link).path for link in read(SITE / "index.html").links}
    pages = {path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html")}
    folders = {"tutorials", "how-to", "reference", "explanation", "results"}
    assert {page for page in pages if page.partition("/")[0] in folders} <= menu
