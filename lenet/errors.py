"""Errors that a person can act on: what was found, what was wanted, what to do next."""

from __future__ import annotations

import difflib
import os
import signal
from collections.abc import Iterable

__all__ = [
    "BackendError",
    "CheckpointError",
    "CourseworkError",
    "DataError",
    "DeviceError",
    "ExportError",
    "GateError",
    "LenetError",
    "OutputError",
    "PrecisionError",
    "QuantizationError",
    "RankError",
    "RecipeError",
    "ResultsError",
    "SettingsError",
    "UnavailableError",
    "WeightsError",
    "did_you_mean",
    "how_it_ended",
]


def did_you_mean(text: str, choices: Iterable[str]) -> str:
    """A "did you mean" question with the choices nearest to an unknown text; empty if none is near."""
    near = difflib.get_close_matches(text, list(choices), n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else ""


def how_it_ended(code: int) -> str:
    """How a process ended, by its exit code as `subprocess` gives it: negative for a signal."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class LenetError(Exception):
    """Base of every error raised on purpose; the command line prints it and exits with 2.

    Args:
        summary: What went wrong, in one line.
        found: What was found.
        wanted: What was wanted instead.
        hint: What to do next.
    """

    exit_code = 2

    def __init__(self, summary: str, *, found: str, wanted: str, hint: str) -> None:
        super().__init__(summary, found, wanted, hint)
        self.summary = summary
        self.found = found
        self.wanted = wanted
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.summary}\n  found:  {self.found}\n  wanted: {self.wanted}\n  next:   {self.hint}"

    @property
    def told(self) -> str:
        """The text that the command line prints. It names the rank if torchrun started the process."""
        rank = f" (rank {os.environ['RANK']})" if "TORCHELASTIC_RUN_ID" in os.environ else ""
        return f"lenet{rank}: {self}"


class DataError(LenetError):
    """CIFAR-10 is missing, damaged, or not what it says it is."""


class WeightsError(LenetError):
    """A weights file cannot be read, or does not fit the architecture."""


class RecipeError(LenetError):
    """A training recipe holds a value that cannot work."""


class CheckpointError(LenetError):
    """A checkpoint is damaged, or belongs to another run."""


class RankError(LenetError):
    """One of the processes that train together cannot continue with the others."""


class DeviceError(LenetError):
    """This machine does not have the device that was asked for."""


class OutputError(LenetError):
    """A file or directory cannot be written."""


class QuantizationError(LenetError):
    """Scales do not fit the network, or cannot be made."""


class ExportError(LenetError):
    """LeNet cannot be exported to another format."""


class BackendError(LenetError):
    """A backend is unknown, cannot run here, or was given input it does not take."""


class UnavailableError(BackendError):
    """A backend cannot run on this machine. ``found`` is the backend's reason."""


class PrecisionError(UnavailableError):
    """A backend does not run a precision. ``found`` says so without the backend's name, alike for several backends."""


class ResultsError(LenetError):
    """A file of measurements is damaged, of another schema, or unlike the others."""


class SettingsError(LenetError):
    """The table ``[tool.lenet]`` in pyproject.toml has an unknown key or value."""


class CourseworkError(LenetError):
    """A step of the coursework failed, or cannot begin."""


class GateError(LenetError):
    """Base and head cannot be measured side by side."""
