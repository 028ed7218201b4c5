"""How Sphinx builds the site: `nox -s docs`, which calls docs/build.py."""

from __future__ import annotations

import sys
from pathlib import Path

_DOCS = Path(__file__).parent
sys.path[:0] = [str(_DOCS.parent), str(_DOCS)]

from lenet import __version__  # noqa: E402 - found by the line above

project = "lenet-bench"
author = "the lenet-bench developers"
copyright = author  # noqa: A001 - Sphinx's name
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_click",
    "generated",
]
# The tables of docs/results are generated for a terminal as well, and go from the first heading to the third.
# A type that an annotation names alone, such as `Split`, may be any of two classes: it then has no link.
suppress_warnings = ["myst.header", "ref.python"]

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_links_external_new_tab = False

# No page needs torch: what a module imports of these is a stand-in.
autodoc_mock_imports = ["nvtripy", "torch", "torchvision"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"show-inheritance": True}
autodoc_inherit_docstrings = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "code"
python_use_unqualified_type_names = True
viewcode_follow_imported_members = False  # a page shows what its module defines

html_theme = "furo"
html_title = "lenet-bench"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"  # browsers draw it: no script, no request
html_show_copyright = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": False}
