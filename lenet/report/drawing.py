"""What charts are drawn with: matplotlib without its user's settings, so that a chart is the same on every machine.

At its import matplotlib reads ``MPLBACKEND``, and fails where that names a backend that is not installed. So it is
imported here alone. The charts are `Figure` objects, which need no backend.
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
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
finally:
    if _named is not None:
        os.environ["MPLBACKEND"] = _named

__all__ = [
    "Axes",
    "Figure",
    "FuncFormatter",
    "LogLocator",
    "MaxNLocator",
    "NullLocator",
    "Rectangle",
    "settings",
]

_DEFAULTS: dict[Any, Any] = {
    name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")
}


def settings(chosen: dict[Any, Any] | None = None) -> AbstractContextManager[None]:
    """A context in which matplotlib has its own defaults and what is chosen, whatever a ``matplotlibrc`` says.

    Draw and save in it: both read the settings.
    """
    return mpl.rc_context(_DEFAULTS | (chosen or {}))
