"""The runner that is measured, and the device memory that it takes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from lenet.backends.base import Backend, BuildSpec, Runner
from lenet.errors import UnavailableError
from lenet.measurement.memory import PeakMemory, allocated, free_workspaces

__all__ = ["Builds", "Built"]


@dataclass(slots=True)
class Built:
    """A runner, and what its build took.

    Attributes:
        runner: The runner.
        held_before: Bytes of device memory that were in use before the build.
        build_seconds: Duration of the build, in seconds.
    """

    runner: Runner
    held_before: int
    build_seconds: float = 0.0
    _buffer: torch.Tensor | None = None

    def buffer(self, batch: torch.Tensor) -> torch.Tensor:
        """The buffer for such a batch on the device, filled with zeros.

        All rows of the runner share it, so that a row's memory does not depend on the rows before.
        """
        if self._buffer is None:
            self._buffer = torch.empty_like(batch, device=self.runner.spec.device)
        return self._buffer.zero_()

    def taken(self, peak: PeakMemory, *, zero_copy: bool) -> int | None:
        """The device memory of a row's call in bytes, the runner's own included. None if it cannot be told.

        A zero-copy call does not use the buffer on the device, so that does not count.
        """
        others = self._buffer.nbytes if zero_copy and self._buffer is not None else 0
        return peak.beyond(self.held_before + others)


class Builds:
    """Builds runners, and keeps the last one. The rows of one runner follow each other.

    Args:
        arrays: The weights by parameter name.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = arrays
        self._last: dict[tuple[str, BuildSpec, int], Built] = {}

    def __call__(self, backend: Backend, spec: BuildSpec) -> Built:
        """The runner, built anew unless it is the last one; or a skip if the backend cannot run the network here."""
        key = (backend.name, spec, torch.get_num_threads())  # a library is told the number when it builds
        if key not in self._last:
            self.close()  # else the last runner's memory would count as in use before this one
            free_workspaces(spec.device)
            held, began = allocated(spec.device), time.perf_counter()
            try:
                runner = backend.build(self._arrays, spec)
            except UnavailableError as error:
                pytest.skip(f"{error.found}: {error.hint}")
            self._last[key] = Built(runner, held, time.perf_counter() - began)
        return self._last[key]

    def close(self) -> None:
        """Close the last runner."""
        while self._last:
            self._last.popitem()[1].runner.close()
