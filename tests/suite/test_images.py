"""The images that rows are given."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest
import torch

from lenet.architecture import STAGES
from lenet.data.synthetic import synthetic
from lenet.parity import ENOUGH_IMAGES
from lenet.suite.images import Batches
from lenet.vocabulary import HostMemory, InputType
from lenet.weights import Arrays


@pytest.fixture
def batches(arrays: Arrays) -> Batches:
    return Batches(arrays, synthetic(50))


@pytest.mark.parametrize(
    ("batch_size", "count"), [(1, ENOUGH_IMAGES), (5, 35), (ENOUGH_IMAGES, ENOUGH_IMAGES), (70, 70)]
)
def test_a_reference_has_whole_batches_and_enough_images(batches: Batches, batch_size: int, count: int) -> None:
    reference = batches.reference(batch_size, InputType.UINT8)
    assert len(reference.images) == count
    assert torch.equal(reference.images[:count], synthetic(50).images[torch.arange(count) % 50])
    assert batches.reference(batch_size, InputType.UINT8) is reference, "it is made once"
    assert batches.reference(batch_size, InputType.FLOAT32).images.dtype is torch.float32


def test_pageable_memory_is_the_batch_s_own(batches: Batches) -> None:
    host = batches.on_host(5, InputType.UINT8, HostMemory.PAGEABLE)
    reference = batches.reference(5, InputType.UINT8).images
    assert torch.equal(host, reference[:5])
    assert not host.is_pinned()
    assert batches.on_host(5, InputType.UINT8, HostMemory.PAGEABLE) is host
    host.zero_()
    assert batches.reference(5, InputType.UINT8).images[:5].any(), "rows may fill it with other images"


def test_a_batch_beyond_the_host_s_memory_is_refused(batches: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    elements = 0
    for stage in STAGES:
        size = 1
        for length in stage.input_shape:
            size *= length
        elements += size
    needed = 4 * elements * 40
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=needed - 1))
    refusal = f"batch 40 does not fit: about {needed:,} bytes, {needed - 1:,} free in the host's memory"
    with pytest.raises(pytest.fail.Exception, match=refusal):
        batches.reference(40, InputType.UINT8)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=needed))
    batches.reference(40, InputType.UINT8)
