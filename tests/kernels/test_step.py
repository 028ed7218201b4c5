"""The kernels of a training step, compiled by NVRTC; tests/training runs them."""

from __future__ import annotations

import re

import pytest

from lenet.kernels import step
from lenet.kernels.compiler import compile_source, nvrtc_version
from tests import programs
from tests.kernels import stored
from tests.kernels.test_kernels import compiled

REGISTERS, SHARED_BYTES = 64 * 1024, 48 * 1024
"""Of a multiprocessor; of a block that asks for no more (CUDA C++ Programming Guide, table of compute capabilities)."""


@pytest.mark.programs
@compiled
@pytest.mark.parametrize("architecture", ["sm_75", "sm_89", "sm_90"])
def test_it_compiles_and_spills_no_register(architecture: str) -> None:
    def compile_now(_: object) -> bytes:
        return compile_source(step.source(), step.MACROS, architecture).log.encode()

    programs.notice("NVRTC")
    inputs = (step.source(), *map(str, step.MACROS.items()))
    log = stored.compiled(f"NVRTC {nvrtc_version()}", architecture, inputs, compile_now).decode()
    names = re.findall(r"Compiling entry function '(\w+)'", log)
    assert re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores", log) == [("0", "0")] * len(names), log
    registers = dict(zip(names, map(int, re.findall(r"Used (\d+) registers", log)), strict=True))
    for kernel in (step.AUGMENT, *step.KERNELS):
        assert kernel.threads * registers.pop(kernel.name) <= REGISTERS
        assert kernel.shared_bytes <= SHARED_BYTES
    assert not registers
