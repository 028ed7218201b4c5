"""The report as one self-contained HTML page: no script, and no font or picture from elsewhere."""

from __future__ import annotations

from lenet.report.page.rendering import render

__all__ = ["render"]
