"""The images of a run: those that rows are given, and what is right for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import psutil
import pytest
import torch

from lenet import comparison
from lenet.architecture import STAGES
from lenet.data import cifar10
from lenet.data.cifar10 import Split, SplitName
from lenet.data.synthetic import synthetic
from lenet.errors import DataError
from lenet.parity import ENOUGH_IMAGES, Reference
from lenet.vocabulary import HostMemory, InputType

__all__ = ["Batches", "Splits", "first_images"]

_COUNTS: Final[Mapping[SplitName, int]] = {"train": 50_000, "test": 10_000}


class Splits:
    """The images of CIFAR-10, or synthetic ones.

    Args:
        directory: That holds CIFAR-10; None for synthetic images.
        accept_unknown: Whether files that are not the official ones are used.
    """

    def __init__(self, directory: Path | None, *, accept_unknown: bool) -> None:
        self._directory = directory
        self._accept_unknown = accept_unknown

    def load(self, split: SplitName) -> Split:
        """The images of a split, or as many synthetic ones. A case fails where they cannot be read."""
        if self._directory is None:
            return synthetic(_COUNTS[split])
        try:
            return cifar10.load(split, self._directory, accept_unknown=self._accept_unknown)
        except DataError as error:
            pytest.fail(str(error), pytrace=False)


class Batches:
    """Batches of the test images: the first ones, and again from the first where a batch is larger than the test set.

    Each is made once.

    Args:
        arrays: The weights by parameter name.
        split: The test images.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], split: Split) -> None:
        self._arrays = arrays
        self._split = split
        self._references: dict[tuple[int, InputType], Reference] = {}
        self._hosts: dict[tuple[int, InputType, bool], torch.Tensor] = {}

    def reference(self, batch_size: int, input_type: InputType) -> Reference:
        """The reference of whole batches, one or as many as `ENOUGH_IMAGES` take."""
        key = (batch_size, input_type)
        if key not in self._references:
            count = batch_size * math.ceil(ENOUGH_IMAGES / batch_size)
            _refuse_what_does_not_fit(count)
            images = first_images(self._split, count)
            self._references[key] = comparison.reference_of(self._arrays, images, input_type)
        return self._references[key]

    def on_host(self, batch_size: int, input_type: InputType, host_memory: HostMemory) -> torch.Tensor:
        """A batch in the host's memory, which rows may fill with other images; pinned once for all that want it so."""
        pinned = host_memory is not HostMemory.PAGEABLE
        key = (batch_size, input_type, pinned)
        if key not in self._hosts:
            batch = self.reference(batch_size, input_type).images[:batch_size]
            self._hosts[key] = batch.pin_memory() if pinned else batch.clone()
        return self._hosts[key]


def first_images(split: Split, count: int) -> torch.Tensor:
    """uint8 (count, 3, 32, 32): the first ones, and again from the first where there are fewer."""
    return split.images[torch.arange(count) % len(split)]


def _refuse_what_does_not_fit(batch_size: int) -> None:
    """Fail before the system ends the process.

    The host's memory has a batch's images, and each layer's output for its reference. A GPU refuses by itself.
    """
    elements = sum(np.prod(stage.input_shape) for stage in STAGES)
    needed = int(4 * elements * batch_size)
    free = psutil.virtual_memory().available
    if needed > free:
        pytest.fail(
            f"batch {batch_size:,} does not fit: about {needed:,} bytes, {free:,} free in the host's memory",
            pytrace=False,
        )
