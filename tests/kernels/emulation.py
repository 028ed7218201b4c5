"""Run a variant of the kernel on the CPU, with g++ in the place of NVRTC."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from lenet.kernels import Variant

HERE = Path(__file__).parent
COMPILER = shutil.which("g++")


@cache
def library(variant: Variant, *, bulk: bool = True) -> ctypes.CDLL:
    """The kernel's source behind the emulator's header, compiled."""
    directory = Path(mkdtemp(prefix="lenet-emulator-"))
    macros = variant.macros | {"EMULATED_BULK": str(bulk).lower()}
    parameters = "const float*" if variant.precision == "fp32" else "const uint4*"
    source = f'#include "emulator.h"\n{variant.source}\nusing Parameters = {parameters};\n#include "harness.inc"\n'
    (directory / "kernel.cpp").write_text(source, encoding="utf-8")
    command = [str(COMPILER), "-std=c++17", "-O1", "-w", "-shared", "-fPIC", f"-I{HERE}"]
    command += [f"-D{name}={value}" for name, value in macros.items()]
    subprocess.run([*command, "-o", "kernel.so", "kernel.cpp"], cwd=directory, check=True)
    loaded = ctypes.CDLL(str(directory / "kernel.so"))
    shutil.rmtree(directory)
    return loaded


def emulate(
    variant: Variant,
    images: np.ndarray,
    parameters: np.ndarray,
    workspace: np.ndarray | None = None,
    *,
    bulk: bool = True,
) -> np.ndarray:
    """Logits (N, 10), float32; NaN where the kernel wrote none.

    The workspace is a new one unless given. Copies are BULK, as from compute capability 9.0 on, unless told otherwise.
    """
    logits = np.zeros((len(images), 10), np.float32)
    if workspace is None:
        workspace = np.zeros((len(images), variant.workspace), np.float32)
    images = np.ascontiguousarray(images)

    def pointer(array: np.ndarray) -> ctypes.c_void_p:
        return ctypes.c_void_p(array.ctypes.data)

    library(variant, bulk=bulk).emulate(
        pointer(images),
        ctypes.c_size_t(images.nbytes),
        pointer(parameters),
        ctypes.c_size_t(parameters.nbytes),
        pointer(logits),
        ctypes.c_int(len(images)),
        ctypes.c_int(variant.blocks(len(images))),
        pointer(workspace),
        ctypes.c_size_t(workspace.nbytes),
    )
    return logits
