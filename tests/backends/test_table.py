from __future__ import annotations

import pytest
import torch

from lenet import backends
from lenet.backends.base import Backend
from lenet.errors import BackendError
from lenet.vocabulary import Precision


@pytest.mark.parametrize("name", backends.names())
def test_every_line_names_a_backend_of_that_name(name: str) -> None:
    backend = backends.load(name)
    assert isinstance(backend, Backend)
    assert backend.name == name
    assert backends.entry(name).install.startswith("pip install ")


def test_an_unknown_name_gets_the_near_ones() -> None:
    with pytest.raises(BackendError, match=r"(?s)there is no backend 'pytroch'.*did you mean pytorch"):
        backends.load("pytroch")
    with pytest.raises(BackendError, match="`lenet backends` lists them"):
        backends.entry("zzz")


def test_the_table_cannot_be_changed() -> None:
    assert isinstance(backends.names(), tuple)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", backends.names())
def test_split_operands_are_the_fused_kernel_s_alone(name: str, device: str) -> None:
    """No framework has a type for them, so none may answer with some other arithmetic."""
    if name == "fused" and device == "cuda":
        assert backends.load(name).executed_precision(Precision.FP16X2, torch.device(device)) == "fp16x2"
        return
    with pytest.raises(BackendError, match=f"{name} does not run fp16x2 on {device}"):
        backends.load(name).executed_precision(Precision.FP16X2, torch.device(device))


@pytest.mark.parametrize("name", backends.names())
def test_probing_an_impossible_device_is_an_answer(name: str) -> None:
    availability = backends.load(name).probe(torch.device("meta"))
    assert not availability
    assert availability.reason
