"""Run the kernels of a training step on the CPU, with g++ in the place of NVRTC."""

from __future__ import annotations

import ctypes
from functools import cache
from types import SimpleNamespace

import torch

from lenet.kernels import step
from lenet.training import step_kernels
from lenet.training.step_kernels import Kernels, Launch, Memory
from tests.kernels.emulation import compiled_library


@cache
def library() -> ctypes.CDLL:
    """The kernels' source behind the emulator's header, compiled."""
    source = f'#include "emulator.h"\n{step.source()}\n#include "step.inc"\n'
    return compiled_library(source, ("emulator.h", "step.inc"), step.MACROS | {"EMULATED_BULK": "false"})


def kernels() -> Kernels:
    """As `lenet.training.step_kernels.load` gives them for a GPU, with the emulator in the place of the driver.

    What is not written yet is NaN.
    """
    names = [kernel.name for kernel in (step.AUGMENT, *step.KERNELS)]
    loaded = {name: SimpleNamespace(handle=number) for number, name in enumerate(names, 1)}
    found = step_kernels.launching(library(), loaded, lambda _device: 0)

    def bind(memory: Memory) -> Launch:
        memory.scratch.fill_(torch.nan)
        return found.bind(memory)

    return Kernels(found.augment, bind)
