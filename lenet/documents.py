"""JSON without numbers that JSON does not have, so that every reader of JSON can read it.

Python's own ``json`` writes and reads ``NaN`` and ``Infinity``. This module refuses both. A caller with such a value
writes ``None`` in its place (`finite`), and the reason beside it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

__all__ = ["finite", "parse", "to_json"]


def to_json(document: object, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """A document as JSON.

    Raises:
        ValueError: It holds a number that is not finite.
    """
    return json.dumps(document, indent=indent, sort_keys=sort_keys, allow_nan=False)


def finite(document: Any) -> Any:
    """The same document, with None in place of each number that is not finite."""
    if isinstance(document, float):
        return document if math.isfinite(document) else None
    if isinstance(document, Mapping):
        return {key: finite(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [finite(value) for value in document]
    return document


def parse(text: str) -> Any:
    """A JSON document whose texts and numbers can be written again.

    Raises:
        ValueError: It is no JSON, is nested too deeply, or holds a number that is not finite or a lone surrogate.
    """
    try:
        document = json.loads(text, parse_constant=_refuse, parse_float=_finite_float)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if re.search(r"\\u[dD]", text):
        json.dumps(document, ensure_ascii=False).encode()
    return document


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant}, which is no JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text}, which is too large a number")
    return value
