"""The persistent kernel without a GPU: its source in the emulator, and its host with a thread in the kernel's place."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
import torch

from lenet import parity, weights
from lenet.data.augmentation import normalize
from lenet.errors import BackendError
from lenet.kernels import SPLIT, pack
from lenet.kernels.compiler import compile_variant
from tests.experiments.scripts import load
from tests.kernels.emulation import library
from tests.kernels.test_kernels import SHARED, compiled, emulated, pixels

persistent = load("persistent")

DEVICE_HALF = """
static void host_turn(unsigned* words);
namespace serving { static unsigned* mailbox; static unsigned long long clock; }
inline void store_release(unsigned* word, unsigned value) { *word = value; }
inline unsigned load_acquire(const unsigned* word) { host_turn(serving::mailbox); return *word; }
inline unsigned long long nanoseconds() { return ++serving::clock; }
struct Arrival;
inline void end(Arrival* arrival) { emulator::bulk_copies.erase(arrival); }
"""
"""What persistent.cu leaves to a GPU, in front of the source: the host acts whenever the kernel looks at a word."""


class Emulated(persistent.Told):  # type: ignore[misc,name-defined]
    @property
    def source(self) -> str:
        return DEVICE_HALF + str(persistent.Told.source.fget(self))


def serve(images: np.ndarray, parameters: np.ndarray, *, stops: bool, bulk: bool) -> tuple[np.ndarray, int]:
    """The answers to a request for each image, and the kernel's looks at its clock."""
    variant = Emulated("fp16", 1, False, SHARED["sm_90"], 1, serve=True)
    behind = (Path(__file__).parent / "serving.inc").read_text(encoding="utf-8")
    logits = np.full((len(images), 10), np.nan, np.float32)
    call = library(variant, bulk=bulk, behind=behind).serve
    call.restype = ctypes.c_ulonglong
    looks = call(
        ctypes.c_void_p(images.ctypes.data),
        ctypes.c_size_t(images[0].nbytes),
        ctypes.c_uint(len(images)),
        ctypes.c_bool(stops),
        ctypes.c_void_p(parameters.ctypes.data),
        ctypes.c_size_t(parameters.nbytes),
        ctypes.c_void_p(logits.ctypes.data),
    )
    return logits, looks


@emulated
@pytest.mark.parametrize("bulk", [False, True], ids=["copies", "bulk"])
def test_the_persistent_kernel_answers_each_request(bulk: bool) -> None:
    arrays = weights.load().arrays
    images = normalize(pixels(3))
    found, looks = serve(images.numpy(), pack(arrays, Emulated("fp16", 1, False, 0)), stops=True, bulk=bulk)
    allowed = parity.tolerance(arrays, images, "fp16")
    compared = parity.compare(torch.from_numpy(found), parity.reference(arrays, images), allowed)
    assert compared.right, compared
    assert looks < 50
    _, looks = serve(images.numpy(), pack(arrays, Emulated("fp16", 1, False, 0)), stops=False, bulk=bulk)
    assert 1000 < looks < 1100
