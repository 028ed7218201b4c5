"""A project's own defaults: the table ``[tool.lenet]`` in the pyproject.toml of the directory from which one works.

A key stands for the option that it names. An option on the command line wins.

- ``backends``: ``--backend`` of the suite
- ``batch-sizes``: ``--batch-size`` of the suite
- ``precision``: ``--precision`` of the suite, of ``lenet evaluate`` and of ``lenet doctor``
- ``gate-tolerance`` and ``gate-harm``: ``--tolerance`` and ``--harm`` of ``lenet gate``
"""

from __future__ import annotations

import math
import reprlib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lenet import backends
from lenet.errors import SettingsError, did_you_mean
from lenet.files import read_regular
from lenet.vocabulary import Precision

__all__ = ["Settings", "read"]

_FILE: Final = "pyproject.toml"
_LARGEST: Final = 2**20


@dataclass(frozen=True, slots=True)
class Settings:
    """What the table says. What it does not say is None.

    Attributes:
        backends: The backends to measure.
        batch_sizes: The batch sizes to measure.
        precision: The arithmetic to ask for.
        gate_tolerance: The largest slow-down that counts as none, as a share.
        gate_harm: The largest slow-down of a row that passes, as a share.
    """

    backends: tuple[str, ...] | None = None
    batch_sizes: tuple[int, ...] | None = None
    precision: Precision | None = None
    gate_tolerance: float | None = None
    gate_harm: float | None = None

    def suite_values(self) -> dict[str, list[Any]]:
        """The values of the suite's options that the table names."""
        values: dict[str, Sequence[Any] | None] = {
            "--backend": self.backends,
            "--batch-size": self.batch_sizes,
            "--precision": None if self.precision is None else [self.precision],
        }
        return {option: list(found) for option, found in values.items() if found is not None}


def read(directory: Path) -> Settings:
    """The settings of a directory. They are empty if it has no such file, or the file no such table.

    Raises:
        SettingsError: The file cannot be read, or a key or a value is unknown.
    """
    path = directory / _FILE
    try:
        document = tomllib.loads(read_regular(path, _LARGEST).decode())
    except FileNotFoundError:
        return Settings()
    except (OSError, ValueError, RecursionError) as error:
        found = error.strerror if isinstance(error, OSError) else None
        raise SettingsError(
            f"{path} cannot be read", found=found or str(error), wanted="a TOML file", hint="mend it, or work elsewhere"
        ) from error
    tool = document.get("tool", {})
    table = tool.get("lenet", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise SettingsError(
            f"tool.lenet in {path} is no table",
            found=repr(table),
            wanted="the table [tool.lenet]",
            hint=f"write it with {', '.join(_KEYS)}",
        )
    return Settings(**{key.replace("-", "_"): _value(path, key, value) for key, value in table.items()})


def _value(path: Path, key: str, value: object) -> Any:
    if key not in _KEYS:
        raise SettingsError(
            f"[tool.lenet] in {path} has an unknown key",
            found=key,
            wanted=", ".join(_KEYS),
            hint=did_you_mean(key, _KEYS) or "remove it",
        )
    convert, wanted, choices = _KEYS[key]
    try:
        return convert(value)
    except (TypeError, ValueError, OverflowError) as error:
        word = error.args[0] if error.args else None
        near = did_you_mean(word if isinstance(word, str) else _shown(word), choices) if error.args else ""
        raise SettingsError(
            f"{key} of [tool.lenet] in {path} has an unknown value",
            found=_shown(value),
            wanted=wanted,
            hint=near or "correct the value",
        ) from error


def _shown(value: object) -> str:
    """A value as Python writes it, cut if it is long."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes no whole number of thousands of digits
        return "a number of thousands of digits"


def _several(one: Callable[[object], Any]) -> Callable[[object], tuple[Any, ...]]:
    """A converter of a list that is not empty."""

    def convert(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list) or not value:
            raise TypeError
        return tuple(map(one, value))

    return convert


def _backend(value: object) -> str:
    if not isinstance(value, str) or value not in backends.names():
        raise ValueError(value)
    return value


def _batch_size(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _LARGEST:
        raise TypeError
    return value


def _precision(value: object) -> Precision:
    if value not in _PRECISIONS:
        raise ValueError(value)
    return Precision(value)


def _share(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise TypeError
    return float(value)


_PRECISIONS: Final = tuple(one.value for one in Precision)
_KEYS: Final[Mapping[str, tuple[Callable[[object], Any], str, tuple[str, ...]]]] = {
    "backends": (_several(_backend), f"a list of {', '.join(backends.names())}", backends.names()),
    "batch-sizes": (_several(_batch_size), "a list of whole numbers of at least 1, such as [1000, 1]", ()),
    "precision": (_precision, ", ".join(_PRECISIONS), _PRECISIONS),
    "gate-tolerance": (_share, "a share of at least 0, such as 0.01", ()),
    "gate-harm": (_share, "a share of at least 0, such as 0.05", ()),
}
"""By the key: what converts its value, what is wanted, and the words of which one may be meant."""
