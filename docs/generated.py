"""The parts of the reference that come from the code: Sphinx puts them in the place of comments in the pages.

A page asks for one by ``<!-- generated: NAME -->``. No torch here.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import lenet

__all__ = ["api_of", "modules_by_page", "replace", "setup", "suite_options"]

_COMMENT: Final = re.compile(r"<!-- generated: (\S+)(?: (\S+))? -->")
_SOURCE: Final = Path(lenet.__file__).parent
_PAGES: Final = Path(__file__).parent / "reference" / "api"


def replace(text: str) -> str:
    """The source of a page, with what its comments ask for in their place.

    Raises:
        KeyError: A comment asks for something that is not there.
    """
    parts: dict[str, Callable[[str | None], str]] = {"suite-options": lambda _: suite_options(), "api": api_of}
    return _COMMENT.sub(lambda found: parts[found[1]](found[2]), text)


class _Options:
    """Takes options as pytest's parser does, and keeps them."""

    def __init__(self) -> None:
        self.found = argparse.ArgumentParser(add_help=False)

    def getgroup(self, *_names: str) -> _Options:
        return self

    def addoption(self, *names: str, **more: Any) -> None:
        self.found.add_argument(*names, **more)

    def addini(self, *_names: str, **_more: Any) -> None:
        """What pytest reads from a file is no option."""


def suite_options() -> str:
    """The options of ``pytest benchmarks``, group "LeNet", as definitions in reStructuredText."""
    from lenet.suite import options

    parser: Any = _Options()
    importlib.import_module("conftest").pytest_addoption(parser)
    options.add_options(parser)
    lines = ["```{eval-rst}", ".. program:: pytest benchmarks", ""]
    for action in sorted(parser.found._actions, key=lambda one: one.option_strings):  # noqa: SLF001 - has no other name
        takes = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
        if action.choices:
            takes = f" {{{','.join(map(str, action.choices))}}}"
        lines += [f".. option:: {', '.join(action.option_strings)}{takes}", ""]
        lines += [f"   {(action.help or '').replace('%%', '%')}.", ""]
    return "\n".join([*lines, "```"])


def api_of(package: str | None) -> str:
    """Each module of a package with the docstrings of its `__all__`; without a package, those that no page names."""
    files = modules_by_page()[package or ""]
    return "\n".join(_api(name, file) for name, file in files.items())


def _api(name: str, file: Path) -> str:
    tree = ast.parse(file.read_text("utf-8"))
    assigned = [one for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign) for one in _targets(node)]
    defined = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    public: list[str] = next((ast.literal_eval(value) for target, value in assigned if target == "__all__"), [])
    # What a module passes on of another stands where it is defined.
    own = [one for one in public if one in [*defined, *(target for target, _ in assigned)]]
    members = f"   :members: {', '.join(own)}\n" if own else ""
    return f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n{members}```\n"


def _targets(node: ast.Assign | ast.AnnAssign) -> Iterator[tuple[str, ast.expr]]:
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        if isinstance(target, ast.Name) and node.value is not None:
            yield target.id, node.value


def modules_by_page() -> dict[str, dict[str, Path]]:
    """The modules of `lenet` that others import, and their files, by package; "" for those that no page names."""
    named = {found[2] or "" for page in _PAGES.glob("*.md") for found in _COMMENT.finditer(page.read_text("utf-8"))}
    by_page: dict[str, dict[str, Path]] = {name: {} for name in sorted({"", *named})}
    for file in sorted(_SOURCE.rglob("*.py")):
        parts = ("lenet", *file.relative_to(_SOURCE).with_suffix("").parts)
        name = ".".join(parts).removesuffix(".__init__")
        page = ".".join(parts[:2])
        if parts[-1] == "__init__" or "__all__" in file.read_text("utf-8"):  # without it, a script
            by_page[page if page in named else ""][name] = file
    return by_page


def _read(app: Any, _page: str, source: list[str]) -> None:
    from sphinx.ext.autodoc.mock import mock

    with mock(app.config.autodoc_mock_imports):
        source[0] = replace(source[0])


def _complete(_app: Any, page: str, _template: str, context: dict[str, Any], _tree: Any) -> None:
    """Let the keyboard reach what scrolls sideways, and give the menu's headings a level."""
    wide = r'(<div class="table-wrapper[^"]*"|<div class="math notranslate[^"]*"|(?<=<div class="highlight">)<pre)'
    context["body"] = re.sub(wide, r'\1 tabindex="0"', context.get("body", ""))
    if page == "_modules/index":  # its lists lie in lists, not in their items
        inner, end, rest = context["body"].replace("</li>\n<ul>", "\n<ul>").rpartition("</ul>")
        context["body"] = inner.replace("</ul>", "</ul></li>") + end + rest
    menu = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = menu.replace('role="heading"', 'role="heading" aria-level="2"')


def _formula(writer: Any, node: Any) -> None:
    from docutils.nodes import SkipNode
    from docutils.utils.math.latex2mathml import tex2mathml

    as_block = node.tagname == "math_block"
    formula = tex2mathml(node.astext(), as_block=as_block)
    writer.body.append(f'<div class="math notranslate">{formula}</div>' if as_block else formula)
    raise SkipNode


def setup(app: Any) -> dict[str, bool]:
    """What Sphinx calls."""
    app.add_html_math_renderer("mathml", (_formula, None), (_formula, None))
    app.connect("source-read", _read)
    app.connect("html-page-context", _complete, priority=900)  # after furo
    return {"parallel_read_safe": True, "parallel_write_safe": True}
