"""The images of a run, and their reference logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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
from lenet.errors import DataError, WeightsError
from lenet.parity import ENOUGH_IMAGES, Reference
from lenet.quantization import Scales
from lenet.vocabulary import HostMemory, InputType, Precision

__all__ = ["Batches", "Splits", "first_images"]

_COUNTS: Final[Mapping[SplitName, int]] = {"train": 50_000, "test": 10_000}


class Splits:
    """The images of CIFAR-10, or synthetic ones.

    Args:
        directory: The directory with CIFAR-10, or None for synthetic images.
        accept_unknown: Whether to use files that are not the official ones.
    """

    def __init__(self, directory: Path | None, *, accept_unknown: bool) -> None:
        self._directory = directory
        self._accept_unknown = accept_unknown

    def load(self, split: SplitName) -> Split:
        """The images of a split, or as many synthetic ones. The case fails if they cannot be read."""
        if self._directory is None:
            return synthetic(_COUNTS[split])
        try:
            return cifar10.load(split, self._directory, accept_unknown=self._accept_unknown)
        except DataError as error:
            pytest.fail(str(error), pytrace=False)


class Batches:
    """Batches of the test images, from the first on. Each is made once.

    A batch larger than the test set repeats the images from the first.

    Args:
        arrays: The weights by parameter name.
        split: The test images.
        scales: Of a quantised precision's network. None for the shipped ones.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        split: Split,
        scales: Callable[[Precision], Scales | None] = lambda _: None,
    ) -> None:
        self._scales = scales
        self._arrays = arrays
        self._split = split
        self._references: dict[tuple[int, InputType], Reference] = {}
        self._hosts: dict[tuple[int, InputType, bool], torch.Tensor] = {}

    def reference(self, batch_size: int, input_type: InputType) -> Reference:
        """The reference of one batch, or of as many batches as hold `ENOUGH_IMAGES`."""
        key = (batch_size, input_type)
        if key not in self._references:
            count = batch_size * math.ceil(ENOUGH_IMAGES / batch_size)
            _refuse_what_does_not_fit(count)
            images = first_images(self._split, count)
            try:
                self._references[key] = comparison.reference_of(self._arrays, images, input_type, self._scales)
            except WeightsError as error:
                pytest.fail(str(error), pytrace=False)
        return self._references[key]

    def on_host(self, batch_size: int, input_type: InputType, host_memory: HostMemory) -> torch.Tensor:
        """A batch in the host's memory. Rows may overwrite its images. All rows share one pinned and one pageable."""
        pinned = host_memory is not HostMemory.PAGEABLE
        key = (batch_size, input_type, pinned)
        if key not in self._hosts:
            batch = self.reference(batch_size, input_type).images[:batch_size]
            self._hosts[key] = batch.pin_memory() if pinned else batch.clone()
        return self._hosts[key]


def first_images(split: Split, count: int) -> torch.Tensor:
    """The first images, uint8 (count, 3, 32, 32). They repeat from the first if the split has fewer."""
    return split.images[torch.arange(count) % len(split)]


def _refuse_what_does_not_fit(batch_size: int) -> None:
    """Fail the case if the host's memory cannot hold a batch and each layer's output for its reference.

    Without this check the system would kill the process. A GPU refuses by itself.
    """
    elements = sum(np.prod(stage.input_shape) for stage in STAGES)
    needed = int(4 * elements * batch_size)
    free = psutil.virtual_memory().available
    if needed > free:
        pytest.fail(
            f"batch {batch_size:,} does not fit: about {needed:,} bytes, {free:,} free in the host's memory",
            pytrace=False,
        )
