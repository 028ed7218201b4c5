"""Run the kernels of a training step on the CPU, with g++ in the place of NVRTC."""

from __future__ import annotations

import ctypes
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import torch

from lenet.kernels import step
from lenet.training import step_kernels
from lenet.training.step_kernels import Kernels, Launch, Memory
from tests.kernels.emulation import COMPILER, HERE, OPTIONS, _compiler, _standard_headers
from tests.kernels.stored import compiled


@cache
def library() -> ctypes.CDLL:
    """The kernels' source behind the emulator's header, compiled."""
    source = f'#include "emulator.h"\n{step.source()}\n#include "step.inc"\n'
    options = [*OPTIONS, "-DEMULATED_BULK=false", *(f"-D{name}={value}" for name, value in step.MACROS.items())]

    def compile_now(directory: Path) -> bytes:
        (directory / "step.cpp").write_text(source, encoding="utf-8")
        precompiled = ("-include", str(Path(_standard_headers().name) / "standard.h"))
        command = [str(COMPILER), *options, *precompiled, f"-I{HERE}", "-o", "step.so", "step.cpp"]
        subprocess.run(command, cwd=directory, check=True)
        return (directory / "step.so").read_bytes()

    included = [(HERE / name).read_text(encoding="utf-8") for name in ("emulator.h", "step.inc")]
    content = compiled(*_compiler(), [source, *included, *options], compile_now)
    with TemporaryDirectory(prefix="lenet-emulator-") as directory:
        file = Path(directory) / "step.so"
        file.write_bytes(content)
        return ctypes.CDLL(str(file))


def kernels() -> Kernels:
    """As `lenet.training.step_kernels.load` gives them for a GPU, with the emulator in the place of the driver.

    What is not written yet is NaN.
    """
    names = [kernel.name for kernel in (step.AUGMENT, *step.KERNELS)]
    loaded = {name: SimpleNamespace(handle=number) for number, name in enumerate(names, 1)}
    found = step_kernels.launching(library(), loaded, lambda _device: ctypes.c_void_p())

    def bind(memory: Memory) -> Launch:
        memory.scratch.fill_(torch.nan)
        return found.bind(memory)

    return Kernels(found.augment, bind)
