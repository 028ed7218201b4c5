"""matplotlib without its user's settings, so that a chart is the same on every machine.

Only this module imports matplotlib, which reads ``MPLBACKEND`` at import and fails if that backend is not installed.
The charts are `Figure` objects, which need no backend.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import Any

_named = os.environ.pop("MPLBACKEND", None)
try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator
finally:
    if _named is not None:
        os.environ["MPLBACKEND"] = _named

__all__ = [
    "Axes",
    "Figure",
    "FuncFormatter",
    "MaxNLocator",
    "settings",
]

_DEFAULTS: dict[Any, Any] = {
    name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")
}


def settings(chosen: dict[Any, Any] | None = None) -> AbstractContextManager[None]:
    """A context with matplotlib's own defaults and the given settings, whatever a ``matplotlibrc`` says.

    Both drawing and saving read the settings, so do both in it.
    """
    return mpl.rc_context(_DEFAULTS | (chosen or {}))
