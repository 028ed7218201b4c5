"""Links in the repository's Markdown, as GitHub shows it: each file and each heading exists. The site's build does not
look at README.md and its like, nor at how GitHub would read the pages.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".benchmarks/*.md")])
_LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\(<?([^)\s>]+)>?\)|src(?:set)?=\"([^\"]+)\"")


def prose(page: Path) -> str:
    """A page without its code."""
    text = re.sub(r"^(```|~~~).*?^\1", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"``.*?``|`[^`\n]*`", "code", text)


def targets(page: Path) -> list[str]:
    """Where a page's links and pictures lead."""
    return ["".join(found) for found in _LINK.findall(prose(page))]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    heads = re.findall(r"^#+ +(.*?) *$", page.read_text("utf-8"), flags=re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head) for head in heads]
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in plain}


def test_the_badges_are_of_workflows_that_are_there() -> None:
    named = re.findall(r"actions/workflows/([\w.]+)", (ROOT / "README.md").read_text("utf-8"))
    assert {*named} <= {path.name for path in (ROOT / ".github" / "workflows").glob("*.yml")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_each_link_of_a_page_leads_somewhere(page: Path) -> None:
    tracked = set(subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines())
    broken = []
    for target in targets(page):
        if re.match(r"[a-z]+:|../../actions/", target):  # another site, or GitHub's page of a workflow
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        inside = file.is_relative_to(ROOT) and file.relative_to(ROOT).as_posix() in tracked
        made = file.parent.name == "api"  # headings there come from the code
        if not inside or (anchor and file.suffix == ".md" and not made and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_a_broken_link_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(
        '# A `name`, here\n\n[a](#a-name-here) `[b](no)`\n```\n[c](no)\n```\n[d](gone.md)\n<img src="gone.svg">\n'
    )
    assert targets(tmp_path / "page.md") == ["#a-name-here", "gone.md", "gone.svg"]
    assert anchors(tmp_path / "page.md") == {"a-name-here"}
